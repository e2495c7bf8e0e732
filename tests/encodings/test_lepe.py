"""LePE against a slow version."""

import pytest
import torch

import cpvt
from cpvt.encodings import TABLE, create_encoding
from cpvt.grids import Layout
from cpvt.models.attention import AttentionInputs, Block
from cpvt.ops import reference
from tests.encodings.slow import GRIDS, SHAPE


@pytest.mark.parametrize("scale", [None, (2.0, 1.0)])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("prefix", [0, 2])
def test_a_convolution_of_the_values_is_added_to_attention(grid, prefix, scale):
    if scale is not None and grid[0] < 2:
        pytest.skip("a grid of one row holds no object of two")
    torch.manual_seed(0)
    encoding, block = create_encoding("lepe", SHAPE), Block(16, 2, 2.0, True, 0.0)
    layout = Layout((grid,), prefix, None if scale is None else (scale,))
    x = torch.randn(2, prefix + grid[0] * grid[1], 16)
    plain = AttentionInputs.build(encoding, layout, x)
    positions = plain.at_block(encoding, layout, 3, x)
    query, key, value = block.attn.qkv(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    attended = ((query @ key.transpose(2, 3) / 8**0.5).softmax(3) @ value).transpose(1, 2).flatten(2)
    values = value.transpose(1, 2).flatten(2)[:, prefix:]
    layer = encoding.value_pegs[2]
    steps = 1 if scale is None else tuple(int(along) for along in scale)
    attended[:, prefix:] += reference.peg(values, layer.weight, layer.bias, grid, 0, dilation=steps) - values
    expected = block.attn.proj(attended)
    torch.testing.assert_close(block.attn(x, positions), expected)


@pytest.mark.parametrize("name", [*TABLE, "learned+peg"])
def test_encodings_without_hooks_on_attention_pay_nothing(name):
    model = cpvt.create_model("cpvt_micro", encoding=name)
    x, layout, positions = model.embed(torch.zeros(1, 3, 32, 32))
    own = {"block_rotation", "bias", "query_bias", "value_encoding"} & model.encoding.active_hooks
    for depth in (1, 4):
        assert (positions.at_block(model.encoding, layout, depth, x) is positions) == (not own)
