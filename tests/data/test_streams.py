"""Streams: every image in exactly one part, the same for any number of workers, resumable anywhere."""

import io
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cpvt.data import BadImageError, LoadOptions, Transform, load_stream, open_stream
from cpvt.data.protocols import find_protocol

datasets = pytest.importorskip("datasets")
TRANSFORM = Transform((0.5,) * 3, (0.5,) * 3)
SHARDS = (3, 1, 5, 2, 4)  # images in each


def encoded(number):
    file = io.BytesIO()
    values = np.random.default_rng(number).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    Image.fromarray(values).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{number}.png"}


def write(folder, shards, make=encoded, names=("cat", "dog", "emu")):
    """Parquet files with these numbers of images; image i has class i % 3."""
    datasets.disable_progress_bars()
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    first = 0
    for shard, count in enumerate(shards):
        numbers = range(first, first + count)
        columns = {"image": [make(number) for number in numbers], "label": [number % 3 for number in numbers]}
        path = folder / f"train-{shard:05}-of-{len(shards):05}.parquet"
        datasets.Dataset.from_dict(columns, features=kinds).to_parquet(path)
        first += count
    return f"hfids/{folder}"


@pytest.fixture
def stream(tmp_path):
    return open_stream(write(tmp_path, SHARDS), root=str(tmp_path / "cache"))


def preprocessing():
    return find_protocol("crop")(TRANSFORM, (4, 4))


def test_a_stream_gives_all_images_in_their_order(stream):
    found = list(stream.share())
    assert [each.content for each in found] == [encoded(number)["bytes"] for number in range(sum(SHARDS))]
    assert [each.label for each in found] == [number % 3 for number in range(sum(SHARDS))]
    assert len({each.number for each in found}) == sum(SHARDS)
    assert stream.class_names == ("cat", "dog", "emu")


@pytest.mark.parametrize("shuffle", [0, 4])
@pytest.mark.parametrize("parts", [1, 2, 3, 5, 7])
def test_every_image_is_in_exactly_one_part_under_its_own_number(stream, parts, shuffle):
    label_of = {each.number: (each.label, each.content) for each in stream.share()}
    groups = [list(stream.share(part, parts, shuffle=shuffle)) for part in range(parts)]
    counted = Counter(each.number for group in groups for each in group)
    assert counted == Counter(label_of.keys())
    assert all(label_of[each.number] == (each.label, each.content) for group in groups for each in group)
    if parts == 7:  # more than shards: distributed by image
        assert max(map(len, groups)) - min(map(len, groups)) <= len(SHARDS)


def test_seed_and_epoch_decide_the_order_of_what_is_shuffled(stream):
    def order(**options):
        return [each.number for each in stream.share(0, 2, shuffle=4, **options)]

    assert order() == order() != order(seed=1)
    assert order() != order(epoch=1)
    assert order() != sorted(order())


def test_shards_are_shuffled_and_images_within_one_too(stream, tmp_path):
    by_shard = {tuple(each.number >> 32 for each in stream.share(shuffle=1, epoch=epoch)) for epoch in range(5)}
    assert len(by_shard) > 1
    (tmp_path / "one").mkdir()
    one = open_stream(write(tmp_path / "one", (12,)), root=str(tmp_path / "cache"))
    orders = {tuple(each.number for each in one.share(shuffle=6, epoch=epoch)) for epoch in range(5)}
    assert len(orders) == 5


def test_the_randomness_of_an_image_follows_from_its_number(stream):
    (batch,) = load_stream(stream, preprocessing(), 99, LoadOptions(seed=5, epoch=2))
    for each, image in zip(stream.share(), batch.images, strict=True):
        rng = np.random.default_rng((5, 2, each.number))
        assert torch.equal(preprocessing()(Image.open(io.BytesIO(each.content)), rng), image)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_for_any_workers_and_any_start(stream, workers):
    whole = list(load_stream(stream, preprocessing(), 4, LoadOptions(seed=5, epoch=2), shuffle=4))
    assert [len(batch.labels) for batch in whole] == [4, 4, 4, 3]
    options = LoadOptions(seed=5, epoch=2, workers=workers)
    later = list(load_stream(stream, preprocessing(), 4, options, shuffle=4, skip=8))
    for batch, again in zip(whole[2:], later, strict=True):
        assert torch.equal(batch.images, again.images)
        assert torch.equal(batch.labels, again.labels)
    plain = torch.cat([batch.images for batch in load_stream(stream, preprocessing(), 4, LoadOptions(seed=5, epoch=2))])
    numbers = [each.number for each in stream.share()]
    shuffled = [each.number for each in stream.share(shuffle=4, seed=5, epoch=2)]
    by_number = plain[[numbers.index(number) for number in shuffled]]
    assert torch.equal(torch.cat([batch.images for batch in whole]), by_number)
    other = torch.cat([batch.images for batch in load_stream(stream, preprocessing(), 4, LoadOptions(seed=5, epoch=3))])
    assert not torch.equal(other, plain)


def test_images_that_do_not_decode_are_an_error_or_left_out(tmp_path):
    def make(number):
        return encoded(number) if number != 4 else {"bytes": b"no image", "path": "4.png"}

    stream = open_stream(write(tmp_path, (3, 3), make))
    with pytest.raises(BadImageError, match=r"image '1 in shard 1 of hfids/.* \(train\)' does not decode"):
        list(load_stream(stream, preprocessing(), 2))
    batches = list(load_stream(stream, preprocessing(), 2, LoadOptions(on_bad_image="skip")))
    assert [batch.labels.tolist() for batch in batches] == [[0, 1], [2, 0], [2]]
    assert [len(batch.skipped) for batch in batches] == [0, 0, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_smaller_than_a_patch_is_named_or_left_out(stream, workers):
    native, options = find_protocol("native-mirrored")(TRANSFORM, (20, 20)), LoadOptions(stack=False, workers=workers)
    with pytest.raises(
        BadImageError, match=r"^image '0 in shard 0 of hfids/.* \(train\)' has 7x9 pixels, and the model"
    ):
        list(load_stream(stream, native, 2, replace(options, smallest_side=8)))
    (batch,) = load_stream(stream, native, 99, replace(options, smallest_side=8, on_bad_image="skip"))
    assert (len(batch.images), len(batch.skipped)) == (0, sum(SHARDS))


def test_a_folder_of_files_streams_too(image_folder, tmp_path):
    root = image_folder({"train/cat": 2, "train/dog": 1, "test/cat": 1, "test/dog": 2})
    train, test = (open_stream(f"hfids/{root}", part, str(tmp_path / "cache")) for part in ("train", "test"))
    assert [each.label for each in train.share()] == [0, 0, 1]
    (batch,) = load_stream(test, find_protocol("canvas")(TRANSFORM, (6, 8)), 8)
    expected = [Image.open(root / "test" / name) for name in ("cat/0.png", "dog/0.png", "dog/1.png")]
    assert torch.equal(batch.images, torch.stack([TRANSFORM.whole(image) for image in expected]))


@pytest.mark.parametrize("options", [{"part": 2, "parts": 2}, {"part": -1}, {"shuffle": -1}])
def test_invalid_parts(stream, options):
    with pytest.raises(ValueError, match="part must be from 0 to below parts, and shuffle 0 or more; got"):
        stream.share(**options)


def test_sets_that_do_not_stream_are_errors_that_say_why(tmp_path, monkeypatch):
    name = write(tmp_path, (2,))
    with pytest.raises(ValueError, match=f"'{name}' does not open to test .*split"):
        open_stream(name, "test")
    with pytest.raises(ValueError, match="are named hfids/NAME; got 'torch/mnist'"):
        open_stream("torch/mnist")
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "words" / "train-0.parquet")
    with pytest.raises(ValueError, match=r"needs a column of kind Image .* it has text \(Value\)"):
        open_stream(f"hfids/{tmp_path / 'words'}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="needs a package .*: pip install datasets"):
        open_stream(name)
