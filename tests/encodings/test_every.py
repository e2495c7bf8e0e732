"""Properties that every encoding of the table must have; a new line in the table is tested with no further edit.

Whoever adds an encoding owes one more test, against a slow version: see test_truth.py.
"""

import pytest
import torch

import cpvt
from cpvt import testing
from cpvt.encodings import TABLE, PositionalEncoding, create_encoding
from cpvt.encodings.none import NoEncoding
from cpvt.encodings.peg import PEGEncoding
from cpvt.encodings.relative import RelativeEncoding
from cpvt.encodings.sincos import SinCosEncoding
from cpvt.grids import Layout
from cpvt.ops import reference

NAMES = [*TABLE, "relative(shared=True)", "learned+peg", "relative+rope"]


@pytest.mark.parametrize("check", testing.CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_an_encoding_has_the_property(name, check):
    check(testing.builder(name))


@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_another_width_or_count_are_refused(name):
    encoding = create_encoding(name, testing.SHAPE)  # of width 16
    for depth in encoding.at:
        for width in (1, 8):
            with pytest.raises(ValueError, match=f"tokens of width 16; got tokens .* of width {width}"):
                encoding(torch.zeros(2, 13, width), Layout(((3, 4),), 1), depth)
            with pytest.raises(ValueError, match=f"tokens of width 16; got tokens .* of width {width}"):
                encoding(torch.zeros(1, 20, width), Layout(((3, 4), (2, 4))), depth)
        with pytest.raises(ValueError, match=r"3x4 grid needs tokens of shape \(B, 13, D\); got \(2, 1, 16\)"):
            encoding(torch.zeros(2, 1, 16), Layout(((3, 4),), 1), depth)
        with pytest.raises(ValueError, match=r"2 grids need tokens of shape \(1, 20, D\); got \(1, 21, 16\)"):
            encoding(torch.zeros(1, 21, 16), Layout(((3, 4), (2, 4))), depth)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_built_without_memory_takes_weights(name):
    torch.manual_seed(0)
    model = cpvt.create_model("cpvt_micro", encoding=name).eval()
    for parameter in model.encoding.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    empty = cpvt.create_model("cpvt_micro", encoding=name, device="meta").eval()
    empty.load_state_dict(model.state_dict(), assign=True)
    images = torch.randn(1, 3, 24, 40)
    assert torch.equal(empty(images), model(images))


# Planted faults: each kind must be caught by a check, or the checks are worth nothing.


class SharedState(SinCosEncoding):
    """Keeps its first table for every model and every grid of as many tokens."""

    cache = {}  # noqa: RUF012

    def table(self, grid, device, scale=None):
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

    def table(self, grid, device, scale=None):
        count = grid[0] * grid[1]
        side = next(side for side in range(int(count**0.5), 0, -1) if count % side == 0)
        return super().table((side, count // side), device)


class RowsForBothAxes(SinCosEncoding):
    """Encodes the row where the column belongs."""

    def table(self, grid, device, scale=None):
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


class TouchesThePrefix(PEGEncoding):
    """Adds a constant to every token, prefix tokens too."""

    def forward(self, x, layout, depth):
        return super().forward(x, layout, depth) + (depth in self.at)


class Unfaithful(SinCosEncoding):
    """Declares a symmetry that it does not have."""

    symmetries = frozenset({"flip"})


class Silent(NoEncoding):
    """Sees no positions and does not say so."""

    symmetries = frozenset()
    at = (0,)

    def tokens(self, x, grid, depth):
        return x


class Narrow(SinCosEncoding):
    """Computes in float32 and forgets to cast."""

    def tokens(self, x, grid, depth):
        out = super().tokens(x, grid, depth)
        return out if x.dtype == torch.float64 else out.float()


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        (SharedState, testing.grids_are_distinguished, "not distinguished"),
        (SharedParameter, testing.models_share_no_state, "share state"),
        (CountInsteadOfGrid, testing.grids_are_distinguished, "not distinguished"),
        (RowsForBothAxes, testing.grids_are_distinguished, "columns are not seen"),
        (BatchLeak, testing.images_are_independent, "see each other"),
        (FirstTableOnly, testing.parameters_get_gradients, "gets no gradient"),
        (Identity, testing.symmetries_are_as_declared, "'permutation' .* leaves no trace"),
        (Identity, testing.parameters_get_gradients, "gets no gradient"),
        (TouchesThePrefix, testing.prefix_tokens_pass_by, "prefix tokens are changed"),
        (Unfaithful, testing.symmetries_are_as_declared, "'flip' is declared, and outputs are off"),
        (Silent, testing.symmetries_are_as_declared, "leaves no trace"),
        (Narrow, testing.bfloat16_is_close, "come out as torch.float32"),
    ],
)
def test_a_planted_fault_is_caught_by_its_check_and_by_all_together(fault, check, words):
    with pytest.raises(AssertionError, match=words):
        check(testing.builder(fault))
    with pytest.raises(AssertionError):
        testing.check_encoding(fault)


def test_swapped_axes_are_caught_by_the_slow_version_only():
    # every generic property holds for it, which is why each encoding owes a test against a slow version
    build = testing.builder(SwappedAxes)
    testing.check_encoding(SwappedAxes)
    tower = build()
    layer, x = tower.encoding.peg["1"], testing.tokens(tower, (3, 5))
    truth = reference.peg(x, layer.weight, layer.bias, (3, 5))
    assert (tower.encoding(x, Layout(((3, 5),)), 1) - truth).abs().max() > 0.1
    healthy = PEGEncoding(testing.SHAPE).double()
    healthy.load_state_dict(tower.encoding.state_dict())
    torch.testing.assert_close(healthy(x, Layout(((3, 5),)), 1), truth)
