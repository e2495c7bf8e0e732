"""PEG at coordinates: peak memory per token, one process per count, and time against the dense form."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import cpvt
from benchmarks.measuring import Figure, alternate, mark_memory, peak_memory, ratio

WIDTH, COUNTS, SIDE = 512, (50_000, 100_000, 200_000), 128


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only scattered`."""
    for count in COUNTS:
        what = f"forward_at, forward + backward without its inputs, {count:,} tokens of width {WIDTH}"
        yield Figure(what, round(peak_memory(step_once, count) / count), "bytes a token")
    layer, tokens = cpvt.PEG(WIDTH), torch.randn(SIDE * SIDE, WIDTH, requires_grad=True)
    coordinates = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE))
    forms = {
        "scattered": lambda: _step(layer, tokens, coordinates),
        "dense": lambda: layer(tokens[None], (SIDE, SIDE)).sum().backward(),
    }
    seconds = alternate(forms, max(3, rounds // 2))
    what = f"time of forward_at / dense form, forward + backward, a full {SIDE}x{SIDE} grid of width {WIDTH}"
    yield ratio(what, seconds["scattered"], seconds["dense"])


def step_once(count: int) -> None:
    """One forward and backward over tokens at a quarter of the positions of a square, shuffled."""
    layer = cpvt.PEG(WIDTH)
    _step(layer, *_draw(100))
    tokens, coordinates = _draw(count)
    mark_memory()
    _step(layer, tokens, coordinates)


def _step(layer: cpvt.PEG, tokens: Tensor, coordinates: Tensor) -> None:
    layer.forward_at(tokens, coordinates).sum().backward()
    tokens.grad = None


def _draw(count: int) -> tuple[Tensor, Tensor]:
    side = int((4 * count) ** 0.5) + 1
    numbers = torch.randperm(side * side)[:count]
    return torch.randn(count, WIDTH, requires_grad=True), torch.stack([numbers // side, numbers % side], dim=1)
