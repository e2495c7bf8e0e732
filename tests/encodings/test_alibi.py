"""2-D ALiBi against a slow version."""

import math

import pytest
import torch

from cpvt.encodings import create_encoding
from tests.encodings.slow import GRIDS, SHAPE, tokens

CPU = torch.device("cpu")


@pytest.mark.parametrize("scale", [None, (2.0, 1.5)])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_bias_is_minus_slope_times_distance(grid, scale):
    bias = create_encoding("alibi(use_scale=True)", SHAPE._replace(num_heads=3)).bias(grid, 2, scale)
    along_rows, along_columns = scale or (1, 1)
    for query, row, column in tokens(grid):
        for key, other_row, other_column in tokens(grid):
            distance = math.hypot((row - other_row) / along_rows, (column - other_column) / along_columns)
            for head, slope in enumerate((2 ** (-8 / 3), 2 ** (-16 / 3), 2**-8)):
                assert bias[head, query, key] == pytest.approx(-slope * distance, abs=1e-6)


def test_tuned_slopes_grow_with_the_size():
    plain, tuned = (create_encoding(f"alibi(tuned={tuned})", SHAPE._replace(grid=(14, 14))) for tuned in (False, True))
    for side, factor in ((7, 1.0), (14, 1.0), (17, 1.2), (20, 1.4), (32, 1.4), (48, 1.5), (56, 1.55), (64, 1.6)):
        got, raw = (each.by_offset((side, side), 1, (1.0, 1.0), CPU) for each in (tuned, plain))
        torch.testing.assert_close(got, factor * raw)


@pytest.mark.parametrize(
    "name", ["alibi", "lookhere", "lookhere(view=45)", "alibi(tuned=True)", "cpb(use_scale=False)"]
)
def test_distances_stay_in_tokens_as_published_whatever_the_scale(name):
    encoding = create_encoding(name, SHAPE)
    assert torch.equal(encoding.bias((5, 9), 2, (2.0, 2.0)), encoding.bias((5, 9), 2))


@pytest.mark.parametrize("name", ["alibi(use_scale=True)", "lookhere(use_scale=True)", "cpb"])
def test_distances_that_are_told_are_divided_by_the_scale(name):
    encoding = create_encoding(name, SHAPE)
    assert not torch.equal(encoding.bias((5, 9), 2, (2.0, 2.0)), encoding.bias((5, 9), 2))


def test_slopes_that_are_tuned_count_distances_in_tokens():
    with pytest.raises(ValueError, match="leave out use_scale=True or tuned=True"):
        create_encoding("lookhere(tuned=True, use_scale=True)", SHAPE)
