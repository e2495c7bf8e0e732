"""PEG as a plain loop over neighbours: the reference that every fast form is tested against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from cpvt.grids import AnyGrid, check_tokens, per_axis


def peg(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grid: AnyGrid,
    prefix_tokens: int = 0,
    padding_mode: str = "zeros",
    residual: bool = True,
    dilation: float | Sequence[float] = 1,
    causal: bool = False,
) -> Tensor:
    """Same arguments and result as `cpvt.ops.peg`, slowly: one multiplication per neighbour of each token.

    A neighbour between tokens is a mixture of those around it, linear along each axis.
    """
    check_tokens(tokens, grid, prefix_tokens, weight.shape[0])
    kernel, steps = weight.shape[2:], per_axis(dilation, len(grid), "dilation")
    middle = [side - 1 if causal and axis == 0 else side // 2 for axis, side in enumerate(kernel)]
    prefix, patches = tokens[:, :prefix_tokens], tokens[:, prefix_tokens:]
    encoded = []
    for place in product(*map(range, grid)):
        total = torch.zeros_like(patches[:, 0])  # (B, D)
        for tap in product(*map(range, kernel)):
            reached = [p + (t - m) * step for p, t, m, step in zip(place, tap, middle, steps)]
            for corner, share in _corners(reached):
                neighbour = [_source(index, side, padding_mode) for index, side in zip(corner, grid)]
                if None not in neighbour:
                    value = share * patches[:, _number(neighbour, grid)]
                    total = total + weight.flatten(2)[:, 0, _number(tap, kernel)] * value
        encoded.append(total if bias is None else total + bias)
    encoding = torch.cat([torch.zeros_like(prefix), torch.stack(encoded, dim=1)], dim=1)
    return tokens + encoding if residual else encoding


def _corners(reached: Sequence[float]) -> Iterator[tuple[tuple[int, ...], float]]:
    """The whole-number places around a point, each with its share: along an axis 1 - the distance to the point."""
    for corner in product(*((math.floor(at), math.floor(at) + 1) for at in reached)):
        share = math.prod(1 - abs(place - at) for place, at in zip(corner, reached))
        if share > 0:
            yield corner, share


def _number(place: Sequence[int | None], grid: Sequence[int]) -> int:
    """Number of a place of a grid, counted row by row."""
    number = 0
    for index, side in zip(place, grid):
        number = number * side + int(index or 0)
    return number


def _source(index: int, length: int, padding_mode: str) -> int | None:
    """The row or column that stands at `index`, which may lie outside; None where nothing (zero) stands."""
    if 0 <= index < length:
        return index
    if padding_mode == "zeros":
        return None
    if padding_mode == "replicate":
        return 0 if index < 0 else length - 1
    if padding_mode == "circular":
        return index % length
    return -index if index < 0 else 2 * (length - 1) - index  # reflect, the edge itself not repeated
