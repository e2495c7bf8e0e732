"""Data sets by folder and by name, and the batches read from them."""

import io
import os
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cpvt.data import (
    BadImageError,
    DataSet,
    LoadOptions,
    Transform,
    describe_datasets,
    load_batches,
    open_data,
    pixel_limit,
)
from cpvt.data.base import natural_key
from cpvt.data.datasets import TABLE
from cpvt.data.protocols import find_protocol
from cpvt.training.journal import describe_data


def rng():
    return np.random.default_rng(0)


def labels(split):
    return [split.read(index, rng())[1] for index in range(len(split))]


def preprocessing_of(data: DataSet, kind="canvas", sides=(6, 8)):
    return find_protocol(kind)(Transform(data.mean, data.std), sides)


@pytest.mark.parametrize("test_folder", ["test", "val", "validation", "valid"])
def test_a_folder_holds_class_folders_of_two_splits(image_folder, test_folder):
    root = image_folder({"train/cat": 2, "train/dog": 1, f"{test_folder}/cat": 1, f"{test_folder}/dog": 2})
    data = open_data(str(root))
    assert data.class_names == ("cat", "dog")
    assert labels(data.train) == [0, 0, 1]
    assert labels(data.test) == [0, 1, 1]
    assert data.names["test"] == test_folder
    assert data.validation is None


@pytest.mark.parametrize("word", ["val", "validation", "valid"])
def test_a_validation_folder_next_to_a_test_folder_is_a_part_of_its_own(image_folder, word):
    root = image_folder({f"{part}/{name}": 1 + (name == part) for part in ("train", "test", word) for name in "ab"})
    shutil.rmtree(root / word / "a")
    data = open_data(str(root))
    assert (labels(data.test), labels(data.validation)) == ([0, 1], [1])
    assert data.names == {"train": "train", "test": "test", "validation": word}
    assert data.during_training.test is data.validation
    (root / word / "emu").mkdir()
    shutil.copy(root / "test" / "a" / "0.png", root / word / "emu")
    with pytest.raises(ValueError, match=f"{word}' has classes that '.*train' lacks: emu"):
        open_data(str(root))


@pytest.mark.parametrize("name", ["eval", "testing", "dev", "Test"])
def test_a_folder_that_may_be_meant_to_test_is_named(image_folder, name):
    data = open_data(str(image_folder({"train/cat": 1, "train/dog": 1, f"{name}/dog": 1, "notes/2020": 1})))
    assert data.unread == (name,)
    assert data.lacks_test.endswith(f"; {name}/ is not read: rename the folder of the test images to test/")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_images_of_a_folder_are_those_of_its_files(image_folder, mode):
    root = image_folder({"train/cat": 2})
    data = open_data(str(root), mode=mode)
    expected = Image.open(root / "train" / "cat" / "1.png").convert(mode)
    assert np.array_equal(data.train.read(1, rng())[0], expected)
    assert (data.mode, len(data.mean), len(data.std)) == (mode, len(mode), len(mode))


@pytest.mark.parametrize(("there", "absent"), [("train", "test"), ("test", "train")])
def test_either_split_of_a_folder_may_be_absent(image_folder, there, absent):
    data = open_data(str(image_folder({f"{there}/cat": 1, f"{there}/dog": 1})))
    assert labels(getattr(data, there)) == [0, 1]
    assert getattr(data, absent) is None


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_name_of_a_folder_is_the_one_asked_for(image_folder, slash):
    # rows carry this name, and a comparison resumes by it
    asked = str(image_folder({"train/cat": 1})) + slash
    assert open_data(asked).name == asked


def test_numbered_classes_are_in_the_order_of_their_numbers(image_folder):
    data = open_data(str(image_folder({"train/2": 1, "train/10": 1, "train/1": 1})))
    assert data.class_names == ("1", "2", "10")


def split_folders(make, kind, counts):
    """A folder of images, opened by either source; torchvision names the test split val."""
    root = make(counts)
    return lambda: open_data(str(root)) if kind == "folder" else open_data("torch/image_folder", str(root))


@pytest.mark.parametrize("kind", ["folder", "torch/image_folder"])
def test_classes_keep_their_number_where_the_test_split_lacks_some(image_folder, kind):
    opened = split_folders(
        image_folder, kind, {"train/ant": 1, "train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1}
    )()
    assert opened.class_names == ("ant", "cat", "dog")
    assert labels(opened.train) == [0, 1, 2]
    assert labels(opened.test) == [1, 2]


@pytest.mark.parametrize("kind", ["folder", "torch/image_folder"])
def test_a_class_that_was_not_trained_is_an_error_that_names_it(image_folder, kind):
    opened = split_folders(image_folder, kind, {"train/cat": 1, "val/cat": 1, "val/emu": 1, "val/yak": 1})
    with pytest.raises(ValueError, match=r"val' has classes that '.*train' lacks: emu, yak"):
        opened()


def test_a_folder_without_images_is_an_error_that_says_what_is_expected(image_folder):
    root = image_folder({"train/cat": 0, "train/dog": 1})
    (root / "train" / "cat" / "notes.txt").write_text("none yet")
    with pytest.raises(ValueError, match=r"no images in '.*train.cat': expected class folders .*CLASS/name\.jpg"):
        open_data(str(root))
    empty = image_folder({"test/cat": 1}, root.parent / "empty")
    (empty / "train" / ".cache").mkdir(parents=True)  # hidden, so no class
    with pytest.raises(ValueError, match=r"no images in '.*train': expected"):
        open_data(str(empty))


def test_every_image_format_is_found_also_in_deeper_folders(image_folder):
    root = image_folder({"train/cat": 1, "train/dog/left": 2, "test/cat": 1})
    for name in ("a.webp", "b.TIF", "c.gif", "d.jpeg"):
        Image.new("RGB", (4, 4)).save(root / "train" / "cat" / name)
    data = open_data(str(root))
    assert data.class_names == ("cat", "dog")
    assert labels(data.train) == [0] * 5 + [1] * 2


def test_an_image_outside_any_class_is_an_error(image_folder):
    root = image_folder({"train/cat": 1})
    Image.new("RGB", (4, 4)).save(root / "train" / "loose.png")
    with pytest.raises(ValueError, match=r"outside any class \(loose.png, ...\): expected class folders"):
        open_data(str(root))


def test_an_image_that_a_set_opened_itself_is_rotated_upright_too():
    from cpvt.data.datasets.timm_sets import IndexedSplit

    image = Image.new("RGB", (20, 10))
    image.getexif()[0x0112] = 6
    assert IndexedSplit([(image, 1)], "set", "RGB").read(0, np.random.default_rng(0))[0].size == (10, 20)


def test_a_folder_without_parts_is_an_error_that_says_what_is_expected(image_folder):
    with pytest.raises(
        ValueError, match=r"holds neither train/ nor test/ \(or val/\); expected .*/train/CLASS/.* found cat\."
    ):
        open_data(str(image_folder({"cat": 1, ".cache": 1})))


def test_of_class_folders_alone_a_fifth_of_each_class_is_tested_and_new_images_move_no_other(image_folder):
    root = image_folder({"cat": 60, "dog": 40, "bird/left": 2, ".cache": 1})

    def read():
        data = open_data(str(root))
        return data, set(data.train.paths), set(data.test.paths)

    data, train, test = read()
    assert data.class_names == ("bird", "cat", "dog")
    assert not train & test
    assert len(train | test) == 102
    assert labels(data.test).count(0) == labels(data.train).count(0) == 1
    assert 14 <= len(test) <= 28
    said = f"{len(test)} to test (about a fifth of each class, held out, for want of a test part"
    assert said in describe_data(data, len(train))
    for name in ("cat", "dog"):
        for number in range(100, 130):
            Image.new("RGB", (4, 4)).save(root / name / f"{number}.png")
    _, more_train, more_test = read()
    assert train < more_train
    assert test < more_test
    everything = data.whole()
    assert sorted(everything.test.name(number) for number in range(102)) == sorted(map(str, train | test))
    assert everything.test.read(101, np.random.default_rng(0))[1] == data.test.labels[-1]
    assert everything.whole() is everything


def test_a_class_folder_with_one_image_cannot_be_split(image_folder):
    with pytest.raises(ValueError, match=r"cat' holds one image; a class needs two, one to train and one to test"):
        open_data(str(image_folder({"cat": 1, "dog": 5})))


@pytest.mark.parametrize("names", [
    ("Train", "Test"), ("training", "testing"), ("images", "labels"), ("fold1", "fold2"), ("train_set", "eval"),
    ("first/cat", "second/cat"),
])  # fmt: skip
def test_parts_by_other_names_are_not_taken_for_classes(image_folder, names):
    with pytest.raises(ValueError, match=r"holds neither train/ nor test/ \(or val/\); expected .* but found"):
        open_data(str(image_folder(dict.fromkeys(names, 3))))


def test_a_folder_of_data_sets_is_not_taken_for_classes(image_folder):
    root = image_folder({"pets/train/cat": 1, "pets/test/cat": 1, "other/train/dog": 1})
    with pytest.raises(ValueError, match=r"found other, pets\. Did you mean '.*other'\?"):
        open_data(str(root))


def test_an_unknown_name_is_an_error_that_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match="unknown data set '.*nowhere'") as error:
        open_data(str(tmp_path / "nowhere"))
    for known in ("digits:", "PATH:", "torch/NAME:", "hfds/NAME:", "tfds/NAME:", "wds/PATH:"):
        assert known in str(error.value)


def write_idx(path, values):
    """The format of MNIST's files: a magic number with the count of axes, the axes, the bytes."""
    header = struct.pack(f">{1 + values.ndim}i", 0x0800 + values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    """Three training and two test images, where torchvision expects MNIST."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 3), ("t10k", 2)):
        images = np.arange(count * 28 * 28).reshape(count, 28, 28) % 251
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) + 4)
    return tmp_path


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_torchvision_set_is_opened_by_name(mnist, mode):
    data = open_data("torch/mnist", root=str(mnist), mode=mode)
    assert (data.name, len(data.class_names)) == ("torch/mnist", 10)
    assert (labels(data.train), labels(data.test)) == ([4, 5, 6], [4, 5])
    image = data.train.read(2, rng())[0]
    assert (image.mode, image.size) == (mode, (28, 28))
    expected = (np.arange(28 * 28) + 2 * 28 * 28).reshape(28, 28) % 251
    assert np.array_equal(image.getchannel(0), expected)


@pytest.mark.parametrize("name", ["torch/cifr10", "torch/mnist"])
@pytest.mark.parametrize("with_root", [True, False])
def test_a_named_set_that_is_not_there_is_an_error_that_names_it(tmp_path, name, with_root):
    with pytest.raises(ValueError, match=name):
        open_data(name, root=str(tmp_path) if with_root else None)


def test_a_missing_package_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delitem(sys.modules, "timm.data.readers.reader_hfds", raising=False)
    with pytest.raises(ValueError, match="'hfds/someone/images' needs a package .*: pip install datasets"):
        open_data("hfds/someone/images")


def test_torchvision_folders_are_decoded_like_all_others(image_folder):
    root = image_folder({"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1})
    Image.new("LA", (4, 4), (0, 0)).save(root / "val" / "dog" / "0.png")  # all transparent
    (root / "val" / "cat" / "0.png").write_text("not an image")
    data = open_data("torch/image_folder", root=str(root))
    assert data.class_names == ("cat", "dog")
    assert labels(data.train) == [0, 1]
    assert np.asarray(data.test.read(1, rng())[0]).min() == 255
    with pytest.raises(BadImageError, match=r"cat.0\.png' does not decode"):
        data.test.read(0, rng())


@pytest.fixture
def one_bad(image_folder):
    """Five test images; the fourth, dog/0.png, does not decode."""
    root = image_folder({"train/cat": 1, "train/dog": 1, "test/cat": 3, "test/dog": 2})
    (root / "test" / "dog" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return open_data(str(root))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_does_not_decode_is_an_error_that_names_it(one_bad, workers):
    with pytest.raises(BadImageError, match=r"^image '.*test.dog.0\.png' does not decode"):
        list(load_batches(one_bad.test, preprocessing_of(one_bad), 2, LoadOptions(workers=workers)))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_an_image_that_does_not_decode_is_skipped_and_named_where_asked(one_bad, batch_size):
    batches = list(load_batches(one_bad.test, preprocessing_of(one_bad), batch_size, LoadOptions(on_bad_image="skip")))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 0, 0, 1]
    assert sum(len(batch.images) for batch in batches) == 4
    (message,) = [message for batch in batches for message in batch.skipped]
    assert str(Path("test", "dog", "0.png")) in message


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_smaller_than_a_patch_is_named_by_its_file(one_bad, workers):
    options = LoadOptions(smallest_side=7, stack=False, workers=workers)
    with pytest.raises(BadImageError, match=r"^image '.*test.cat.0\.png' has 6x8 pixels, and the model takes 7x7"):
        list(load_batches(one_bad.test, preprocessing_of(one_bad, "native", (9, 9)), 2, options))


def test_on_bad_image_is_error_or_skip(one_bad):
    with pytest.raises(ValueError, match="must be 'error' or 'skip'; got 'ignore'"):
        list(load_batches(one_bad.test, preprocessing_of(one_bad), 2, LoadOptions(on_bad_image="ignore")))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_link_to_an_image_that_is_gone_is_named_or_skipped(image_folder, workers):
    root = image_folder({"train/cat": 2, "train/dog": 1})
    (root / "train" / "cat" / "1.png").unlink()
    (root / "train" / "cat" / "1.png").symlink_to(root / "gone.png")
    (root / "train" / "dog" / "more").symlink_to(root / "gone")
    data = open_data(str(root))
    with pytest.raises(
        BadImageError, match=r"^image '.*cat.1\.png' is a link to '.*gone.png', which does not exist; .*sk"
    ):
        list(load_batches(data.train, preprocessing_of(data), 2, LoadOptions(workers=workers)))
    options = LoadOptions(workers=workers, on_bad_image="skip")
    (batch,) = load_batches(data.train, preprocessing_of(data), 4, options)
    assert batch.labels.tolist() == [0, 1]
    assert [message.split(";")[0] for message in batch.skipped] == [
        f"image '{root}/train/{name}' is a link to '{root}/{target}', which does not exist"
        for name, target in (("cat/1.png", "gone.png"), ("dog/more", "gone"))
    ]


def test_a_link_to_a_class_folder_that_is_gone_is_an_error(image_folder):
    root = image_folder({"train/cat": 1, "train/dog": 1})
    (root / "train" / "emu").symlink_to("elsewhere/emu")
    with pytest.raises(
        ValueError, match=r"train/emu' is a link to 'elsewhere/emu', which does not exist: fix or remove"
    ):
        open_data(str(root))


def test_linked_folders_are_read_and_loops_end(image_folder):
    root = image_folder({"train/cat": 1, "train/dog": 2, "elsewhere/cats/deep": 2})
    (root / "train" / "cat" / "more").symlink_to(root / "elsewhere" / "cats")
    (root / "train" / "emu").symlink_to(root / "elsewhere" / "cats" / "deep")
    (root / "elsewhere" / "cats" / "back").symlink_to(root / "train" / "cat")
    (root / "elsewhere" / "cats" / "deep" / "self").symlink_to(".")
    (root / "train" / "dog" / "up").symlink_to("..")
    (root / "train" / "dog" / "again").symlink_to(root / "train" / "dog")
    data = open_data(str(root))
    assert data.class_names == ("cat", "dog", "emu")
    assert labels(data.train) == [0, 0, 0, 1, 1, 2, 2]
    names = [str(path.relative_to(root / "train" / "cat")) for path in data.train.paths[:3]]
    assert names == ["0.png", "more/deep/0.png", "more/deep/1.png"]


def test_hidden_and_false_images_in_class_folders_are_left_out(image_folder, caplog):
    caplog.set_level("INFO", "cpvt")
    root = image_folder({"train/cat": 1, "train/dog": 1, "train/__MACOSX": 1, "train/.ipynb_checkpoints": 1})
    hidden = (".ipynb_checkpoints/0-checkpoint.png", "@eaDir/0.png", "deep/.thumbs/0.png", "__MACOSX/0.png")
    for name in (*hidden, "._0.png", "deep/._1.jpg", "a.h5", "a.mpg", "a.eps", "a.grib", "a.wmf", "a.txt", "README"):
        path = root / "train" / "cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((root / "train" / "dog" / "0.png").read_bytes())
    (root / "train" / "cat" / "album.jpg").mkdir()
    Image.new("RGB", (4, 4)).save(root / "train" / "cat" / "album.jpg" / "1.png")
    Image.new("RGB", (4, 4)).save(root / "train" / "._loose.png", "PNG")
    data = open_data(str(root))
    assert data.class_names == ("cat", "dog")
    assert [str(path.relative_to(root / "train")) for path in data.train.paths] == [
        "cat/0.png", "cat/album.jpg/1.png", "dog/0.png",
    ]  # fmt: skip
    (message,) = caplog.messages
    what, kinds = message.split(": ")
    assert what == f"left out of '{root}/train', as not of a format that is read"
    assert set(kinds.split(", ")) == {
        *(f"1 .{ending}" for ending in ("h5", "mpg", "eps", "grib", "wmf", "txt")), "1 without an ending",
    }  # fmt: skip


def test_a_folder_that_cannot_be_read_is_an_error_that_names_it(image_folder, monkeypatch):
    root, scandir = image_folder({"train/cat/closed": 1}), os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ValueError, match=r"folder '.*cat/closed' cannot be read \(Permission denied\)"):
        open_data(str(root))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["resized-crop", "crop", "resize", "native"])
def test_the_limit_of_pixels_holds_in_every_process_and_without_a_warning(image_folder, kind, workers, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # PIL's own would refuse to crop the images of 48 pixels, too
    data = open_data(str(image_folder({"train/cat": 2})))
    Image.new("RGB", (7, 7)).save(data.train.paths[1])
    preprocessing = find_protocol(kind)(Transform(data.mean, data.std), (8, 8))
    options = LoadOptions(max_image_pixels=48, workers=workers, stack=False)
    with pytest.raises(
        BadImageError, match=r"1\.png' has 49 pixels, and 48 are allowed; raise --max-image-pixels, .*skip"
    ):
        list(load_batches(data.train, preprocessing, 2, options))
    (batch,) = load_batches(data.train, preprocessing, 2, replace(options, on_bad_image="skip"))
    assert (len(batch.images), len(batch.skipped)) == (1, 1)
    (batch,) = load_batches(data.train, preprocessing, 2, replace(options, max_image_pixels=49))
    assert len(batch.images) == 2


def test_names_that_differ_in_case_alone_have_an_order(image_folder):
    first = open_data(str(image_folder({"train/cat": 1, "train/Cat": 1, "train/01": 1, "train/1": 1})))
    assert first.class_names == ("01", "1", "Cat", "cat")


def test_a_set_that_opens_its_images_itself_obeys_the_limit_of_pixels(tmp_path):
    from cpvt.data.datasets.timm_sets import IndexedSplit

    class Opening:
        def __getitem__(self, index):
            return Image.open(tmp_path / "a.png"), 0

    Image.new("RGB", (7, 7)).save(tmp_path / "a.png")
    split = IndexedSplit(Opening(), "set", "RGB")
    for limit in (48, 10):
        with (
            pixel_limit(limit),
            pytest.raises(BadImageError, match=f"'0 of set' has 49 pixels, and {limit} are allowed"),
        ):
            split.read(0, rng())
    with pixel_limit(49):
        assert split.read(0, rng())[0].size == (7, 7)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_first_image_that_is_shrunk_is_named_once(image_folder, workers, caplog):
    data = open_data(str(image_folder({"train/cat": 3})))
    Image.new("RGB", (4, 4)).save(data.train.paths[0])
    transform = Transform(data.mean, data.std, longest_side=7 - workers)  # told once in a process for each
    caplog.set_level("INFO", "cpvt")
    for _ in range(2):
        batches = load_batches(data.train, find_protocol("canvas")(transform, (8, 8)), 2, LoadOptions(workers=workers))
        assert sum(batch.shrunk for batch in batches) == 2
    list(load_batches(data.train, find_protocol("native")(transform, (5, 5)), 1))  # as a size under native asks
    (message,) = caplog.messages
    assert message == (
        f"image '{data.train.paths[1]}' is shrunk to the longest side allowed, {7 - workers} pixels (--longest-side); "
        "more are counted"
    )


@pytest.fixture
def ten(image_folder):
    return open_data(str(image_folder({"train/cat": 6, "train/dog": 4})))


def read(data, batch_size=4, order=None, **options):
    """All images and labels, and the sizes of the batches."""
    preprocessing = preprocessing_of(data, "crop", (4, 4))
    batches = list(load_batches(data.train, preprocessing, batch_size, LoadOptions(**options), order=order))
    images, labels = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    return images, labels.tolist(), [len(batch.labels) for batch in batches]


def test_batches_hold_every_image_in_order(ten):
    images, labels, sizes = read(ten)
    assert images.shape == (10, 3, 4, 4)
    assert labels == [0] * 6 + [1] * 4
    assert sizes == [4, 4, 2]


def test_images_come_in_the_order_asked_for_and_are_the_same_in_any(ten):
    images, labels, _ = read(ten)
    order = [7, 0, 3]
    some, their_labels, _ = read(ten, order=order, batch_size=2)
    assert torch.equal(some, images[order])
    assert their_labels == [labels[index] for index in order]


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_seed_and_epoch_decide_what_is_drawn(ten, change):
    images, _, _ = read(ten)
    assert torch.equal(read(ten, seed=0, epoch=0)[0], images)
    changed, _, _ = read(ten, **change)
    assert not torch.equal(changed, images)
    assert torch.equal(read(ten, **change)[0], changed)


def test_each_image_draws_for_itself(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    for number in range(20):
        Image.new("L", (2, 2), 255).save(tmp_path / "train" / "cat" / f"{number}.png")
    data = open_data(str(tmp_path))
    (batch,) = load_batches(data.train, preprocessing_of(data, "canvas", (9, 9)), 20)
    assert len({image.numpy().tobytes() for image in batch.images}) > 10  # 20 draws from 64 places


def test_workers_change_nothing(ten):
    alone, with_workers = read(ten), read(ten, workers=2)
    assert torch.equal(alone[0], with_workers[0])
    assert alone[1:] == with_workers[1:]


def test_a_batch_counts_padding_and_shrunk_images(tmp_path):
    for number, size in enumerate([(8, 8), (4, 8), (32, 8)]):
        (tmp_path / "test" / "cat").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(tmp_path / "test" / "cat" / f"{number}.png")
    data = open_data(str(tmp_path))
    preprocessing = find_protocol("canvas")(Transform(data.mean, data.std, longest_side=16), (8, 8))
    (batch,) = load_batches(data.test, preprocessing, 3)
    assert batch.padding_fraction == pytest.approx((0 + 1 / 2 + 1 / 2) / 3)  # the third is shrunk to 16 x 4
    assert batch.shrunk == 1


def test_the_test_split_may_have_several_names(monkeypatch, image_folder):
    from cpvt.data.datasets import timm_sets

    def create(name, root, split, is_training):
        if split not in ("train", "test"):
            raise ValueError(f"Unknown split {split!r}")
        return [(Image.new("RGB", (4, 4)), number) for number in range(3 if split == "train" else 2)]

    monkeypatch.setattr("timm.data.create_dataset", create)
    data = open_data("tfds/some")
    assert (len(data.train), len(data.test), data.class_names) == (3, 2, ("0", "1", "2"))
    monkeypatch.setattr(timm_sets, "SPLITS", {"train": ("fit",)})
    with pytest.raises(ValueError, match=r"'tfds/some' does not open in 'None' \(Unknown split 'fit'\)"):
        open_data("tfds/some")


def write_hugging_face(folder, labels, kind=None):
    """A set for hfds/ with these training labels, each of a grey image; its test labels are all -1."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (7, 7, 7)).save(file, "PNG")
    kinds = datasets.Features({"image": datasets.Image(), "label": kind or datasets.ClassLabel(names=["cat", "dog"])})
    for part, found in (("train", labels), ("test", [-1] * 3)):
        images = [{"bytes": file.getvalue(), "path": None}] * len(found)
        rows = datasets.Dataset.from_dict({"image": images, "label": found}, features=kinds)
        rows.to_parquet(folder / f"{part}-00000-of-00001.parquet")
    return open_data(f"hfds/{folder}", str(folder / "cache"))


@pytest.mark.parametrize("missing", [-1, None])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_a_hugging_face_set_without_a_class_is_an_error_that_names_it(tmp_path, missing, workers):
    data = write_hugging_face(tmp_path, [0, missing, 1])
    assert data.class_names == ("cat", "dog")
    preprocessing = preprocessing_of(data)
    for split, index, part in ((data.train, 1, "train"), (data.test, 0, "test")):
        with pytest.raises(BadImageError, match=rf"^image '{index} of hfds/.* \({part}\)' has no class; choose a set"):
            list(load_batches(split, preprocessing, 3, LoadOptions(workers=workers)))
    options = LoadOptions(on_bad_image="skip", workers=workers)
    assert next(load_batches(data.train, preprocessing, 3, options)).labels.tolist() == [0, 1]
    assert len(next(load_batches(data.test, preprocessing, 3, options)).skipped) == 3


def test_missing_classes_do_not_count_among_those_without_names(tmp_path):
    import datasets

    data = write_hugging_face(tmp_path, [0, None, 2, -1], datasets.Value("int64"))
    assert data.class_names == ("0", "1", "2")


def test_a_row_without_an_image_is_an_error_that_names_it(tmp_path):
    data = write_hugging_face(tmp_path, [0, 1])
    data.train.reader.dataset = [{"image": None, "label": 0}]
    with pytest.raises(BadImageError, match=r"^image '0 of hfds/.* \(train\)' does not decode"):
        data.train.read(0, rng())


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("digits", "digits"), (".", "PATH"), ("torch/cifar10", "torch/NAME"), ("hfds/user/set", "hfds/NAME"),
        ("hfids/user/set", "hfids/NAME"), ("tfds/mnist", "tfds/NAME"), ("wds//data/{train,val}-{0..9}.tar", "wds/PATH"),
        ("wds/https://host/train.tar", "wds/URL"), ("wds/pipe:cat train.tar", "wds/URL"), ("nothing", None),
    ],
)  # fmt: skip
def test_a_name_belongs_to_one_source_at_most(name, form):
    assert [known for known, source in TABLE.items() if source.matches(name)] == ([] if form is None else [form])


def test_every_source_has_a_line_for_newcomers():
    assert all(describe_datasets().values())


def test_a_limit_draws_the_same_images_of_every_part(image_folder):
    where = image_folder({"train/cat": 30, "train/dog": 30, "val/cat": 9, "val/dog": 9, "test/cat": 3, "test/dog": 2})
    whole, some = open_data(str(where)), open_data(str(where), limit=10)
    assert [len(some.train), len(some.validation), len(some.test)] == [10, 10, 5]
    assert some.name == f"{where}, 10 images of each part"
    drawn = [some.train.name(number) for number in range(10)]
    assert drawn == [open_data(str(where), limit=10).train.name(number) for number in range(10)]
    names = [whole.train.name(number) for number in range(60)]
    assert [name for name in names if name in drawn] == drawn  # each once, in the stored order
    assert {Path(name).parent.name for name in drawn} == {"cat", "dog"}
    for number, name in enumerate(drawn):
        image, label = some.train.read(number, None)
        expected, wanted = whole.train.read(names.index(name), None)
        assert (image.tobytes(), label) == (expected.tobytes(), wanted)


def test_a_limit_cannot_draw_from_a_stream():
    streamed = replace(open_data("digits"), train=None, test=None, test_stream=object())
    with pytest.raises(ValueError, match="'digits' is read as it comes, so that a limit cannot draw from it"):
        streamed.limited(3)


def test_names_sort_naturally_with_any_digits():
    names = ["class10", "class2", "5\u00b2.jpg", "x\u2460"]
    assert sorted(names, key=natural_key) == ["5\u00b2.jpg", "class2", "class10", "x\u2460"]


def test_class_folders_with_names_that_are_not_utf_8_are_split_as_others(image_folder):
    root = image_folder({"cat": 3, "dog": 3})
    try:
        os.rename(root / "cat" / "0.png", os.fsencode(root / "cat") + b"/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes names of UTF-8 alone")
    data = open_data(str(root))
    assert len(data.train) + len(data.test) == 6
