"""JPEGs decoded at a reduced scale: the same images but for a stated difference, the same errors, from any source."""

import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from cpvt.data import (
    BadImageError,
    Encoded,
    LoadOptions,
    SampleSpec,
    Transform,
    decode,
    load_batches,
    load_packs,
    load_plan,
    load_stream,
    open_data,
    pixel_limit,
)
from cpvt.data.deferred import DeferredImage, reduced_jpegs
from cpvt.data.protocols import find_protocol
from tests.data.files import saved
from tests.data.test_mangled import mangled

TRANSFORM = Transform((0.0,) * 3, (1 / 255,) * 3, longest_side=64)  # tensors are levels of 0 to 255
OURS = ("resized-crop", "resize", "canvas", "crop", "native", "native-mirrored")


def waves(width, height):
    """A smooth image without symmetries: moved by a pixel, its values change by about four levels in the mean."""
    y, x = np.mgrid[:height, :width]
    values = [120 * np.sin(x / 18), 120 * np.cos((x + 2 * y) / 38), 120 * np.sin(y / 14 + x / 180)]
    return Image.fromarray((127.5 + np.stack(values, axis=-1)).round().astype(np.uint8))


def both(content, mode="RGB"):
    """The same file decoded as always, and deferred."""
    whole = decode(io.BytesIO(content), "a", mode)
    with reduced_jpegs(True):
        return whole, decode(io.BytesIO(content), "a", mode)


def apart(one, other):
    """Mean and largest difference, in levels of 0 to 255."""
    difference = np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float))
    return difference.mean(), difference.max()


@pytest.fixture
def scales(monkeypatch):
    """At how much of their sides JPEGs were decoded."""
    found = []
    load = DeferredImage.reduction
    monkeypatch.setattr(DeferredImage, "reduction", lambda image, size: found.append(load(image, size)) or found[-1])
    return found


def test_decoding_is_deferred_only_for_jpegs_and_where_it_is_wanted(tmp_path):
    image = waves(64, 48)
    image.save(tmp_path / "a.jpg")
    image.save(tmp_path / "a.png")
    with reduced_jpegs(True):
        jpeg, png = (decode(tmp_path / name, name) for name in ("a.jpg", "a.png"))
        with reduced_jpegs(False):
            inner = decode(tmp_path / "a.jpg", "a")
    found = [isinstance(each, DeferredImage) for each in (jpeg, png, inner, decode(tmp_path / "a.jpg", "a"))]
    assert found == [True, False, False, False]


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_photographs_differ_from_those_decoded_whole_by_the_tolerance(subsampling):
    draw, means, largest, factors = np.random.default_rng(0), [], [], []
    for values in load_sample_images().images:
        photograph = Image.fromarray(values)
        for size in ((640, 427), (500, 375), (499, 373)):
            content = saved(photograph.resize(size), "JPEG", quality=90, subsampling=subsampling)
            whole, deferred = both(content)
            for shown in (32, 64, 96):
                width, height = draw.integers(size[1] // 2, size[1], size=2).tolist()
                left, top = int(draw.integers(size[0] - width)), int(draw.integers(size[1] - height))
                box = (left, top, left + width, top + height)
                one, other = (each.crop(box).resize((shown, shown)) for each in (whole, deferred))
                factors.append(deferred.crop(box).reduction((shown, shown)))
                mean, most = apart(one, other)
                means.append(mean)
                largest.append(most)
    assert set(factors) == {1, 2, 4}
    assert np.mean([mean for mean, factor in zip(means, factors) if factor > 1]) < 0.6
    assert max(means) < 1.2
    assert max(largest) < 30
    assert [mean for mean, factor in zip(means, factors) if factor == 1] == [0] * factors.count(1)


@pytest.mark.parametrize("name", OURS)
def test_every_protocol_shows_the_same_part_at_the_same_place(name, scales):
    protocol = find_protocol(name)(TRANSFORM, (40, 48))
    for size in ((501, 375), (300, 403), (640, 480)):
        whole, deferred = both(saved(waves(*size), "JPEG", quality=95))
        for seed in range(8):
            one, other = (protocol(each, np.random.default_rng(seed)) for each in (whole, deferred))
            assert one.shape == other.shape
            mean, most = apart(one, other)
            assert mean < 0.7, (size, seed)
            assert most < 8, (size, seed)
            assert protocol.shrinks(whole) == protocol.shrinks(deferred)
            assert protocol.padding_fraction(whole) == protocol.padding_fraction(deferred)
    assert len(scales) == 24
    assert max(scales) > 1


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("size", [(328, 248), (325, 243)])
def test_an_image_that_its_exif_turns_is_upright(turn, size, scales):
    exif = Image.Exif()
    exif[0x0112] = turn
    whole, deferred = both(saved(waves(*size), "JPEG", quality=95, exif=exif))
    assert whole.size == deferred.size == (size if turn < 5 else size[::-1])
    for box in ((0, 0, 200, 180), (37, 51, 237, 240), (20, 63, whole.width, whole.height)):
        mean, most = apart(*(each.crop(box).resize((24, 20)) for each in (whole, deferred)))
        assert mean < 0.7
        assert most < 8
    # at a reduced scale the end of an odd side, which would then be at the start, is unknown by up to a pixel
    assert min(scales) == max(scales) == (1 if size == (325, 243) and turn > 1 else 4)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["grey", "CMYK", "progressive", "MPO"])
def test_every_kind_of_jpeg_is_reduced(kind, mode, scales):
    image = waves(320, 240)
    image = {"grey": image.convert("L"), "CMYK": image.convert("CMYK")}.get(kind, image)
    options = {"progressive": {"progressive": True}, "MPO": {"save_all": True, "append_images": [image]}}.get(kind, {})
    whole, deferred = both(saved(image, "MPO" if kind == "MPO" else "JPEG", quality=95, **options), mode)
    one, other = (each.resize((40, 30)) for each in (whole, deferred))
    assert one.mode == other.mode == mode
    assert apart(one, other)[0] < 0.7
    assert scales == [4]


def test_at_least_two_pixels_are_decoded_for_each_that_is_shown():
    _, image = both(saved(waves(320, 240), "JPEG"))
    shown = {(20, 15): 8, (21, 15): 4, (20, 16): 4, (40, 30): 4, (41, 30): 2, (80, 60): 2, (80, 61): 1, (320, 1): 1}
    assert {size: image.reduction(size) for size in shown} == shown
    part = image.crop((10, 20, 170, 220))
    assert (part.size, part.reduction((40, 50)), part.reduction((41, 50))) == ((160, 200), 2, 1)


def test_a_deferred_image_is_the_whole_image_to_all_else():
    content, box = saved(waves(81, 63), "JPEG"), (5, 7, 60, 40)
    for use in (
        np.asarray, Image.Image.copy, lambda each: each.convert("L"), lambda each: each.transpose(2),
        lambda each: each.crop((-5, 7, 90, 40)), lambda each: each.crop(box),
        lambda each: each.crop(box).crop((3, 4, 9, 9)),
        lambda each: each.crop(box).crop((-3, 4, 9, 9)),
        lambda each: each.resize((8, 6), Image.Resampling.NEAREST), lambda each: each.resize((8, 6), 3, box),
        lambda each: each.rotate(30), lambda each: each.resize((70, 60)), lambda each: each.resize((81, 63)),
    ):  # fmt: skip
        whole, image = both(content)
        np.testing.assert_array_equal(np.asarray(use(whole)), np.asarray(use(image)))
    for each in (whole, image):
        each.paste(Image.new("RGB", (40, 40), "red"))
    for use in (lambda each: each.resize((10, 8)), lambda each: each.crop(box)):
        np.testing.assert_array_equal(np.asarray(use(whole)), np.asarray(use(image)))


def test_an_image_is_shown_at_several_sizes():
    whole, image = both(saved(waves(320, 240), "JPEG", quality=95))
    for size in ((80, 60), (40, 30), (80, 60)):
        mean, most = apart(image.resize(size), whole.resize(size))
        assert 0 < mean < 0.7
        assert most < 8


def test_damage_ends_in_the_same_error(tmp_path):
    content, draw = saved(waves(93, 61), "JPEG"), np.random.default_rng(0)

    def outcome(wanted, damaged):
        try:
            with reduced_jpegs(wanted):
                image = decode(io.BytesIO(damaged), "a")
            return image.resize((9, 9)).mode
        except BadImageError as error:
            return str(error)

    found = [
        (outcome(False, damaged), outcome(True, damaged)) for damaged in (mangled(content, draw) for _ in range(200))
    ]
    assert all(one == other for one, other in found)
    assert 20 < sum(one == "RGB" for one, _ in found) < 180


@pytest.fixture
def photographs(tmp_path):
    """Five JPEGs in class folders."""
    for number in range(5):
        folder = tmp_path / "images" / "train" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        waves(320 + number, 240).save(folder / f"{number}.jpg", quality=95)
    return tmp_path / "images"


def loaded(split, reduced, load, **options):
    """Images of the split's first pass, as random resized crops."""
    how = find_protocol("resized-crop")(replace(TRANSFORM, reduced_jpegs=reduced), (32, 32))
    return torch.cat([batch.images for batch in load(split, how, options)])


def numbers(count):
    return [[SampleSpec(number) for number in range(count)]]


class Files:
    """A stream of files."""

    class_names, length = ("a", "b"), 5

    def __init__(self, paths):
        self.paths = paths

    def share(self, part=0, parts=1, *, seed=0, epoch=0, shuffle=0):
        yield from (Encoded(number, path.read_bytes(), path.name, 0) for number, path in enumerate(self.paths))


@pytest.mark.parametrize("source", ["folder", "shards", "stream"])
def test_every_source_of_images_is_reduced(source, photographs, scales, tmp_path):
    def load(split, how, options):
        if source == "stream":
            return load_stream(split, how, 5, LoadOptions(**options))
        return load_plan(split, how, numbers(5), LoadOptions(**options))

    if source == "shards":
        (tmp_path / "shards").mkdir()
        with tarfile.open(tmp_path / "shards" / "train-0.tar", "w") as tar:
            tar.add(photographs / "train", "train")
    if source == "stream":
        split = Files(sorted(photographs.rglob("*.jpg")))
    else:
        split = open_data(str(photographs if source == "folder" else tmp_path / "shards")).train
    whole = loaded(split, False, load)
    assert not scales
    reduced = loaded(split, True, load)
    assert len(scales) == 5
    assert set(scales) <= {2, 4}
    mean, most = apart(whole, reduced)
    assert 0 < mean < 0.7
    assert most < 8
    if source != "stream":  # whose class here is not one of a file
        assert torch.equal(loaded(split, True, load, workers=1), reduced)


def test_a_damaged_jpeg_is_named_or_skipped(photographs):
    path = photographs / "train" / "class0" / "2.jpg"
    path.write_bytes(path.read_bytes()[:3000])
    split = open_data(str(photographs)).train
    how = find_protocol("resize")(replace(TRANSFORM, reduced_jpegs=True), (32, 32))
    with pytest.raises(BadImageError, match=r"image '.*2\.jpg' does not decode \(OSError: .*truncated"):
        list(load_batches(split, how, 8))
    (batch,) = load_batches(split, how, 8, LoadOptions(on_bad_image="skip"))
    assert len(batch.labels) == 4
    assert "2.jpg" in batch.skipped[0]


def test_the_limit_of_pixels_is_that_of_the_whole_image(photographs):
    split = open_data(str(photographs)).train
    native = find_protocol("native")(replace(TRANSFORM, reduced_jpegs=True), (32, 32))
    with pytest.raises(BadImageError, match=r"has 76,\d+ pixels, and 70,000 are allowed"):
        list(load_packs(split, native, 4, options=LoadOptions(max_image_pixels=70_000)))
    assert sum(len(batch.labels) for batch in load_packs(split, native, 4)) == 5
    with pixel_limit(100_000):
        _, image = both(saved(waves(320, 240), "JPEG"))
    with pixel_limit(50_000):  # as it was when the file was opened
        assert image.resize((32, 24)).size == (32, 24)
        assert np.asarray(image).shape == (240, 320, 3)
