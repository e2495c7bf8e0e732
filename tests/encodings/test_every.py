"""Properties that every encoding of the table must have; a new line in the table is tested with no further edit.

Whoever adds an encoding owes one more test, against a slow version: see test_truth.py.
"""

import pytest
import torch

from cpvt.encodings import TABLE, ModelShape, create_encoding
from cpvt.encodings.base import PositionalEncoding
from cpvt.encodings.peg import PEGEncoding
from cpvt.encodings.relative import RelativeEncoding
from cpvt.encodings.sincos import SinCosEncoding
from cpvt.models.parts import Block, Positions
from cpvt.ops import reference
from cpvt.shapes import Layout

NAMES = [*TABLE, "relative(shared=True)", "learned+peg", "relative+rope"]
SHAPE = ModelShape(dim=16, depth=3, num_heads=2, grid=(4, 6))
GRIDS = [(4, 6), (6, 4), (3, 5), (1, 7), (7, 1), (1, 1), (9, 2)]


class Tower(torch.nn.Module):
    """Blocks around one encoding, as the model wires them; tokens in, tokens out."""

    def __init__(self, encoding):
        super().__init__()
        self.encoding = encoding
        self.blocks = torch.nn.ModuleList(Block(SHAPE.dim, SHAPE.num_heads, 2.0, True, 0.0) for _ in range(SHAPE.depth))

    def forward(self, x, grid, prefix=0):
        layout = Layout((grid,), prefix)
        positions = Positions.build(self.encoding, layout, x)
        x = self.encoding(x, layout, 0)
        for depth, block in enumerate(self.blocks, start=1):
            x = self.encoding(block(x, positions.with_bias(self.encoding, layout, depth)), layout, depth)
        return x


def build(name, dtype=torch.float64):
    """A tower with weights large enough that positions matter visibly, in eval mode."""
    torch.manual_seed(0)
    tower = Tower(create_encoding(name, SHAPE))
    for parameter in tower.encoding.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return tower.to(dtype).eval()


def draw(grid, prefix=0, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, prefix + grid[0] * grid[1], SHAPE.dim, generator=generator, dtype=torch.float64).to(dtype)


def check_shape_and_numbers(tower, grid, prefix):
    out = tower(draw(grid, prefix), grid, prefix)
    assert out.shape == (2, prefix + grid[0] * grid[1], SHAPE.dim)
    assert out.isfinite().all()


def check_pictures_do_not_see_each_other(tower):
    x = draw((3, 5), 1)
    alone = tower(x[:1], (3, 5), 1)
    torch.testing.assert_close(tower(x, (3, 5), 1)[:1], alone)
    changed = torch.cat([x[:1], x[1:] + 1.0])
    torch.testing.assert_close(tower(changed, (3, 5), 1)[:1], alone)


def check_equal_token_counts_on_other_grids_differ(tower):
    x = draw((2, 8))
    outputs = [tower(x, grid) for grid in ((2, 8), (8, 2), (4, 4))]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (outputs[first] - outputs[second]).abs().max() > 1e-4


def moved(tower, axis):
    """How much the outputs, put back in order, change when the tokens are rolled by one place along an axis."""
    grid = (4, 6)
    x = draw(grid)
    rolled = x.unflatten(1, grid).roll(1, dims=1 + axis).flatten(1, 2)
    out = tower(rolled, grid).unflatten(1, grid).roll(-1, dims=1 + axis).flatten(1, 2)
    return (out - tower(x, grid)).abs().max().item()


def check_both_axes_are_seen(tower):
    assert moved(tower, axis=0) > 1e-4
    assert moved(tower, axis=1) > 1e-4


def check_rows_and_columns_are_told_apart(tower):
    """Transposing the picture must not merely transpose the outputs: the two axes have meanings of their own."""
    x = draw((4, 4))
    turned = x.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
    out = tower(turned, (4, 4)).unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
    assert (out - tower(x, (4, 4))).abs().max() > 1e-4


def check_every_parameter_gets_a_gradient(tower):
    tower(draw((4, 6), 1), (4, 6), 1).square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def check_two_models_share_no_state(first, second):
    x = draw((3, 5))
    before = second(x, (3, 5))
    with torch.no_grad():
        for tensor in [*first.parameters(), *first.buffers()]:
            tensor.add_(1)
    first(draw((9, 2)), (9, 2))
    assert torch.equal(second(x, (3, 5)), before)


def check_positions_matter(tower):
    permutation = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    x = draw((4, 6))
    assert (tower(x[:, permutation], (4, 6)) - tower(x, (4, 6))[:, permutation]).abs().max() > 1e-3


def check_a_call_leaves_no_trace(tower):
    x = draw((3, 5))
    before = tower(x, (3, 5))
    tower(draw((6, 4)), (6, 4))
    assert torch.equal(tower(x, (3, 5)), before)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", NAMES)
def test_any_grid_and_any_prefix(name, grid, prefix):
    check_shape_and_numbers(build(name), grid, prefix)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_a_batch_do_not_see_each_other(name):
    check_pictures_do_not_see_each_other(build(name))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none"])
def test_positions_matter_on_both_axes_and_grids_of_equal_count_differ(name):
    check_positions_matter(build(name))
    check_both_axes_are_seen(build(name))
    check_rows_and_columns_are_told_apart(build(name))
    check_equal_token_counts_on_other_grids_differ(build(name))


def test_without_an_encoding_positions_do_not_matter():
    for check in (check_positions_matter, check_both_axes_are_seen, check_equal_token_counts_on_other_grids_differ):
        with pytest.raises(AssertionError):
            check(build("none"))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    check_every_parameter_gets_a_gradient(build(name))


@pytest.mark.parametrize("name", NAMES)
def test_two_models_share_no_state_and_a_call_leaves_no_trace(name):
    check_two_models_share_no_state(build(name), build(name))
    check_a_call_leaves_no_trace(build(name))


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_stays_close_to_float64(name, prefix):
    tower, low = build(name), build(name, torch.bfloat16)
    x = draw((3, 5), prefix)
    out = low(x.to(torch.bfloat16), (3, 5), prefix)
    assert out.dtype == torch.bfloat16
    error = (out.double() - tower(x, (3, 5), prefix)).norm() / tower(x, (3, 5), prefix).norm()
    assert error < 0.03


@pytest.mark.parametrize("name", NAMES)
def test_a_prefix_token_never_meets_the_hooks(name):
    tower = build(name)
    x = draw((3, 5), 2)
    for depth in range(SHAPE.depth + 1):
        out = tower.encoding(x, Layout(((3, 5),), 2), depth)
        assert torch.equal(out[:, :2], x[:, :2])
        torch.testing.assert_close(out[:, 2:], tower.encoding(x[:, 2:], Layout(((3, 5),)), depth))
        # however an encoding speeds up its forward, it equals the base class's own
        torch.testing.assert_close(out, PositionalEncoding.forward(tower.encoding, x, Layout(((3, 5),), 2), depth))


@pytest.mark.parametrize("name", NAMES)
def test_the_state_dict_restores_the_encoding(name):
    first, second = build(name), Tower(create_encoding(name, SHAPE)).double().eval()
    second.load_state_dict(first.state_dict())
    x = draw((9, 2))
    assert torch.equal(first(x, (9, 2)), second(x, (9, 2)))


# Planted faults: each kind must be caught by a check above, or the checks are worth nothing.


class SharedState(SinCosEncoding):
    """Keeps its first table for every model and every grid of as many tokens."""

    cache = {}  # noqa: RUF012

    def table(self, grid, device):
        return self.cache.setdefault(grid[0] * grid[1], super().table(grid, device))


class SharedParameter(PEGEncoding):
    """Every model holds the very same weights."""

    common = torch.nn.Parameter(torch.full((16, 1, 3, 3), 0.3, dtype=torch.float64))

    def tokens(self, x, grid, depth):
        self.peg[str(depth)].weight = self.common
        return super().tokens(x, grid, depth)

    forward = PositionalEncoding.forward


class CountInsteadOfGrid(SinCosEncoding):
    """Guesses a square from the number of tokens."""

    def table(self, grid, device):
        count = grid[0] * grid[1]
        side = next(side for side in range(int(count**0.5), 0, -1) if count % side == 0)
        return super().table((side, count // side), device)


class RowsForBothAxes(SinCosEncoding):
    """Encodes the row where the column belongs."""

    def table(self, grid, device):
        rows = super().table(grid, device)[:, :8]
        return torch.cat([rows, rows], dim=1)


class SwappedAxes(PEGEncoding):
    """Reads the grid as columns x rows."""

    def tokens(self, x, grid, depth):
        return super().tokens(x, (grid[1], grid[0]), depth)

    forward = PositionalEncoding.forward


class BatchLeak(PEGEncoding):
    """Normalises over the batch."""

    def tokens(self, x, grid, depth):
        return super().tokens(x - x.mean(dim=0), grid, depth)

    forward = PositionalEncoding.forward


class FirstTableOnly(RelativeEncoding):
    """Gives every block the first one's bias."""

    def bias(self, grid, depth):
        return super().bias(grid, 1)


class Identity(PEGEncoding):
    """Has weights and uses none."""

    def tokens(self, x, grid, depth):
        return x

    forward = PositionalEncoding.forward


def planted(fault):
    torch.manual_seed(0)
    tower = Tower(fault(SHAPE)).double().eval()
    for parameter in tower.encoding.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return tower


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (SharedState, check_equal_token_counts_on_other_grids_differ),
        (SharedParameter, lambda tower: check_two_models_share_no_state(tower, planted(SharedParameter))),
        (CountInsteadOfGrid, check_equal_token_counts_on_other_grids_differ),
        (RowsForBothAxes, check_both_axes_are_seen),
        (BatchLeak, check_pictures_do_not_see_each_other),
        (FirstTableOnly, check_every_parameter_gets_a_gradient),
        (Identity, check_positions_matter),
        (Identity, check_every_parameter_gets_a_gradient),
    ],
)
def test_a_planted_fault_is_caught(fault, check):
    tower = planted(fault)
    tower(draw((3, 5)), (3, 5))  # a first call, which fills what a fault may keep
    with pytest.raises(AssertionError):
        check(tower)


def test_swapped_axes_are_caught_by_the_slow_version_only():
    # every generic property holds for it, which is why each encoding owes a test against a slow version
    tower = planted(SwappedAxes)
    check_positions_matter(tower)
    check_both_axes_are_seen(tower)
    check_equal_token_counts_on_other_grids_differ(tower)
    layer = tower.encoding.peg["1"]
    x = draw((3, 5))
    truth = reference.peg(x, layer.weight, layer.bias, (3, 5))
    assert (tower.encoding(x, Layout(((3, 5),)), 1) - truth).abs().max() > 0.1
    healthy = PEGEncoding(SHAPE).double()
    healthy.load_state_dict(tower.encoding.state_dict())
    torch.testing.assert_close(healthy(x, Layout(((3, 5),)), 1), truth)
