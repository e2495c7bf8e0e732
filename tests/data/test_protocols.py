"""Every protocol of the tables: shape, padding, stacking, and the same tensor for the same generator."""

import numpy as np
import pytest
import torch
from PIL import Image

from cpvt.config.scale import scale_at
from cpvt.data import Transform
from cpvt.data.protocols import TABLE, TRAINING, describe, find_protocol, keeps_sizes, options_read

SIDES = (8, 10)
TRANSFORM = Transform((0.1, 0.3, 0.5), (0.5, 0.2, 0.25), longest_side=16)  # no pixel from 0 to 255 becomes zero
EVERY = {**TABLE, **TRAINING}
every_protocol = pytest.mark.parametrize("name", EVERY)
every_test_protocol = pytest.mark.parametrize("name", TABLE)
every_size = pytest.mark.parametrize("size", [(8, 10), (10, 8), (5, 7), (20, 6), (3, 40), (64, 48)])


def noise(height, width):
    values = np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def show(name, image, seed=0, sides=SIDES):
    return find_protocol(name)(TRANSFORM, sides)(image, np.random.default_rng(seed))


@every_protocol
@every_size
def test_images_have_the_sides_or_at_most_the_longest(name, size):
    height, width = show(name, noise(*size)).shape[1:]
    if EVERY[name].stacks:
        assert (height, width) == SIDES
    else:
        assert max(height, width) == min(max(SIDES), max(size))
        assert abs(height - width * size[0] / size[1]) <= 1


@every_protocol
def test_height_and_width_are_not_swapped(name):
    if EVERY[name].stacks:
        assert show(name, noise(9, 9), sides=(4, 12)).shape == (3, 4, 12)
    else:
        assert show(name, noise(6, 12), sides=(4, 12)).shape == (3, 6, 12)


@every_protocol
@every_size
def test_the_padding_fraction_is_that_of_the_zeros(name, size):
    image = noise(*size)
    zeros = (show(name, image) == 0).float().mean().item()
    assert find_protocol(name)(TRANSFORM, SIDES).padding_fraction(image) == pytest.approx(zeros)


@every_protocol
@every_size
def test_what_is_shrunk_is_larger_than_the_longest_side(name, size):
    preprocessing = find_protocol(name)(TRANSFORM, SIDES)
    longest = preprocessing.longest_side
    assert preprocessing.shrinks(noise(*size)) == (longest is not None and max(size) > longest)


@every_protocol
def test_the_generator_decides_everything(name):
    image = noise(12, 7)
    first = show(name, image)
    torch.manual_seed(1)
    assert torch.equal(show(name, image), first)


@every_protocol
def test_an_option_that_is_not_read_changes_nothing(name):
    others = {"crop_ratio": 0.5, "interpolation": "nearest", "longest_side": 5}
    image, generator = noise(30, 20), np.random.default_rng
    plain = show(name, image)
    for option, value in others.items():
        changed = Transform(TRANSFORM.mean, TRANSFORM.std, **{"longest_side": 16, option: value})
        tensor = find_protocol(name)(changed, SIDES)(image, generator(0))
        same = tensor.shape == plain.shape and torch.equal(tensor, plain)
        assert same == (option not in EVERY[name].reads), option


@every_test_protocol
def test_a_test_protocol_describes_itself(name):
    protocol = TABLE[name]
    assert protocol.title
    assert protocol.details
    assert describe(name) == f"{name}: {protocol.title}"
    assert set(protocol.quick_multiples) <= set(protocol.multiples)
    assert not protocol.size_is_limit or not protocol.multiples  # a comparison tests at sides


@every_protocol
def test_the_scale_at_the_training_size_is_one(name):
    rule = EVERY[name].scale_rule
    assert rule is None or scale_at(rule, (24, 48), (24, 48)) == (1.0, 1.0)


def test_objects_grow_under_resize_alone():
    resize, canvas = (TABLE[name].scale_rule for name in ("resize", "canvas"))
    assert scale_at(resize, (64, 48), (32, 32)) == (2.0, 1.5)
    assert scale_at(resize, (16, 64), (32, 32)) == (1.0, 2.0)  # never below one
    assert scale_at(canvas, (64, 48), (32, 32)) == (1.0, 1.0)
    assert TABLE["native"].scale_rule is None


def test_an_unknown_protocol_has_its_name_alone():
    assert describe("zoom") == "zoom"
    assert options_read("zoom") == ()
    with pytest.raises(ValueError, match="unknown protocol or augmentation 'zoom'; known: canvas, resize"):
        find_protocol("zoom")


def test_which_augmentations_keep_the_sizes_of_images():
    assert keeps_sizes("native")
    assert not any(map(keeps_sizes, (None, "none", "crop", "resized-crop")))
