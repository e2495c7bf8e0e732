"""FIRE in two dimensions against a slow version."""

import math

import pytest
import torch

from cpvt.encodings import create_encoding
from tests.encodings.slow import GRIDS, SHAPE, tokens


@pytest.mark.parametrize("distance", ["axes", "euclidean"])
@pytest.mark.parametrize("scale", [None, (2.0, 1.5)])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_bias_is_a_network_of_shares_of_the_longest_way(grid, scale, distance):
    torch.manual_seed(0)
    encoding = create_encoding(f"fire(distance='{distance}', hidden_dim=8)", SHAPE)
    torch.nn.init.constant_(encoding.rates[1], 0.7)
    torch.nn.init.constant_(encoding.thresholds[1], -0.2)
    bias = encoding.bias(grid, 2, scale).detach()
    c, threshold = 0.1 * math.exp(0.7), 6 * math.exp(-0.2)
    (h, w), (along_rows, along_columns) = grid, scale or (1, 1)
    longest = [(h - 1) / along_rows, (w - 1) / along_columns]
    if distance == "euclidean":
        longest = [math.hypot(*longest)]
    for query, row, column in tokens(grid)[::3]:
        for key, other_row, other_column in tokens(grid):
            ways = [abs(row - other_row) / along_rows, abs(column - other_column) / along_columns]
            if distance == "euclidean":
                ways = [math.hypot(*ways)]
            shares = [
                math.log(1 + c * way) / math.log(1 + c * max(threshold, most)) for way, most in zip(ways, longest)
            ]
            expected = encoding.mlps[1](*torch.tensor(shares)[:, None, None]).flatten().tolist()
            assert bias[:, query, key].tolist() == pytest.approx(expected, abs=1e-5)


def test_both_distances_are_listed():
    with pytest.raises(ValueError, match="'axes' or 'euclidean'; got 'manhattan'"):
        create_encoding("fire(distance='manhattan')", SHAPE)
