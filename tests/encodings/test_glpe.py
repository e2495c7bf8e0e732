"""Global-local encoding against a slow version."""

import math

import pytest
import torch

from cpvt.encodings import create_encoding
from cpvt.grids import Layout
from cpvt.ops import reference
from tests.encodings.slow import GRIDS, SHAPE, place, tokens


@pytest.mark.parametrize("grid", GRIDS)
def test_the_global_part_is_a_convolution_of_sines_and_cosines(grid):
    torch.manual_seed(0)
    encoding = create_encoding("glpe", SHAPE)
    x = torch.randn(2, grid[0] * grid[1], 16)
    table = torch.empty(1, grid[0] * grid[1], 16)
    for number, row, column in tokens(grid):
        angles = (2 * math.pi * (place(row, grid[0], 4) + 1) / 4, 2 * math.pi * (place(column, grid[1], 6) + 1) / 6)
        waves = [10000 ** (-i / 4) for i in range(4)]
        values = [f(angle * wave) for angle in angles for f in (math.sin, math.cos) for wave in waves]
        table[0, number] = torch.tensor(values)
    layer = encoding.global_peg
    expected = x + reference.peg(table, layer.weight, layer.bias, grid) - table
    torch.testing.assert_close(encoding(x, Layout((grid,)), 0), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_local_part_is_one_convolution_for_all_heads_and_starts_at_zero(grid):
    torch.manual_seed(0)
    encoding = create_encoding("glpe", SHAPE)
    values = torch.randn(2, grid[0] * grid[1], 16)
    assert not encoding.value_encoding(values, grid, 2).any()
    layer = encoding.value_pegs[1]
    torch.nn.init.normal_(layer.weight)
    got = encoding.value_encoding(values, grid, 2)
    for head in (slice(0, 8), slice(8, 16)):
        own = values[..., head].contiguous()
        expected = reference.peg(own, layer.weight, layer.bias, grid) - own
        torch.testing.assert_close(got[..., head], expected, atol=1e-5, rtol=1e-4)
    encoding.reset_parameters()
    assert not encoding.value_encoding(values, grid, 2).any()


def test_both_convolutions_read_neighbours_at_the_distance_told():
    torch.manual_seed(0)
    encoding, values = create_encoding("glpe(coordinates='object')", SHAPE), torch.randn(2, 24, 16)
    layer = encoding.value_pegs[0]
    torch.nn.init.normal_(layer.weight)
    expected = torch.cat(
        [reference.peg(own, layer.weight, layer.bias, (4, 6), dilation=(2, 3)) - own for own in values.split(8, dim=2)],
        dim=2,
    )
    got = encoding.value_encoding(values, (4, 6), 1, (2.0, 3.0))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    table = encoding.table((4, 6), values.device, (2.0, 3.0))[None]
    layer = encoding.global_peg
    expected = values + reference.peg(table, layer.weight, layer.bias, (4, 6), dilation=(2, 3)) - table
    torch.testing.assert_close(encoding.tokens(values, (4, 6), 0, (2.0, 3.0)), expected, atol=1e-5, rtol=1e-4)
