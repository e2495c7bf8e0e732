"""PEG by products with small matrices that shift a grid by any distance: one graph for every size and step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpvt.ops.spread import own_tap, under_autocast


def encode(
    image: Tensor, weight: Tensor, bias: Tensor | None, steps: Sequence[Any], padding_mode: str, causal: bool
) -> Tensor:
    """The encoding alone of (B, D, h, w), or of 1 or 3 axes, as `convolve` gives it.

    A spread kernel has a size that depends on the step, and so would a graph. Here all sizes are those of the grid:
    for each tap of an axis one matrix (n, n) takes the n places of the axis to their neighbours at that distance.
    steps: for each axis a number or a tensor of no axes, in graphs also a symbolic number.
    Products are in the dtype of the image, or autocast's; sums in float32 at least.
    """
    cast = under_autocast(image) and image.dtype != torch.float64
    low = torch.get_autocast_dtype(image.device.type) if cast else image.dtype
    wide = torch.promote_types(low, torch.float32)
    tokens, sides = image.to(low).movedim(1, -1), weight.shape[2:]  # (B, h, w, D), so that shifts copy nothing
    taps = weight[:, 0].to(wide).movedim(0, -1).reshape(-1, sides[-1], weight.shape[0])  # (other axes' taps, k, D)
    *others, last = [
        [
            _shift(length, (tap - own_tap(side, axis, causal)) * step, padding_mode, tokens, wide)
            if tap != own_tap(side, axis, causal)
            else None
            for tap in range(side)
        ]
        for axis, (side, step, length) in enumerate(zip(sides, steps, image.shape[2:]))
    ]
    shifted = [tokens]
    for axis, matrices in enumerate(others):
        shifted = [_apply(matrix, each, axis) for each in shifted for matrix in matrices]
    parts = [bias.to(wide)] if bias is not None else []
    for tap, matrix in enumerate(last):
        mixed = _total([each * kernel[tap] for each, kernel in zip(shifted, taps)])
        parts.append(mixed if matrix is None else _apply(matrix, mixed.to(low), len(others)).to(wide))
    return _total(parts).movedim(-1, 1).to(low)


def _total(parts: list[Tensor]) -> Tensor:
    return sum(parts[1:], parts[0])


def _apply(matrix: Tensor | None, tokens: Tensor, axis: int) -> Tensor:
    """The tokens (B, ..., D) with the places of an axis taken to their neighbours; None stands for themselves."""
    if matrix is None:
        return tokens
    flat = tokens.flatten(0, axis).flatten(2)  # (B and the axes before, n, the axes after and D)
    return torch.matmul(matrix, flat).view_as(tokens)


def _shift(length: int, distance: Any, padding_mode: str, like: Tensor, wide: torch.dtype) -> Tensor:
    """(n, n): row p holds what the place p + distance has of each place, its two neighbours' shares."""
    places = torch.arange(length, device=like.device)
    distance = torch.ones((), dtype=wide, device=like.device) * distance
    low = distance.floor()
    share = distance - low  # of the farther of the two
    first = places + low.long()
    here, next_ = (_source(each, length, padding_mode)[:, None] == places for each in (first, first + 1))
    return ((1 - share) * here + share * next_).to(like.dtype)


def _source(places: Tensor, length: int, padding_mode: str) -> Tensor:
    """The places that stand at these, which may lie outside; for zeros none does."""
    if padding_mode == "replicate":
        return places.clamp(torch.zeros_like(places), torch.zeros_like(places) + (length - 1))
    if padding_mode == "circular":
        return places.remainder(torch.zeros_like(places) + length)  # a tensor: ONNX takes no symbolic number here
    if padding_mode == "reflect":
        return (length - 1) - ((length - 1) - places.abs()).abs()
    return places
