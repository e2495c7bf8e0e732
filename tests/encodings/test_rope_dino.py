"""DINOv3's RoPE against a slow version and timm's layer."""

import math

import pytest
import torch
from timm.layers import RotaryEmbeddingDinoV3

from cpvt.encodings import create_encoding
from tests.encodings.slow import GRIDS, SHAPE, tokens


@pytest.mark.parametrize("grid", GRIDS)
def test_angles_are_of_coordinates_from_minus_one_to_one(grid):
    encoding = create_encoding("rope_dino", SHAPE).eval()
    cos, sin = encoding.rotation(grid, torch.device("cpu"))
    for number, row, column in tokens(grid):
        for channel in range(8):
            pair = channel % 4  # two turn with the row, two with the column
            at = 2 * (row + 0.5) / grid[0] - 1 if pair < 2 else 2 * (column + 0.5) / grid[1] - 1
            angle = 2 * math.pi * at / 100 ** (pair % 2 / 2)
            assert cos[number, channel] == pytest.approx(math.cos(angle), abs=1e-5)
            assert sin[number, channel] == pytest.approx(math.sin(angle), abs=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_timms_tables_are_the_same(grid):
    encoding = create_encoding("rope_dino", SHAPE).eval()
    cos, sin = encoding.rotation(grid, torch.device("cpu"))
    theirs = RotaryEmbeddingDinoV3(8, feat_shape=list(grid)).eval().get_embed(list(grid))  # sine, then cosine
    torch.testing.assert_close(torch.cat([sin, cos], dim=1), theirs, atol=1e-5, rtol=1e-5)


def test_training_rescales_both_axes_together():
    torch.manual_seed(0)
    encoding = create_encoding("rope_dino", SHAPE).train()
    at_rest = encoding.coordinates.places((4, 6), torch.device("cpu"), None)
    ratios = []
    for _ in range(200):
        places = encoding.coordinates.places((4, 6), torch.device("cpu"), None, training=True)
        rows, columns = ((got - (side - 1) / 2) / (rest - (side - 1) / 2) for got, rest, side in
                         zip(places, at_rest, (4, 6)))  # fmt: skip
        torch.testing.assert_close(rows, rows[0].expand(24))
        torch.testing.assert_close(columns, rows)
        ratios.append(float(rows[0]))
    assert 0.5 <= min(ratios) < 0.55
    assert 1.8 < max(ratios) <= 2
    off = create_encoding("rope_dino(jitter=None)", SHAPE).train()
    assert torch.equal(
        off.rotation((4, 6), torch.device("cpu"))[0], encoding.eval().rotation((4, 6), torch.device("cpu"))[0]
    )
