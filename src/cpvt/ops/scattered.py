"""PEG on tokens at given coordinates: any subset of a plane, in any order, with memory linear in the tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cpvt.grids import check_width, per_axis
from cpvt.ops.dense import check_weight
from cpvt.ops.spread import offsets, spread

CHUNKS = {"cpu": 512}  # tokens worked on at once: what fits a cache, and bounds the memory besides inputs and outputs
LARGEST_CHUNK = 65536  # elsewhere


def peg_at(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    coordinates: Tensor,
    image: Tensor | None = None,
    residual: bool = True,
    dilation: float | Sequence[float] = 1,
    causal: bool = False,
) -> Tensor:
    """PEG for tokens at integer coordinates: neighbours are those in space, and missing ones are zero.

    tokens: (T, D). coordinates: (T, a) int64, zero or more, one column per axis of the kernel (row, column).
    image: (T,) int64 tells several images apart; tokens of different images never meet. weight: (D, 1, k, ...).
    Returns (T, D), in the order of the tokens. On a full grid it equals `cpvt.ops.peg` with zero padding.
    Raises ValueError for places that are not integer, negative, held twice or not one per token. Finding neighbours
    sorts the places once; that no place is held twice is then one comparison along the sorted list. dilation: the step
    between taps, as in `cpvt.ops.peg`; a tap between two places reads both, each with its share of the weight.
    Memory is linear in T: kept for the backward are the tokens and one int64 per token and tap (72 bytes a token for
    3x3). Gradients of gradients are not defined.
    """
    check_weight(weight, bias, weight.ndim - 2)
    check_places(tokens, coordinates, image, weight.ndim - 2)
    check_width(tokens, weight.shape[0])
    steps = per_axis(dilation, weight.ndim - 2, "dilation")
    read = [offsets(side, step, axis, causal) for axis, (side, step) in enumerate(zip(weight.shape[2:], steps))]
    neighbours = _neighbours(coordinates, image, read)
    taps = _taps(weight, steps, causal, read)
    encoding: Tensor = _Gather.apply(tokens, taps, neighbours)
    if bias is not None:
        encoding = encoding + bias
    return tokens + encoding if residual else encoding


def check_places(tokens: Tensor, coordinates: Tensor, image: Tensor | None, axes: int) -> None:
    """Raise ValueError unless every token has a place of whole, non-negative numbers."""
    if tokens.ndim != 2:
        raise ValueError(f"tokens at places have shape (T, D); got {tuple(tokens.shape)}")
    count = tokens.shape[0]
    if coordinates.shape != (count, axes):
        raise ValueError(f"{count} tokens need coordinates of shape ({count}, {axes}); got {tuple(coordinates.shape)}")
    if image is not None and image.shape != (count,):
        raise ValueError(f"{count} tokens need image numbers of shape ({count},); got {tuple(image.shape)}")
    for name, places in (("coordinates", coordinates), ("image", image)):
        if places is None:
            continue
        if places.dtype != torch.int64:
            raise ValueError(f"{name} must be int64, places are whole numbers; got {places.dtype}")
        if places.device != tokens.device:
            raise ValueError(f"{name} must be on the device of the tokens, {tokens.device}; got {places.device}")
        if count and int(places.min()) < 0:
            raise ValueError(f"{name} must be zero or more; got {int(places.min())}")


def _taps(weight: Tensor, steps: Sequence[float], causal: bool, read: Sequence[Sequence[int]]) -> Tensor:
    """The weight of every neighbour that is read, (taps, D); a spread kernel has zeros between them, which are not."""
    kernel, gaps = spread(weight, tuple(steps), causal)
    for axis, (places, gap) in enumerate(zip(read, gaps)):
        if len(places) < kernel.shape[axis + 2]:
            kept = torch.tensor([(place - places[0]) // gap for place in places], device=kernel.device)
            kernel = kernel.index_select(axis + 2, kept)
    return kernel.flatten(2)[:, 0].t()


@torch.no_grad()
def _neighbours(coordinates: Tensor, image: Tensor | None, read: Sequence[Sequence[int]]) -> Tensor:
    """For every tap and token the number of the token that stands there, or -1, (taps, T); `read`: along each axis."""
    count = coordinates.shape[0]
    reach = [max(map(abs, places)) for places in read]  # room for every neighbour, so that rows stay apart
    extent = [1] * len(read)
    if count:
        extent = [int(largest) + 1 + 2 * room for largest, room in zip(coordinates.amax(0), reach)]
    strides = [math.prod(extent[axis + 1 :]) for axis in range(len(extent))]
    images = int(image.max()) + 1 if image is not None and count else 1
    if images * math.prod(extent) >= 2**63:
        raise ValueError(f"places reach too far to be numbered: {images} images of {extent}")
    place = sum((coordinates[:, axis] + reach[axis]) * stride for axis, stride in enumerate(strides))
    assert isinstance(place, Tensor)
    if image is not None:
        place = place + image * math.prod(extent)
    ordered, order = place.sort()
    twice = (ordered[1:] == ordered[:-1]).nonzero()
    if len(twice):
        first, second = sorted(order[int(twice[0]) : int(twice[0]) + 2].tolist())
        raise ValueError(f"tokens {first} and {second} stand at the same place, {coordinates[first].tolist()}")
    found = torch.empty(math.prod(map(len, read)), count, dtype=torch.int64, device=coordinates.device)
    for tap, away in enumerate(product(*read)):
        shift = sum(places * stride for places, stride in zip(away, strides))
        wanted = place + shift
        where = torch.searchsorted(ordered, wanted).clamp_(max=max(0, count - 1))
        found[tap] = torch.where(ordered[where] == wanted, order[where], -1)
    return found


class _Gather(torch.autograd.Function):
    """Sum over taps of weight times neighbour, with a backward that keeps no copy per tap."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, taps: Tensor, neighbours: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, taps, neighbours)
        return _sum_of_neighbours(tokens, taps, neighbours)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        tokens, taps, neighbours = ctx.saved_tensors
        to_taps = torch.zeros_like(taps, dtype=_wide(taps.dtype))
        for part, chunk in _chunks(gradient, neighbours):
            part = part.to(to_taps.dtype)
            for tap, numbers in enumerate(chunk):
                to_taps[tap] += torch.linalg.vecdot(part, _rows(tokens, numbers, to_taps.dtype), dim=0)
        to_tokens = _sum_of_neighbours(gradient, taps, _inverse(neighbours))
        return to_tokens, to_taps.to(taps.dtype), None


def _sum_of_neighbours(values: Tensor, taps: Tensor, neighbours: Tensor) -> Tensor:
    """(T, D): over all taps, the value of the neighbour times the weight of the tap."""
    wide = _wide(values.dtype)
    out, taps = torch.empty_like(values), taps.to(wide)
    for part, chunk in _chunks(out, neighbours):
        total = torch.zeros(part.shape, dtype=wide, device=values.device)
        for numbers, tap in zip(chunk, taps):
            total.addcmul_(_rows(values, numbers, wide), tap)
        part.copy_(total)
    return out


def _chunks(values: Tensor, neighbours: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of a few tokens at a time: their rows, and their neighbours at every tap."""
    size = CHUNKS.get(values.device.type, LARGEST_CHUNK)
    return zip(values.split(size), neighbours.split(size, dim=1))


def _rows(values: Tensor, numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows of these numbers, zero for -1."""
    rows = values.index_select(0, numbers.clamp(min=0)).to(dtype)
    rows[numbers < 0] = 0
    return rows


def _inverse(neighbours: Tensor) -> Tensor:
    """For every tap and token the number of the token that it is the neighbour of, or -1: one at the most."""
    inverse = torch.full_like(neighbours, -1)
    for back, numbers in zip(inverse, neighbours):
        rows = (numbers >= 0).nonzero()[:, 0]
        back[numbers[rows]] = rows
    return inverse


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Sums are kept in float32 at least."""
    return torch.promote_types(dtype, torch.float32)
