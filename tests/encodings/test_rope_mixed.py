"""RoPE-Mixed against a slow version and timm's layer."""

import cmath
import math

import pytest
import torch
from timm.layers import RotaryEmbeddingMixed

from cpvt.encodings import create_encoding
from cpvt.models.attention import rotate
from tests.encodings.slow import GRIDS, SHAPE, place, tokens


def rotated(encoding, grid, depth, x):
    """Queries or keys (B, heads, N, d), rotated as in block `depth`."""
    return rotate(x, *encoding.block_rotation(encoding.rotation(grid, torch.device("cpu")), depth)).detach()


@pytest.mark.parametrize("rule", ["scaled", "raw"])
@pytest.mark.parametrize("grid", GRIDS)
def test_each_head_of_each_block_rotates_along_its_own_directions(grid, rule):
    torch.manual_seed(0)
    encoding = create_encoding(f"rope_mixed(coordinates='{rule}')", SHAPE)
    x = torch.randn(1, 2, grid[0] * grid[1], 8)
    for depth in (1, 3):
        got, waves = rotated(encoding, grid, depth, x)[0], encoding.waves[depth - 1].tolist()
        for number, row, column in tokens(grid):
            y, x_place = (place(row, grid[0], 4), place(column, grid[1], 6)) if rule == "scaled" else (row, column)
            for head in range(2):
                for pair in range(4):
                    angle = waves[0][head][pair] * y + waves[1][head][pair] * x_place
                    before = complex(x[0, head, number, pair], x[0, head, number, pair + 4])
                    after = complex(got[head, number, pair], got[head, number, pair + 4])
                    assert abs(after - before * cmath.exp(1j * angle)) < 1e-5


def test_timms_layer_gives_the_same_logits():
    # timm rotates channels 2t and 2t + 1 together and we t and t + d / 2: the same channels in another order
    torch.manual_seed(0)
    timms = RotaryEmbeddingMixed(16, depth=4, num_heads=2, feat_shape=[3, 5])
    encoding = create_encoding("rope_mixed(coordinates='raw')", SHAPE)
    with torch.no_grad():
        for depth, waves in enumerate(encoding.waves):
            waves[1].copy_(timms.freqs[0, depth])  # x first
            waves[0].copy_(timms.freqs[1, depth])
    query, key = torch.randn(2, 1, 2, 15, 8)
    theirs = timms.get_embed([3, 5])  # (depth, heads, N, 2 d): sine, then cosine
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    for depth in (1, 2, 4):
        sin, cos = theirs[depth - 1].chunk(2, dim=-1)

        def turn(x, sin=sin, cos=cos):
            across = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
            return x * cos + across * sin

        logits = turn(query) @ turn(key).transpose(2, 3)
        ours = rotated(encoding, (3, 5), depth, query[..., order])
        ours = ours @ rotated(encoding, (3, 5), depth, key[..., order]).transpose(2, 3)
        torch.testing.assert_close(ours, logits.detach(), atol=1e-5, rtol=1e-5)


def test_waves_start_across_each_other_with_falling_magnitudes():
    torch.manual_seed(0)
    first, second = (waves.detach() for waves in create_encoding("rope_mixed", SHAPE).waves[:2])
    torch.testing.assert_close(first.norm(dim=0), torch.tensor([1.0, 10**-0.5] * 2).expand(2, -1))
    torch.testing.assert_close((first[:, :, :2] * first[:, :, 2:]).sum(0), torch.zeros(2, 2), atol=1e-6, rtol=0)
    angles = torch.atan2(torch.stack([first[0], second[0]]), torch.stack([first[1], second[1]]))[:, :, 0].flatten()
    assert len({round(float(angle), 3) for angle in angles}) == 4  # another direction for each head of each block
    assert math.pi > angles.abs().max() > 0
