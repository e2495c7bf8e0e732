"""Contextual relative encoding against a slow version."""

import math

import pytest
import torch

from cpvt.encodings import create_encoding
from cpvt.grids import Layout
from cpvt.models.attention import AttentionInputs, Block
from tests.encodings.slow import GRIDS, SHAPE, tokens


def bucket(offset):
    """The bucket of an offset along one axis, from -3 to 3: near ones their own, far ones on a logarithmic scale."""
    if abs(offset) <= 1.9:
        return round(offset)
    far = 1.9 + math.log(abs(offset) / 1.9) / math.log(15.2 / 1.9) * (3.8 - 1.9)
    return int(math.copysign(min(3, round(far)), offset))


@pytest.mark.parametrize("scale", [None, (1.5, 2.5)])
@pytest.mark.parametrize("grid", [*GRIDS[:5], (2, 20)])
def test_the_logit_is_the_product_of_the_query_and_the_vector_of_the_bucket(grid, scale):
    torch.manual_seed(0)
    encoding, query = create_encoding("irpe", SHAPE), torch.randn(2, 2, grid[0] * grid[1], 8)
    logits, table = encoding.query_bias(query, grid, 3, scale).detach(), encoding.tables[2].detach().view(7, 7, 8)
    along_rows, along_columns = scale or (1, 1)
    for number, row, column in tokens(grid):
        for key, other_row, other_column in tokens(grid):
            rows, columns = bucket((row - other_row) / along_rows), bucket((column - other_column) / along_columns)
            expected = query[:, :, number] @ table[rows + 3, columns + 3]
            torch.testing.assert_close(logits[:, :, number, key], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("prefix", [0, 2])
def test_attention_adds_the_products_of_its_scaled_queries_before_they_turn(prefix):
    torch.manual_seed(0)
    encoding, block = create_encoding("irpe+rope+relative", SHAPE), Block(16, 2, 2.0, True, 0.0)
    layout = Layout(((3, 5),), prefix)
    x = torch.randn(2, prefix + 15, 16)
    positions = AttentionInputs.build(encoding, layout, x, [1.25]).at_block(encoding, layout, 2, x)
    encoding, block = encoding.requires_grad_(False), block.requires_grad_(False)
    query, key, value = block.attn.qkv(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    factor = 1.25 / 8**0.5
    added = torch.zeros(2, 2, prefix + 15, prefix + 15)
    added[:, :, prefix:, prefix:] = encoding.parts[0].query_bias(query[:, :, prefix:] * factor, (3, 5), 2)
    added[:, :, prefix:, prefix:] += encoding.parts[2].bias((3, 5), 2)
    (cos, sin), turn = encoding.rotation((3, 5), x.device), torch.cat
    for tensor in (query, key):
        first, second = tensor[:, :, prefix:].chunk(2, dim=3)
        tensor[:, :, prefix:] = tensor[:, :, prefix:] * cos + turn([-second, first], dim=3) * sin
    weights = (query @ key.transpose(2, 3) * factor + added).softmax(3)
    torch.testing.assert_close(block.attn.weights(x, positions), weights, atol=1e-6, rtol=1e-4)
    expected = block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(block.attn(x, positions), expected, atol=1e-6, rtol=1e-4)


def test_the_order_of_the_limits_is_checked():
    with pytest.raises(ValueError, match="alpha < beta <= gamma .*; got alpha=4"):
        create_encoding("irpe(alpha=4)", SHAPE)
