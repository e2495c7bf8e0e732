"""Each encoding against a slow version that can be checked by eye."""

import math
from itertools import pairwise

import pytest
import torch

from cpvt.encodings import TABLE, ModelShape, create_encoding
from cpvt.grids import Layout
from cpvt.models.attention import AttentionInputs, rotate

SHAPE = ModelShape(dim=16, depth=4, num_heads=2, grid=(4, 6))
GRIDS = [(4, 6), (6, 4), (1, 7), (7, 1), (3, 5), (9, 11)]


def place(index, length, training_length):
    """Where token `index` of an axis stands, on the training axis."""
    return (index + 0.5) * training_length / length - 0.5


def cubic(distance):
    """Keys' cubic kernel with a = -0.75, as bicubic interpolation uses it."""
    d, a = abs(distance), -0.75
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


@pytest.mark.parametrize("grid", GRIDS)
def test_learned_is_the_table_resized_bicubically(grid):
    encoding = create_encoding("learned", SHAPE)
    table = encoding.table.detach().view(4, 6, 16)
    expected = torch.zeros(grid[0], grid[1], 16)
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = place(row, grid[0], 4), place(column, grid[1], 6)
            for i in range(math.floor(y) - 1, math.floor(y) + 3):
                for j in range(math.floor(x) - 1, math.floor(x) + 3):
                    weight = cubic(y - i) * cubic(x - j)
                    expected[row, column] += weight * table[min(max(i, 0), 3), min(max(j, 0), 5)]
    torch.testing.assert_close(encoding.resized(grid)[0], expected.flatten(0, 1), atol=1e-6, rtol=1e-4)


def test_learned_at_the_training_grid_is_the_table_itself():
    encoding = create_encoding("learned", SHAPE)
    tokens = torch.zeros(2, 24, 16)
    assert torch.equal(encoding(tokens, Layout(((4, 6),)), 0), encoding.table.expand(2, -1, -1))


@pytest.mark.parametrize("rule", ["scaled", "raw"])
@pytest.mark.parametrize("grid", GRIDS)
def test_sincos_is_sines_and_cosines_of_row_and_column(grid, rule):
    encoding = create_encoding(f"sincos(coordinates='{rule}')", SHAPE)
    table = encoding(torch.zeros(1, grid[0] * grid[1], 16), Layout((grid,)), 0)[0]
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = (place(row, grid[0], 4), place(column, grid[1], 6)) if rule == "scaled" else (row, column)
            waves = [10000 ** (-i / 4) for i in range(4)]
            expected = [f(p * wave) for p in (y, x) for f in (math.sin, math.cos) for wave in waves]
            torch.testing.assert_close(table[row * grid[1] + column], torch.tensor(expected), atol=1e-5, rtol=1e-4)


def relative_by_hand(table, grid):
    """The number of each pair of tokens in a table (heads, 7, 7) of offsets from -3 to 3."""
    h, w = grid
    bias = torch.zeros(len(table), h * w, h * w)
    for query in range(h * w):
        for key in range(h * w):
            rows = min(max(key // w - query // w, -3), 3)
            columns = min(max(key % w - query % w, -3), 3)
            bias[:, query, key] = table[:, rows + 3, columns + 3]
    return bias


@pytest.mark.parametrize("grid", [*GRIDS, (2, 12)])
def test_relative_is_one_number_per_block_head_and_clipped_offset(grid):
    encoding = create_encoding("relative(max_offset=3)", SHAPE)
    assert len(encoding.tables) == 4
    for depth, table in zip((1, 2, 3, 4), encoding.tables):
        assert torch.equal(encoding.bias(grid, depth), relative_by_hand(table.detach().view(2, 7, 7), grid))


def test_a_shared_relative_table_serves_all_blocks():
    torch.manual_seed(0)
    encoding = create_encoding("relative(max_offset=3, shared=True)", SHAPE)
    torch.manual_seed(0)
    drawn = torch.nn.init.trunc_normal_(torch.empty(2, 49), std=0.02)
    (table,) = encoding.tables
    assert torch.equal(table, drawn)
    for depth in (1, 2, 3, 4):
        assert torch.equal(encoding.bias((3, 5), depth), relative_by_hand(drawn.view(2, 7, 7), (3, 5)))


def test_tables_of_one_content_are_one_table():
    alone, shared = (create_encoding(f"relative(shared={shared})", SHAPE) for shared in (False, True))
    assert not any(torch.equal(table, other) for table, other in pairwise(alone.tables))
    with torch.no_grad():
        for table in alone.tables:
            table.copy_(shared.tables[0])
    for depth in (1, 2, 3, 4):
        assert torch.equal(alone.bias((4, 6), depth), shared.bias((4, 6), depth))


@pytest.mark.parametrize("rule", ["scaled", "raw"])
@pytest.mark.parametrize("grid", GRIDS)
def test_rope_turns_pairs_of_channels_by_row_and_column(grid, rule):
    encoding = create_encoding(f"rope(coordinates='{rule}')", SHAPE)
    cos, sin = encoding.rotation(grid, torch.device("cpu"))
    x = torch.randn(1, 1, grid[0] * grid[1], 8, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, cos, sin)
    for row in range(grid[0]):
        for column in range(grid[1]):
            y_place, x_place = (
                (place(row, grid[0], 4), place(column, grid[1], 6)) if rule == "scaled" else (row, column)
            )
            token = row * grid[1] + column
            for pair in range(4):  # two pairs turn with the row, two with the column
                angle = (y_place if pair < 2 else x_place) * 100 ** (-(pair % 2) / 2)
                before = complex(x[0, 0, token, pair], x[0, 0, token, pair + 4])
                after = before * complex(math.cos(angle), math.sin(angle))
                got = complex(turned[0, 0, token, pair], turned[0, 0, token, pair + 4])
                assert abs(got - after) < 1e-5


def test_rope_makes_attention_depend_on_offsets_alone():
    encoding = create_encoding("rope(coordinates='raw')", SHAPE)
    cos, sin = encoding.rotation((5, 5), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(8, generator=generator).expand(1, 1, 25, 8) for _ in range(2))
    logits = (rotate(query, cos, sin) @ rotate(key, cos, sin).transpose(-1, -2))[0, 0].view(5, 5, 5, 5)
    torch.testing.assert_close(logits[0, 0, 1, 2], logits[3, 2, 4, 4])
    assert (logits[0, 0, 1, 2] - logits[0, 0, 2, 1]).abs() > 1e-3


def test_prefix_tokens_are_not_turned_and_get_no_bias():
    encoding = create_encoding("rope+relative", SHAPE)
    (cos, _), bias = encoding.rotation((4, 6), torch.device("cpu")), encoding.bias((4, 6), 3)
    layout = Layout(((4, 6),), 2)
    positions = AttentionInputs.build(encoding, layout, torch.zeros(1, 26, 16))
    positions = positions.at_block(encoding, layout, 3, torch.zeros(1, 26, 16))
    assert torch.equal(positions.cos[:2], torch.ones(2, 8))
    assert torch.equal(positions.sin[:2], torch.zeros(2, 8))
    assert torch.equal(positions.cos[2:], cos)
    widened = positions.bias
    assert not widened[..., :2, :].any()
    assert not widened[..., :2].any()
    assert torch.equal(widened[0, :, 2:, 2:], bias)


def test_five_pegs_stand_after_blocks_one_to_five_or_the_last_but_one():
    assert create_encoding("peg5", SHAPE._replace(depth=12)).at == (1, 2, 3, 4, 5)
    assert create_encoding("peg5", SHAPE._replace(depth=4)).at == (1, 2, 3)
    assert create_encoding("peg5", SHAPE._replace(depth=1)).at == (1,)


def test_a_sum_applies_its_parts_from_left_to_right():
    encoding = create_encoding("learned+peg(at=(0, 2))", SHAPE)
    assert encoding.at == (0, 2)
    tokens = torch.randn(1, 24, 16)
    learned, peg = encoding.parts
    layout = Layout(((4, 6),))
    torch.testing.assert_close(encoding(tokens, layout, 0), peg(learned(tokens, layout, 0), layout, 0))
    torch.testing.assert_close(encoding(tokens, layout, 2), peg(tokens, layout, 2))
    both = create_encoding("relative+rope+relative", SHAPE)
    for depth in (1, 4):
        first, second = (part.bias((3, 5), depth) for part in (both.parts[0], both.parts[2]))
        torch.testing.assert_close(both.bias((3, 5), depth), first + second)
    assert both.rotation((3, 5), torch.device("cpu")) is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pge", rf"unknown encoding 'pge' \(did you mean peg\?\); known: {', '.join(TABLE)}"),
        ("learned+nothing", "unknown encoding 'nothing'"),
        ("peg - learned", "unknown encoding"),
        ("", "unknown encoding"),
        ("peg(kernel=5)", "'peg' does not take option 'kernel'; known options: at, kernel_size, padding_mode"),
        ("peg(3)", "does not take options without a name"),
        ("none(at=1)", "known options: none at all"),
        ("peg(at=open('x'))", "must be plain numbers"),
        ("peg(at=(1, 5))", r"from 0 \(before block 1\) to 4"),
        ("peg(at=())", "must list different depths"),
        ("peg(at=(1, 1))", "must list different depths"),
        ("peg(kernel_size=4)", "odd"),
        ("rope+rope", "at most one"),
        ("relative(max_offset=0)", "1 or more"),
        ("sincos(coordinates='polar')", "scaled, object, raw; got 'polar'"),
    ],
)
def test_encodings_that_do_not_exist_or_fit(text, words):
    with pytest.raises(ValueError, match=words):
        create_encoding(text, SHAPE)


def test_widths_that_do_not_divide():
    with pytest.raises(ValueError, match="sincos needs a width that is a multiple of 4; got 18"):
        create_encoding("sincos", SHAPE._replace(dim=18))
    with pytest.raises(ValueError, match="rope needs a head width that is a multiple of 4; got 6"):
        create_encoding("rope", SHAPE._replace(dim=12))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lookhere(depth=0)", "depth of 'lookhere' must be a whole number above 0; got 0"),
        ("lookhere(view=[90])", r"one of 180, 90, 45; got \[90\]"),
        ("cpb(hidden_dim=1.5)", "hidden_dim of 'cpb' must be a whole number above 0; got 1.5"),
        ("fire(hidden_dim=0)", "hidden_dim of 'fire'"),
        ("rope(base=-1)", "base of 'rope' must be a number above 0; got -1"),
        ("rope_mixed(base='a')", "base of 'rope_mixed'"),
        ("rope_dino(base=True)", "base of 'rope_dino'"),
        ("sincos(temperature=0)", "temperature of 'sincos'"),
        ("glpe(temperature=1e999)", "temperature of 'glpe'"),
        ("fourier(gamma=0)", "gamma of 'fourier'"),
        ("irpe(alpha='a')", "alpha of 'irpe'"),
        ("irpe(alpha=0.2, beta=0.5)", "beta of 1 or more"),
        ("rope(tuned=True, coordinates='object')", "leave out coordinates='object'"),
    ],
)
def test_options_that_make_no_sense(text, words):
    with pytest.raises(ValueError, match=words):
        create_encoding(text, SHAPE)
