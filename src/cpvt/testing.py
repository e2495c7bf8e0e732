"""Checks for a positional encoding of one's own: the properties that every encoding of the package is tested for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cpvt.encodings import ModelShape, PositionalEncoding, create_encoding
from cpvt.encodings.base import SYMMETRIES
from cpvt.grids import Grid, Layout
from cpvt.models.attention import AttentionInputs, Block

SHAPE = ModelShape(dim=16, depth=3, num_heads=2, grid=(4, 6))
GRIDS = [(4, 6), (6, 4), (3, 5), (1, 7), (7, 1), (1, 1), (9, 2)]
VISIBLE = 1e-4  # outputs of order 1 differ by more than this where positions matter
NOT_TO_BE_SEEN = 1e-9  # and by less where they don't, in float64


class Tower(nn.Module):
    """A few transformer blocks around one encoding, as the model wires them; tokens in, tokens out."""

    def __init__(self, encoding: PositionalEncoding, shape: ModelShape = SHAPE) -> None:
        super().__init__()
        self.encoding = encoding
        self.blocks = nn.ModuleList(Block(shape.dim, shape.num_heads, 2.0, True, 0.0) for _ in range(shape.depth))

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        inputs = AttentionInputs.build(self.encoding, layout, x)
        x = self.encoding(x, layout, 0)
        for depth, block in enumerate(self.blocks, start=1):
            x = self.encoding(block(x, inputs.at_block(self.encoding, layout, depth, x)), layout, depth)
        return x


Build = Callable[..., Tower]  # (dtype=torch.float64) -> a tower, drawn from the same seed every time


def check_encoding(encoding: Any, shape: ModelShape = SHAPE) -> None:
    """Check an encoding of one's own: raises AssertionError that says which property it lacks, and what was measured.

    encoding: whatever `create_model(encoding=...)` takes, a class or a name; not an instance, as several are built. Its
    declared `symmetries` are measured: those it declares must hold, and those it does not must visibly fail. What no
    generic check can see, such as rows and columns that are exchanged, needs a test against a slow version of your own.
    """
    for check in CHECKS:
        check(builder(encoding, shape))


def builder(encoding: Any, shape: ModelShape = SHAPE) -> Build:
    """A function that builds towers around an encoding, with weights so large that positions matter visibly."""

    def build(dtype: torch.dtype = torch.float64) -> Tower:
        torch.manual_seed(0)
        tower = Tower(create_encoding(encoding, shape), shape)
        for parameter in tower.encoding.parameters():
            nn.init.normal_(parameter, std=0.5)
        return tower.to(dtype).eval()

    return build


def tokens(tower: Tower, grid: Grid, prefix: int = 0, batch: int = 2) -> Tensor:
    """The same random tokens (B, P + N, D) at every call, in the precision of the tower."""
    weight = next(tower.blocks.parameters())
    width = tower.blocks[0].norm1.weight.shape[0]  # type: ignore[union-attr, index]
    generator = torch.Generator().manual_seed(1)
    shape: Any = (batch, prefix + grid[0] * grid[1], width)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn.to(weight.dtype)


def run(tower: Tower, grid: Grid, prefix: int = 0, x: Tensor | None = None) -> Tensor:
    """What the tower makes of tokens on a grid."""
    out: Tensor = tower(tokens(tower, grid, prefix) if x is None else x, Layout((grid,), prefix))
    return out


def difference(first: Tensor, second: Tensor) -> float:
    """The largest difference of two tensors."""
    return (first - second).detach().abs().max().item()


def takes_any_grid(build: Build) -> None:
    """Outputs have the shape of the tokens and are finite, on any grid and with any number of prefix tokens."""
    tower = build()
    for grid in GRIDS:
        bias, n = tower.encoding.bias(grid, 1), grid[0] * grid[1]
        assert bias is None or (bias.ndim == 3 and bias.shape[1:] == (n, n)), (
            f"the bias of a {grid} grid must be (heads, {n}, {n}); got {tuple(bias.shape)}"
        )
        for prefix in (0, 1, 5):
            x = tokens(tower, grid, prefix)
            out = run(tower, grid, prefix, x)
            assert out.shape == x.shape, (
                f"a {grid} grid and {prefix} prefix tokens: {tuple(x.shape)} -> {tuple(out.shape)}"
            )
            assert out.isfinite().all(), f"a {grid} grid and {prefix} prefix tokens give numbers that are not finite"


def images_are_independent(build: Build) -> None:
    """An image of a batch gets the same output whatever else is in the batch, and in a packed list."""
    tower, grid = build(), (3, 5)
    x = tokens(tower, grid, 1)
    alone = run(tower, grid, 1, x[:1])
    for other in (x[1:], x[1:] + 1.0):
        moved = difference(run(tower, grid, 1, torch.cat([x[:1], other]))[:1], alone)
        assert moved < NOT_TO_BE_SEEN, f"images of a batch see each other: outputs move by {moved:.1e}"
    second = tokens(tower, (2, 4), 1)[:1]
    packed = tower(torch.cat([x[:1], second], dim=1), Layout((grid, (2, 4)), 1))
    moved = difference(packed, torch.cat([alone, run(tower, (2, 4), 1, second)], dim=1))
    assert moved < NOT_TO_BE_SEEN, f"images of a packed list see each other: outputs move by {moved:.1e}"


def prefix_tokens_pass_by(build: Build) -> None:
    """Prefix tokens are untouched by the encoding, and patches get what they get without any."""
    tower, grid = build(), (3, 5)
    x = tokens(tower, grid, 2)
    for depth in range(len(tower.blocks) + 1):
        out = tower.encoding(x, Layout((grid,), 2), depth)
        assert torch.equal(out[:, :2], x[:, :2]), f"at depth {depth} prefix tokens are changed"
        bare = tower.encoding(x[:, 2:], Layout((grid,)), depth)
        plain = PositionalEncoding.forward(tower.encoding, x, Layout((grid,), 2), depth)
        assert difference(out[:, 2:], bare) < NOT_TO_BE_SEEN, f"at depth {depth} patches depend on the prefix tokens"
        assert difference(out, plain) < NOT_TO_BE_SEEN, f"at depth {depth} `forward` is not what `tokens` gives"


def symmetries_are_as_declared(build: Build) -> None:
    """The declared symmetries hold, the others visibly don't."""
    tower = build()
    unknown = set(tower.encoding.symmetries) - set(SYMMETRIES)
    assert not unknown, f"unknown symmetries {sorted(unknown)}; known: {', '.join(SYMMETRIES)}"
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    moves: dict[str, list[Callable[[Tensor], Tensor]]] = {  # of tokens (B, h, w, D); each undone by `undo`
        "permutation": [lambda x: x.flatten(1, 2)[:, order].unflatten(1, (4, 4))],
        "transpose": [lambda x: x.transpose(1, 2)],
        "flip": [lambda x: x.flip(1), lambda x: x.flip(2)],
    }
    x = tokens(tower, (4, 4))
    out = run(tower, (4, 4), x=x).unflatten(1, (4, 4))
    for name, changes in moves.items():
        for change in changes:
            moved = run(tower, (4, 4), x=change(x.unflatten(1, (4, 4))).flatten(1, 2)).unflatten(1, (4, 4))
            off = difference(moved, change(out))
            if name in tower.encoding.symmetries:
                assert off < NOT_TO_BE_SEEN, f"'{name}' is declared, and outputs are off by {off:.1e}"
            else:
                assert off > VISIBLE, (
                    f"'{name}' ({SYMMETRIES[name]}) leaves no trace: off by {off:.1e}; "
                    "declare it in `symmetries` if it is meant"
                )


def grids_are_distinguished(build: Build) -> None:
    """Both axes are seen, and grids of equally many tokens give different outputs."""
    tower = build()
    if "permutation" in tower.encoding.symmetries:
        return
    grid = (4, 6)
    x = tokens(tower, grid)
    for axis, name in ((1, "rows"), (2, "columns")):
        rolled = x.unflatten(1, grid).roll(1, dims=axis).flatten(1, 2)
        back = run(tower, grid, x=rolled).unflatten(1, grid).roll(-1, dims=axis).flatten(1, 2)
        off = difference(back, run(tower, grid, x=x))
        assert off > VISIBLE, f"{name} are not seen: rolling the tokens along them moves outputs by {off:.1e}"
    x = tokens(tower, (2, 8))
    outputs = {grid: run(tower, grid, x=x) for grid in ((2, 8), (8, 2), (4, 4))}
    for first, second in (((2, 8), (8, 2)), ((2, 8), (4, 4)), ((8, 2), (4, 4))):
        off = difference(outputs[first], outputs[second])
        same = {first, second} == {(2, 8), (8, 2)} and "transpose" in tower.encoding.symmetries and off > 0
        assert off > VISIBLE or same, f"grids {first} and {second} are not distinguished: outputs differ by {off:.1e}"


def parameters_get_gradients(build: Build) -> None:
    """Every parameter gets a gradient that is not zero."""
    tower = build()
    run(tower, (4, 6), 1).square().sum().backward()
    for name, parameter in tower.named_parameters():
        if parameter.requires_grad:
            gradient = 0.0 if parameter.grad is None else parameter.grad.abs().sum().item()
            assert gradient > 0, f"{name} gets no gradient"


def models_share_no_state(build: Build) -> None:
    """Two models share nothing, and a call leaves no trace for the next one."""
    first, second = build(), build()
    run(first, (3, 5))
    before = run(second, (3, 5))
    with torch.no_grad():
        for tensor in [*first.parameters(), *first.buffers()]:
            tensor.add_(1)
    run(first, (9, 2))
    run(first, (5, 3))
    assert torch.equal(run(second, (3, 5)), before), "two models share state: what changes one changes the other"
    run(second, (6, 4))
    run(second, (5, 3))
    assert torch.equal(run(second, (3, 5)), before), "a call on another grid changes the answer of the next"


def state_dict_restores(build: Build) -> None:
    """A state dict loaded into a fresh model gives the same outputs."""
    first, second = build(), build()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1)
    second.load_state_dict(first.state_dict())
    assert torch.equal(run(first, (9, 2)), run(second, (9, 2))), (
        "the state dict does not hold all that the outputs need"
    )


def bfloat16_is_close(build: Build) -> None:
    """In bfloat16 the outputs stay in bfloat16 and within 3 % of those in float64."""
    low, high = build(torch.bfloat16), build()
    for depth in range(len(low.blocks) + 1):
        kept = low.encoding(tokens(low, (3, 5)), Layout(((3, 5),)), depth).dtype
        assert kept == torch.bfloat16, f"at depth {depth} bfloat16 tokens come out as {kept}"
    for prefix in (0, 1):
        out, truth = run(low, (3, 5), prefix), run(high, (3, 5), prefix)
        error = ((out.double() - truth).norm() / truth.norm()).item()
        assert error < 0.03, f"bfloat16 is off by {error:.1%} of the outputs; compute tables in float32 and cast last"


CHECKS = (
    takes_any_grid, images_are_independent, prefix_tokens_pass_by, symmetries_are_as_declared, grids_are_distinguished,
    parameters_get_gradients, models_share_no_state, state_dict_restores, bfloat16_is_close,
)  # fmt: skip
