"""The digits: a fixed split by class, and images that follow from the generator."""

import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cpvt.data import open_data
from cpvt.data.datasets.digits import Digits


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def rng(seed=0):
    return np.random.default_rng(seed)


def test_there_are_1200_training_and_597_test_digits(digits):
    assert (len(digits.train), len(digits.test)) == (1200, 597)
    assert digits.class_names == tuple("0123456789")


def test_both_splits_are_stratified(digits):
    fractions = np.bincount(load_digits().target) / 1797
    for part in (digits.train, digits.test):
        np.testing.assert_allclose(np.bincount(part.labels), fractions * len(part), atol=1)


@pytest.mark.parametrize(("part", "expected"), [("train", "7a0a7d44afce948a"), ("test", "9e700b4e26488812")])
def test_the_split_never_changes(digits, part, expected):
    # published results are of these digits, in this order
    labels = getattr(digits, part).labels.astype(np.uint8)
    assert hashlib.sha256(labels.tobytes()).hexdigest()[:16] == expected


def test_every_digit_is_in_one_split(digits):
    drawn = np.concatenate([digits.train.enlarged[20], digits.test.enlarged[20]])
    assert len({image.tobytes() for image in drawn}) == 1797  # no two of the digits are alike


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_digit_is_a_white_figure_on_a_black_canvas(mode):
    digits = open_data("digits", mode=mode)
    image, label = digits.test.read(3, rng())
    assert (image.mode, image.size, digits.mode) == (mode, (32, 32), mode)
    assert label == digits.test.labels[3]
    values = np.asarray(image)
    assert values[0, 0].max() == 0
    assert values.max() > 200
    if mode == "RGB":
        assert np.array_equal(values, values[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_black_is_zero_after_normalisation(mode):
    assert set(open_data("digits", mode=mode).mean) == {0.0}


def test_sides_are_18_to_26_pixels_and_places_go_up_to_every_border():
    # a digit all white shows its own square; a real one has black margins
    part = Digits(np.full((1, 8, 8), 16.0), np.array([7]), "L")
    sides, starts, ends = set(), set(), set()
    for seed in range(2000):
        values = np.asarray(part.read(0, rng(seed))[0])
        rows, columns = values.any(1).nonzero()[0], values.any(0).nonzero()[0]
        height, width = len(rows), len(columns)
        assert height == width
        assert (values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 255).all()
        sides.add(height)
        starts |= {rows[0], columns[0]}
        ends |= {rows[-1], columns[-1]}
    assert sides == set(range(18, 27))
    assert (min(starts), max(ends)) == (0, 31)
    assert max(starts) == 32 - 18


def test_what_is_read_follows_from_the_generator(digits):
    first, again, other = (np.asarray(digits.train.read(5, rng(seed))[0]) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
