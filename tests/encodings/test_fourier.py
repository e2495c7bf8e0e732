"""Learnable Fourier features against a slow version."""

import math

import pytest
import torch
import torch.nn.functional as F

from cpvt.encodings import create_encoding
from cpvt.grids import Layout
from tests.encodings.slow import GRIDS, SHAPE, place, tokens


@pytest.mark.parametrize("rule", ["scaled", "raw"])
@pytest.mark.parametrize("grid", GRIDS)
def test_features_of_the_place_go_through_a_network(grid, rule):
    torch.manual_seed(0)
    encoding = create_encoding(f"fourier(coordinates='{rule}', gamma=0.2)", SHAPE).requires_grad_(False)
    added = encoding(torch.zeros(1, grid[0] * grid[1], 16), Layout((grid,)), 0)[0].detach()
    for number, row, column in tokens(grid):
        y, x = (place(row, grid[0], 4), place(column, grid[1], 6)) if rule == "scaled" else (row, column)
        waves = [float(w[0]) * (y + 0.5) / 4 + float(w[1]) * (x + 0.5) / 6 for w in encoding.waves]
        features = torch.tensor([f(wave) / 4 for f in (math.cos, math.sin) for wave in waves])  # 4: the root of 16
        expected = encoding.fc2(F.gelu(encoding.fc1(features)))
        torch.testing.assert_close(added[number], expected.detach(), atol=1e-6, rtol=1e-4)


def test_waves_start_with_the_deviation_asked_for():
    torch.manual_seed(0)
    waves = create_encoding("fourier(gamma=10.0)", SHAPE._replace(dim=4096)).waves.detach()
    assert waves.std() == pytest.approx(0.1, rel=0.05)
    with pytest.raises(ValueError, match="even width; got 15"):
        create_encoding("fourier", SHAPE._replace(dim=15))
