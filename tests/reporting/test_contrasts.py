"""Contrasts with intervals over images and seeds, against sums by hand and a simulation with a known truth."""

import numpy as np
import pytest

from cpvt.reporting.contrasts import Contrast, Contrasts, interval
from cpvt.results.rows import pack_hits

LEARNED, PEG = ("learned", 32), ("peg", 32)


@pytest.fixture
def hits_row(make_row):
    def make(hits, **values):
        return make_row(correct=sum(hits), total=len(hits), hits=pack_hits(hits), **values)

    return make


def test_a_contrast_uses_the_seeds_that_all_terms_have(hits_row):
    yes, no = True, False
    rows = [
        hits_row([yes, no, no, no], encoding="learned", seed=0),
        hits_row([yes, yes, no, no], encoding="learned", seed=1),
        hits_row([yes, yes, no, no], seed=0), hits_row([yes, yes, yes, yes], seed=1), hits_row([no] * 4, seed=2),
        hits_row([yes, no, no, no], size=64, seed=1), hits_row([no] * 4, protocol="resize", seed=0),
    ]  # fmt: skip
    contrast = Contrasts(rows, "canvas")
    found = contrast({PEG: 1, LEARNED: -1})
    assert (found.points, found.seeds, found.images) == (100 * (1 / 4 + 2 / 4) / 2, 2, 4)
    both = contrast({PEG: 1, LEARNED: -1, ("peg", 64): -2})
    assert (both.points, both.seeds) == (100 * (2 / 4 - 2 / 4), 1)
    assert contrast({PEG: 1, ("rope", 32): -1}) is None
    assert contrast({("peg", 64): 1, ("learned", 64): -1}) is None


def test_a_contrast_prints_points_and_interval():
    assert str(Contrast(-0.04, -1.26, 2, 3, 100)) == "+0.0 [-1.3, +2.0]"


def test_terms_with_other_images_are_refused(hits_row):
    contrast = Contrasts([hits_row([True] * 4), hits_row([True] * 5, encoding="learned")], "canvas")
    with pytest.raises(ValueError, match="same images.*'peg at 32': 4, 'learned at 32': 5"):
        contrast({PEG: 1, LEARNED: -1})


def coverage(seeds, between, cases=200, images=3000, truth=0.3):
    """How often the interval contains the true mean, if trainings differ by `between`."""
    draw, covered = np.random.default_rng(0), 0
    for case in range(cases):
        chances = truth + draw.normal(0, between, (seeds, 1))
        low, high = interval((draw.random((seeds, images)) < chances).astype(np.int8), case)
        covered += low <= truth <= high
    return covered / cases


@pytest.mark.parametrize(("seeds", "between"), [(1, 0.0), (3, 0.05), (5, 0.05)])
def test_intervals_cover_the_truth_at_the_stated_rate(seeds, between):
    assert 0.9 <= coverage(seeds, between) <= 0.99


def test_one_seed_does_not_cover_other_seeds():
    assert coverage(1, 0.05) < 0.8
