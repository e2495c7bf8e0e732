"""Tar archives as data sets: found, indexed, read at random, and rejected where they are damaged."""

import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from cpvt.data import BadImageError, LoadOptions, Transform, load_batches, open_data
from cpvt.data.protocols import find_protocol


def image(number, kind="PNG"):
    """The bytes of an image of one colour, its number."""
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (number, number, number)).save(file, kind)
    return file.getvalue()


def write(path, files):
    """A tar archive of {name: content}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def samples(labels, start=0):
    """Files of WebDataset with these labels, numbered from `start`."""
    files = {}
    for number, label in enumerate(labels, start):
        files |= {f"{number:04}.cls": str(label), f"{number:04}.png": image(number)}
    return files


def read(split):
    """The colour and the class of every image."""
    found = [split.read(index, np.random.default_rng(0)) for index in range(len(split))]
    return [(seen.getpixel((0, 0))[0], label) for seen, label in found]


@pytest.fixture
def root(tmp_path):
    """Shards of unequal sizes: 3 and 1 images in train, 2 in test."""
    write(tmp_path / "train-000000.tar", samples([1, 0, 2]))
    write(tmp_path / "train-000001.tar", samples([0], 3))
    write(tmp_path / "validation-000000.tar", samples([2, 0], 4))
    return tmp_path


TRAIN, TEST = [(0, 1), (1, 0), (2, 2), (3, 0)], [(4, 2), (5, 0)]


@pytest.mark.parametrize(
    "where", ["wds/{}", "{}", "wds/{}/*.tar", "wds/{}/{{train-{{000000..000001}},validation-000000}}.tar"]
)
def test_shards_are_found_by_folder_or_pattern(root, where):
    data = open_data(where.format(root))
    assert (read(data.train), read(data.test)) == (TRAIN, TEST)
    assert (data.class_names, data.name) == (("0", "1", "2"), where.format(root))


def test_a_root_may_be_given_besides_the_name(root):
    assert read(open_data(f"wds/{root.name}", root=str(root.parent)).train) == TRAIN


@pytest.mark.parametrize(
    "name", ["train/{}.tar", "mine-train_{}.tar", "train.{}.tar", "val-{}/train-{}.tar", "a-test-train-{}.tar"]
)
def test_the_split_of_a_shard_is_in_its_name_or_else_its_folder(tmp_path, name):
    write(tmp_path / name.format(0, 0), samples([0, 1]))
    assert read(open_data(f"wds/{tmp_path}").train) == [(0, 0), (1, 1)]
    assert open_data(f"wds/{tmp_path}").test is None


@pytest.mark.parametrize("word", ["validation", "val", "test"])
def test_the_test_split_may_have_several_names(tmp_path, word):
    write(tmp_path / f"{word}-0.tar", samples([0, 1]))
    assert read(open_data(f"wds/{tmp_path}").test) == [(0, 0), (1, 1)]


def test_a_validation_split_next_to_a_test_split_is_a_part_of_its_own(root):
    write(root / "test-000000.tar", samples([1]))
    data = open_data(f"wds/{root}")
    assert (read(data.validation), read(data.test)) == (TEST, [(0, 1)])
    assert data.names == {"train": "train", "test": "test", "validation": "validation"}


def test_shards_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 1):
        write(tmp_path / f"train-{number}.tar", samples([0], number))
    assert [colour for colour, _ in read(open_data(f"wds/{tmp_path}").train)] == [1, 2, 10]


def test_timms_list_of_shards_overrides_their_names(root):
    parts = {
        "train": {"filenames": ["validation-000000.tar", "train-000001.tar"]},
        "test": {"filenames": ["train-000000.tar"]},
    }
    (root / "_info.json").write_text(json.dumps({"splits": parts}))
    with pytest.raises(ValueError, match="test classes that are not in its training split: 1$"):
        open_data(f"wds/{root}")
    parts["test"]["filenames"] = ["train-000001.tar"]
    (root / "_info.json").write_text(json.dumps({"splits": parts}))
    data = open_data(f"wds/{root}")
    assert (read(data.train), read(data.test)) == ([*TEST, (3, 0)], [(3, 0)])
    parts["train"]["filenames"].append("train-000007.tar")
    (root / "_info.json").write_text(json.dumps({"splits": parts}))
    with pytest.raises(ValueError, match=r"do not exist: .*train-000007\.tar"):
        open_data(f"wds/{root}")


@pytest.mark.parametrize("key", ["label", "cls"])
def test_a_class_may_be_in_json(tmp_path, key):
    facts = {"0.json": json.dumps({key: 1, "height": 5}), "0.jpg": image(7, "JPEG"), "1.JPG": image(8, "JPEG")}
    write(tmp_path / "train-0.tar", {**facts, "1.json": json.dumps({key: 0})})
    assert read(open_data(f"wds/{tmp_path}").train) == [(7, 1), (8, 0)]


def test_timms_list_may_name_the_key_of_the_class(tmp_path):
    write(tmp_path / "a.tar", {"0.cls": "0", "0.json": json.dumps({"fine": 3}), "0.png": image(1)})
    split = {"filenames": ["a.tar"], "alt_label": "fine"}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    assert read(open_data(f"wds/{tmp_path}").train) == [(1, 3)]


def test_class_names_of_numbered_classes(tmp_path):
    write(tmp_path / "train-0.tar", {**samples([2, 0]), "0000.cls.txt": "a dog\n", "0001.cls.txt": "cat"})
    assert open_data(f"wds/{tmp_path}").class_names == ("cat", "1", "a dog")


@pytest.mark.parametrize("prefix", ["", "./", "deep/down/"])
def test_plain_archives_have_class_folders(tmp_path, prefix):
    files = {
        f"{prefix}dog/b.v2.png": image(3),
        f"{prefix}cat10/a.png": image(4),
        f"{prefix}cat2/.hidden.png": "no",
        f"{prefix}cat2/d.png": image(7),
    }
    write(tmp_path / "train.tar", {**files, f"{prefix}dog/b.v3.png": image(5), f"{prefix}cat2/notes.txt": "none"})
    write(tmp_path / "val.tar", {f"{prefix}cat10/c.png": image(6)})
    data = open_data(str(tmp_path))
    assert data.class_names == ("cat2", "cat10", "dog")
    assert (sorted(read(data.train)), read(data.test)) == ([(3, 2), (4, 1), (5, 2), (7, 0)], [(6, 1)])


@pytest.mark.parametrize("ending", ["cls", "CLS", "label", "class", "json"])
@pytest.mark.parametrize("names", [("img.v2.0", "img.v2.1"), ("22.05", "22.06"), ("a", "b"), ("a.b", "a.c")])
def test_a_class_belongs_to_the_image_of_the_same_name_whatever_dots_are_in_it(tmp_path, ending, names):
    files = {f"data/{name}.png": image(3 + number) for number, name in enumerate(names)}
    for number, name in enumerate(names):
        files[f"data/{name}.{ending}"] = json.dumps({"class": number}) if ending == "json" else f"{number}\n"
    write(tmp_path / "train.tar", files)
    data = open_data(str(tmp_path))
    assert (data.class_names, read(data.train)) == (("0", "1"), [(3, 0), (4, 1)])


def test_dots_in_names_change_nothing_about_class_folders(tmp_path):
    write(tmp_path / "train.tar", {"a.b/22.05.png": image(3), "a.c/22.06.png": image(4), "a.c/22.07.json": "{}"})
    data = open_data(str(tmp_path))
    assert (data.class_names, read(data.train)) == (("a.b", "a.c"), [(3, 0), (4, 1)])


def test_of_several_files_with_a_class_webdatasets_is_used(tmp_path):
    files = {"a.png": image(3), "a.index": "17", "a.label": "1", "a.cls": "0", "a.fine.cls": "5"}
    write(tmp_path / "train.tar", files)
    assert read(open_data(str(tmp_path)).train) == [(3, 0)]


def test_what_systems_and_programs_keep_in_an_archive_is_no_image(tmp_path):
    hidden = ("cat/.thumbs/b.png", ".cache/c.png", "__MACOSX/cat/._a.png", "cat/@eaDir/a.png", "cat/._a.png", "._a.cls")
    write(tmp_path / "train.tar", {"cat/a.png": image(3), **dict.fromkeys(hidden, "none")})
    write(tmp_path / "._train.tar", {})
    write(tmp_path / "__MACOSX" / "train.tar", {})
    data = open_data(str(tmp_path))
    assert (data.class_names, read(data.train)) == (("cat",), [(3, 0)])


def test_the_image_of_a_sample_is_the_one_without_another_word(tmp_path):
    write(tmp_path / "train-0.tar", {"0.cls": "0", "0.mask.png": image(9), "0.png": image(1)})
    assert read(open_data(f"wds/{tmp_path}").train) == [(1, 0)]


def test_names_of_any_length_and_classes_by_name(tmp_path):
    long = "x" * 150 + "/" + "y" * 120
    files = {f"{long}.png": image(1), f"{long}.cls": "mouse", "b.png": image(2), "b.cls": "ant"}
    write(tmp_path / "train-0.tar", files)
    data = open_data(f"wds/{tmp_path}")
    assert (data.class_names, read(data.train)) == (("ant", "mouse"), [(1, 1), (2, 0)])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": image(0)}, r"'a.png' of '.*' has no class: expected its number in a.cls .* CLASS/a.png"),
        ({"a.cls": "0"}, "sample 'a' of '.*' has a class and no image; known: .*.jpg"),
        (
            {"a.cls": "-1", "a.png": image(0)},
            "class of 'a.png' of '.*' must be a number of 0 or more, or a name; got '-1'",
        ),
        ({"a.cls": "", "a.png": image(0)}, "got ''"),
        ({"a.json": '{"label": [1]}', "a.png": image(0)}, r"got \[1\]"),
        ({"a.json": "{", "a.png": image(0)}, r"the .json next to 'a.png' of '.*' is not JSON"),
        ({"a.cls": "0", "a.png": image(0), "a.jpg": image(0)}, r"several images for one class \(a.png, a.jpg\)"),
        ({**samples([0, "cat"])}, "some classes by number and some by name"),
        (
            {**samples([0]), "cat/1.png": image(0)},
            "only some images of '.*' have a class in a file: '0000.png' has one, 'cat/1.png' has none",
        ),
        (
            {"cat/0.png": image(0), "cat/0.cls": "cat", "dog/22.05.png": image(1)},
            "'cat/0.png' has one, 'dog/22.05.png' has none; give every image one",
        ),
        ({"data/a.v1.png": image(0), "data/a.v2.cls": "0"}, "sample 'data/a.v2' of '.*' has a class and no image"),
        ({"a.cls": "0", "a.png": image(0), "a.v2.png": image(0)}, r"several images for one class \(a.png, a.v2.png\)"),
        ({"data/a.png": image(0), "data/a.index": "7"}, "'data/a.png' of '.*' has .index next to it, which may be its"),
        (
            {"cat/a.png": image(0), "cat/more/b.png": image(1)},
            "images in 'cat' and in 'cat/more', and the folder of an image is its class",
        ),
        ({"cat/left/a.png": image(0), "dog/left/b.png": image(1)}, "images in 'cat/left' and in 'dog/left'"),
        ({"notes.txt": "nothing"}, r"there are no images in '.*train-0.tar' .* to train of"),
    ],
)
def test_archives_without_a_data_set_are_errors_that_say_what_is_expected(tmp_path, files, message):
    write(tmp_path / "train-0.tar", files)
    with pytest.raises(ValueError, match=message):
        open_data(f"wds/{tmp_path}")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_to_an_image_is_an_error_that_says_how_to_write_without(tmp_path, kind):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        info = tarfile.TarInfo("cat/1.png")
        info.type, info.linkname = kind, "cat/0.png"
        archive.addfile(info)
    with pytest.raises(ValueError, match="'cat/1.png' of '.*' is a link to cat/0.png.*--dereference"):
        open_data(f"wds/{tmp_path}")


def test_where_there_are_no_shards_an_error_says_what_was_expected_and_what_is_there(tmp_path):
    write(tmp_path / "part-0.tar", samples([0]))
    with pytest.raises(ValueError, match=r"looked for train\*.tar and validation.*_info.json; .* holds part-0.tar$"):
        open_data(f"wds/{tmp_path}")
    with pytest.raises(ValueError, match=r"nowhere' holds nothing$"):
        open_data(f"wds/{tmp_path / 'nowhere'}/*.tar")
    with pytest.raises(ValueError, match=r"do not exist: .*train-1.tar"):
        open_data(f"wds/{tmp_path}/train-{{1..2}}.tar")


def damaged(path, how):
    """The archive, cut off or overwritten."""
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    starts = {"cut in a file": last.offset_data + 20, "cut in a header": last.offset + 20, "cut between": last.offset}
    if how in starts:
        path.write_bytes(content[: starts[how]])
    elif how == "overwritten":
        path.write_bytes(content[: last.offset] + b"\xff" * 512 + content[last.offset + 512 :])
    else:
        path.write_bytes({"empty": b"", "no archive": b"x" * 2000}[how])


@pytest.mark.parametrize(
    ("how", "whole"),
    [
        ("cut in a file", 6), ("cut in a header", 5), ("cut between", 5),
        ("overwritten", 5), ("empty", 0), ("no archive", 0),
    ],
)  # fmt: skip
def test_a_damaged_shard_is_an_error_that_names_it(root, how, whole):
    damaged(root / "train-000000.tar", how)
    with pytest.raises(ValueError, match=rf"train-000000.tar' is damaged or cut off: {whole} files .*; fetch or write"):
        open_data(f"wds/{root}")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_does_not_decode_is_named_with_its_shard_and_can_be_skipped(root, workers):
    write(root / "train-000001.tar", {**samples([0], 3), "9.cls": "1", "9.png": image(9)[:45]})
    data = open_data(f"wds/{root}")
    preprocessing = find_protocol("canvas")(Transform(data.mean, data.std), (5, 6))
    with pytest.raises(BadImageError, match=r"^image '9.png of .*train-000001.tar' does not decode"):
        list(load_batches(data.train, preprocessing, 2, LoadOptions(workers=workers)))
    batches = list(load_batches(data.train, preprocessing, 2, LoadOptions(on_bad_image="skip", workers=workers)))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [1, 0, 2, 0]
    assert sum(len(batch.skipped) for batch in batches) == 1


def test_an_image_smaller_than_a_patch_is_named_with_its_shard(root):
    data = open_data(f"wds/{root}")
    preprocessing = find_protocol("native")(Transform(data.mean, data.std), (9, 9))
    with pytest.raises(BadImageError, match=r"^image '0003.png of .*train-000001.tar' has 5x6 pixels, and the model"):
        list(load_batches(data.train, preprocessing, 1, LoadOptions(smallest_side=6, stack=False), order=[3]))


def test_workers_read_the_same(root):
    data = open_data(f"wds/{root}")
    preprocessing = find_protocol("crop")(Transform(data.mean, data.std), (3, 3))
    alone, together = (
        list(load_batches(data.train, preprocessing, 3, LoadOptions(workers=workers))) for workers in (0, 2)
    )
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.images, other.images)


def test_a_split_goes_to_another_process_without_open_files(root):
    split = open_data(f"wds/{root}").train
    assert read(pickle.loads(pickle.dumps(split))) == TRAIN
