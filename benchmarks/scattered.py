"""PEG at coordinates: peak memory per token, a process for each count, and time against the dense form."""

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
        words = f"forward_at, forward + backward beside its inputs, {count:,} tokens of width {WIDTH}"
        yield Figure(words, round(peak_memory(step_once, count) / count), "bytes a token")
    layer, tokens = cpvt.PEG(WIDTH), torch.randn(SIDE * SIDE, WIDTH, requires_grad=True)
    places = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE))
    forms = {
        "at places": lambda: _step(layer, tokens, places),
        "dense": lambda: layer(tokens[None], (SIDE, SIDE)).sum().backward(),
    }
    seconds = alternate(forms, max(3, rounds // 2))
    words = f"time of forward_at / dense form, forward + backward, a full {SIDE}x{SIDE} grid of width {WIDTH}"
    yield ratio(words, seconds["at places"], seconds["dense"])


def step_once(count: int) -> None:
    """One forward and backward over tokens at a quarter of the places of a square, in no order."""
    layer = cpvt.PEG(WIDTH)
    _step(layer, *_draw(100))
    tokens, places = _draw(count)
    mark_memory()
    _step(layer, tokens, places)


def _step(layer: cpvt.PEG, tokens: Tensor, places: Tensor) -> None:
    layer.forward_at(tokens, places).sum().backward()
    tokens.grad = None


def _draw(count: int) -> tuple[Tensor, Tensor]:
    side = int((4 * count) ** 0.5) + 1
    numbers = torch.randperm(side * side)[:count]
    return torch.randn(count, WIDTH, requires_grad=True), torch.stack([numbers // side, numbers % side], dim=1)
