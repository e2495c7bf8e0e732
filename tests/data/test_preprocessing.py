"""Protocols and training crops, against images cropped and resized by hand."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from cpvt.data import Transform
from cpvt.data.protocols import TABLE, TRAINING, find_protocol
from cpvt.data.transform import INTERPOLATIONS

STACKING = [name for name, protocol in {**TABLE, **TRAINING}.items() if protocol.stacks]

# no pixel from 0 to 255 is normalised to zero, so padding differs from the image
TRANSFORMS = {
    "L": Transform(mean=(0.1,), std=(0.5,), crop_ratio=1.0),
    "RGB": Transform(mean=(0.1, 0.3, 0.5), std=(0.5, 0.2, 0.25), crop_ratio=1.0),
}
channels = pytest.mark.parametrize("mode", TRANSFORMS)


def noise(height, width, mode="RGB"):
    values = np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def rng(seed=0):
    return np.random.default_rng(seed)


def normalised(image, transform):
    """Each channel by itself, in the simplest way."""
    values = torch.from_numpy(np.array(image)).float().div(255)
    bands = [values] if image.mode == "L" else values.unbind(2)
    return torch.stack([(band - m) / s for band, m, s in zip(bands, transform.mean, transform.std)])


def place_of(whole, canvas):
    """Where on the canvas the image lies untouched."""
    (h, w), (H, W) = whole.shape[1:], canvas.shape[1:]
    places = [(y, x) for y in range(H - h + 1) for x in range(W - w + 1)]
    (found,) = [(y, x) for y, x in places if torch.equal(canvas[:, y : y + h, x : x + w], whole)]
    return found


@channels
def test_an_image_is_normalised_channel_by_channel(mode):
    image, transform = noise(5, 7, mode), TRANSFORMS[mode]
    assert transform.mode == mode
    torch.testing.assert_close(transform.whole(image), normalised(image, transform))


def test_an_image_in_another_mode_is_converted():
    image = noise(5, 7)
    assert torch.equal(TRANSFORMS["L"].whole(image), TRANSFORMS["L"].whole(image.convert("L")))


@channels
def test_canvas_crops_a_larger_image_from_its_middle(mode):
    image, transform = noise(8, 11, mode), TRANSFORMS[mode]
    assert torch.equal(find_protocol("canvas")(transform, (4, 6))(image, rng()), transform.whole(image)[:, 2:6, 2:8])


@channels
def test_canvas_leaves_a_smaller_image_intact_and_pads_with_zero(mode):
    image, transform = noise(4, 7, mode), TRANSFORMS[mode]
    whole, canvas = transform.whole(image), find_protocol("canvas")(transform, (9, 12))(image, rng())
    assert canvas.shape == (len(transform.mean), 9, 12)
    y, x = place_of(whole, canvas)
    assert whole.all()  # else zeros of the image would count as padding
    assert canvas.count_nonzero() == whole.numel()
    assert canvas[:, y : y + 4, x : x + 7].count_nonzero() == whole.numel()


def test_canvas_crops_one_axis_and_pads_the_other():
    image, transform = noise(8, 3), TRANSFORMS["RGB"]
    canvas = find_protocol("canvas")(transform, (4, 10))(image, rng())
    assert place_of(transform.whole(image)[:, 2:6], canvas)[0] == 0
    assert canvas.count_nonzero() == 3 * 4 * 3


def test_the_place_on_a_canvas_follows_from_the_generator_and_may_be_any():
    image, preprocessing = noise(2, 2), find_protocol("canvas")(TRANSFORMS["RGB"], (3, 4))
    whole = preprocessing.transform.whole(image)
    places = [place_of(whole, preprocessing(image, rng(seed))) for seed in range(60)]
    assert set(places) == {(y, x) for y in range(2) for x in range(3)}
    assert places == [place_of(whole, preprocessing(image, rng(seed))) for seed in range(60)]


def test_resize_to_the_same_sides_changes_nothing():
    image, transform = noise(6, 9), TRANSFORMS["RGB"]
    assert torch.equal(find_protocol("resize")(transform, (6, 9))(image, rng()), transform.whole(image))


@pytest.mark.parametrize(
    ("sides", "crop_ratio", "scaled", "corner"),
    [  # an image of 12 x 20: scaled to cover sides / crop ratio, then cut from this corner
        ((6, 6), 1.0, (6, 10), (0, 2)),
        ((24, 24), 1.0, (24, 40), (0, 8)),
        ((6, 6), 0.5, (12, 20), (3, 7)),
        ((6, 10), 1.0, (6, 10), (0, 0)),
        ((24, 10), 1.0, (24, 40), (0, 15)),
        ((3, 15), 1.0, (9, 15), (3, 0)),
        ((4, 10), 0.5, (12, 20), (4, 5)),
    ],
)
@channels
def test_resize_scales_to_cover_and_crops_the_centre(mode, sides, crop_ratio, scaled, corner):
    image = noise(12, 20, mode)
    transform = Transform(TRANSFORMS[mode].mean, TRANSFORMS[mode].std, crop_ratio)
    by_hand = image.resize(scaled[::-1], Image.Resampling.BICUBIC)
    (top, left), (height, width) = corner, sides
    by_hand = by_hand.crop((left, top, left + width, top + height))
    torch.testing.assert_close(find_protocol("resize")(transform, sides)(image, rng()), normalised(by_hand, transform))


def test_interpolation_is_the_one_asked_for():
    image, transform = noise(6, 6), Transform((0.5,) * 3, (0.5,) * 3, 1.0, "nearest")
    by_hand = image.resize((18, 18), Image.Resampling.NEAREST)
    torch.testing.assert_close(
        find_protocol("resize")(transform, (18, 18))(image, rng()), normalised(by_hand, transform)
    )


def limited(longest_side):
    return Transform((0.5,) * 3, (0.5,) * 3, longest_side=longest_side)


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [((40, 20), 10, (10, 5)), ((20, 40), 10, (5, 10)), ((100, 1), 10, (10, 1)), ((40, 20), 40, (40, 20))],
)
def test_limit_shrinks_in_proportion(size, longest, expected):
    assert limited(longest).limit(Image.new("RGB", size)).size == expected


@pytest.mark.parametrize("longest", [None, 8, 9])
def test_limit_leaves_an_image_that_fits_as_it_is(longest):
    image = noise(6, 8)
    assert limited(longest).limit(image) is image


@pytest.mark.parametrize("kind", ["canvas", "crop"])
def test_protocols_at_the_images_own_scale_shrink_to_the_longest_side(kind):
    image, preprocessing = noise(10, 20), find_protocol(kind)(limited(10), (10, 10))
    assert preprocessing.shrinks(image)
    assert not preprocessing.shrinks(noise(10, 10))
    assert preprocessing.padding_fraction(image) == 0.5
    if kind == "canvas":
        place_of(preprocessing.transform.whole(limited(10).limit(image)), preprocessing(image, rng()))


@pytest.mark.parametrize("kind", ["resize", "resized-crop"])
def test_protocols_that_set_the_scale_do_not_shrink_first(kind):
    assert not find_protocol(kind)(limited(5), (10, 10)).shrinks(noise(10, 20))


def test_a_longest_side_below_a_pixel():
    with pytest.raises(ValueError, match="1 pixel or more; got 0"):
        limited(0)


@pytest.mark.parametrize("kind", ["canvas", "crop"])
@pytest.mark.parametrize("size", [(8, 8), (3, 5), (20, 5), (3, 20), (20, 20), (8, 10)])
def test_padding_is_the_fraction_of_zeros(kind, size):
    image, preprocessing = noise(*size), find_protocol(kind)(TRANSFORMS["RGB"], (8, 10))
    zeros = (preprocessing(image, rng()) == 0).float().mean().item()
    assert preprocessing.padding_fraction(image) == pytest.approx(zeros)


@pytest.mark.parametrize("kind", ["resize", "resized-crop"])
def test_nothing_is_padded_where_the_image_is_scaled(kind):
    image, preprocessing = noise(3, 5), find_protocol(kind)(TRANSFORMS["RGB"], (8, 10))
    assert preprocessing.padding_fraction(image) == 0
    assert preprocessing(image, rng()).std() > 0


@pytest.mark.parametrize("kind", STACKING)
@channels
def test_every_protocol_gives_the_sides_asked_for(kind, mode):
    tensor = find_protocol(kind)(TRANSFORMS[mode], (8, 10))(noise(9, 7), rng())
    assert tensor.shape == (len(TRANSFORMS[mode].mean), 8, 10)
    assert tensor.dtype == torch.float32


def test_an_unknown_protocol_is_an_error_that_lists_the_known():
    with pytest.raises(
        ValueError,
        match="unknown protocol or augmentation 'zoom'; "
        "known: canvas, resize, native, resized-crop, crop, native-mirrored, none",
    ):
        find_protocol("zoom")(TRANSFORMS["RGB"], (8, 8))


@pytest.mark.parametrize("ratio", [0, -0.5, 1.01, float("nan")])
def test_a_crop_ratio_is_a_fraction(ratio):
    with pytest.raises(ValueError, match="above 0 and at most 1; got"):
        Transform((0.5,), (0.5,), ratio)


def test_an_unknown_interpolation_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match="unknown interpolation 'cubic'; known: nearest, bilinear, bicubic, box"):
        Transform((0.5,), (0.5,), interpolation="cubic")


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_interpolation_listed_is_accepted(interpolation):
    transform = Transform((0.5,) * 3, (0.5,) * 3, interpolation=interpolation)
    for kind in STACKING:
        assert find_protocol(kind)(transform, (8, 10))(noise(9, 7), rng()).isfinite().all()


def test_a_crop_is_any_part_at_its_own_scale_and_half_are_mirrored():
    image, preprocessing = noise(4, 5), find_protocol("crop")(TRANSFORMS["RGB"], (3, 3))
    whole = preprocessing.transform.whole(image)
    windows = {(y, x): whole[:, y : y + 3, x : x + 3] for y in range(2) for x in range(3)}
    seen, mirrored = set(), 0
    for seed in range(200):
        crop = preprocessing(image, rng(seed))
        for place, window in windows.items():
            if torch.equal(crop, window) or torch.equal(crop, window.flip(2)):
                seen.add(place)
                mirrored += not torch.equal(crop, window)
                break
        else:
            pytest.fail("a crop is no part of the image")
    assert seen == set(windows)
    assert 70 <= mirrored <= 130


def test_a_crop_at_the_whole_area_is_the_image_or_its_mirror():
    image = noise(8, 8)
    preprocessing = find_protocol("resized-crop")(TRANSFORMS["RGB"], (8, 8), crop_scale=(1.0, 1.0))
    whole = preprocessing.transform.whole(image)
    crops = [preprocessing(image, rng(seed)) for seed in range(60)]
    as_it_is = sum(torch.allclose(crop, whole) for crop in crops)
    mirrored = sum(torch.allclose(crop, whole.flip(2)) for crop in crops)
    assert as_it_is
    assert mirrored


@pytest.mark.parametrize("kind", ["crop", "resized-crop"])
@channels
def test_training_crops_follow_from_the_generator_alone(kind, mode):
    image, preprocessing = noise(16, 20, mode), find_protocol(kind)(TRANSFORMS[mode], (8, 8))
    crops = [preprocessing(image, rng(seed)) for seed in range(5)]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    for seed, crop in enumerate(crops):
        assert torch.equal(preprocessing(image, rng(seed)), crop)
    assert not any(torch.equal(crops[0], crop) for crop in crops[1:])


@pytest.mark.parametrize("kind", STACKING)
def test_no_protocol_touches_the_global_generators(kind):
    def states():
        name, key, *rest = np.random.get_state()  # noqa: NPY002
        return random.getstate(), (name, key.tolist(), *rest), torch.get_rng_state().tolist()

    preprocessing = find_protocol(kind)(TRANSFORMS["RGB"], (8, 8))
    before = states()
    preprocessing(noise(16, 20), rng())
    assert states() == before


def test_the_global_generators_are_restored_after_an_error():
    class Broken(Image.Image):
        mode = "RGB"

        @property
        def size(self):
            raise OSError("a disk went away")

    before = random.getstate(), torch.get_rng_state()
    with pytest.raises(OSError, match="a disk went away"):
        find_protocol("resized-crop")(TRANSFORMS["RGB"], (8, 8))(Broken(), rng())
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
