"""Swin v2's continuous bias against a slow version and timm's layer."""

import math

import pytest
import torch
from timm.layers import RelPosMlp

from cpvt.encodings import create_encoding
from tests.encodings.slow import GRIDS, SHAPE, tokens


def coordinate(offset, training_length):
    """The offset along one axis on a logarithmic scale."""
    offset = 8 * offset / max(1, training_length - 1)
    return math.copysign(math.log2(1 + abs(offset)) / 3, offset)


@pytest.mark.parametrize("scale", [None, (2.0, 1.5)])
@pytest.mark.parametrize("grid", GRIDS[:5])
def test_the_bias_is_a_network_of_the_offset(grid, scale):
    torch.manual_seed(0)
    encoding = create_encoding("cpb(hidden_dim=8)", SHAPE).requires_grad_(False)
    bias, (first, second) = encoding.bias(grid, 2, scale), (encoding.mlps[1].fc1, encoding.mlps[1].fc2)
    along_rows, along_columns = scale or (1, 1)
    for query, row, column in tokens(grid):
        for key, other_row, other_column in tokens(grid):
            rows = coordinate((other_row - row) / along_rows, 4)
            columns = coordinate((other_column - column) / along_columns, 6)
            hidden = [
                max(0.0, float(w[0]) * rows + float(w[1]) * columns + float(b))
                for w, b in zip(first.weight, first.bias)
            ]
            for head, weights in enumerate(second.weight):
                number = sum(float(w) * h for w, h in zip(weights, hidden))
                assert bias[head, query, key] == pytest.approx(16 / (1 + math.exp(-number)), abs=1e-4)


@pytest.mark.parametrize("grid", [(4, 6), (7, 5)])
def test_timms_layer_gives_the_same_up_to_the_sign_of_offsets(grid):
    # timm counts offsets as query minus key and we as key minus query: its bias is ours with both exchanged
    torch.manual_seed(0)
    timms = RelPosMlp(grid, num_heads=2, hidden_dim=512, mode="swin")
    encoding = create_encoding("cpb", SHAPE._replace(grid=grid))
    encoding.mlps[0].fc1.load_state_dict(timms.mlp.fc1.state_dict())
    encoding.mlps[0].fc2.load_state_dict(timms.mlp.fc2.state_dict())
    theirs = timms.eval().get_bias()[0]
    torch.testing.assert_close(encoding.bias(grid, 1), theirs.transpose(1, 2))
