"""PEG on a pack: images of several sizes end to end, each with its own border."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from cpvt.grids import AnyGrid, check_pack, per_axis
from cpvt.ops.dense import check_weight
from cpvt.ops.forms import peg
from cpvt.ops.spread import border

CANVAS_BELOW = 16_384  # numbers (tokens times width) an image, on the CPU; see `peg_packed`
LARGEST_CANVAS = 3  # places of a canvas for each token on it


def peg_packed(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grids: Sequence[AnyGrid],
    prefix_tokens: int = 0,
    *,
    placing: str = "auto",
    dilations: Sequence[float | Sequence[float]] | None = None,
    **options: Any,
) -> Tensor:
    """`peg` on every image of a pack: each gets what it would get alone, borders included.

    tokens: (1, T, D), the images end to end, each as P prefix tokens and its grid. options: those of `peg`.
    dilations: the `dilation` of each image, where they differ.
    placing: 'each' calls `peg` for each run of equal grids and dilations. 'canvas' puts all grids on one canvas, with
    gutters of zeros that no kernel crosses, and calls it once; it needs equal dilations. 'auto' is 'canvas' on a GPU,
    and on the CPU for small images, where calls cost more than arithmetic, unless most of the canvas would be empty.
    Raises ValueError where tokens and grids disagree, or for a canvas with another padding than zeros.
    """
    check_pack(tokens, grids, prefix_tokens, weight.shape[0])
    for axes in {len(grid) for grid in grids}:
        check_weight(weight, bias, axes)
    lengths = [prefix_tokens + math.prod(grid) for grid in grids]
    steps = _steps(grids, options.pop("dilation", 1), dilations)
    padding_mode, causal = options.get("padding_mode", "zeros"), options.get("causal", False)
    gutter, same = max(border(weight.shape[2], steps[0][0], 0, causal)), all(each == steps[0] for each in steps)
    if placing == "auto":
        suits = (
            same and padding_mode == "zeros" and math.prod(_canvas(grids, gutter)) <= LARGEST_CANVAS * tokens.shape[1]
        )
        small = tokens.numel() < CANVAS_BELOW * len(grids)
        placing = "canvas" if suits and (tokens.device.type != "cpu" or small) else "each"
    if placing == "each":
        stretches = [(*each, len(list(equal))) for each, equal in groupby(zip(map(tuple, grids), steps))]
        parts = tokens[0].split([count * (prefix_tokens + math.prod(grid)) for grid, _, count in stretches])
        done = [
            peg(part.unflatten(0, (count, -1)), weight, bias, grid, prefix_tokens, dilation=step, **options)
            for part, (grid, step, count) in zip(parts, stretches)
        ]
        return torch.cat([each.flatten(0, 1) for each in done])[None]
    if not same:
        raise ValueError(f"placing 'canvas' needs one dilation for all images, 'each' takes several; got {dilations}")
    if placing != "canvas" or padding_mode != "zeros":
        raise ValueError(
            f"placing must be 'auto', 'each' or, for zeros, 'canvas'; got '{placing}' for '{padding_mode}'"
        )
    canvas, places = _lay_out(grids, gutter, tokens.device)
    patches = _patches(lengths, prefix_tokens, tokens.device)
    x = tokens[0].index_select(0, patches) if prefix_tokens else tokens[0]  # (sum of N, D)
    laid = x.new_zeros(math.prod(canvas), x.shape[1]).index_copy(0, places, x)
    encoded = peg(laid[None], weight, bias, canvas, dilation=steps[0], **options)[0].index_select(0, places)
    if not prefix_tokens:
        return encoded[None]
    around = tokens[0].to(encoded.dtype) if options.get("residual", True) else encoded.new_zeros(tokens.shape[1:])
    return around.index_copy(0, patches, encoded)[None]


def _steps(grids: Sequence[AnyGrid], dilation: Any, dilations: Sequence[Any] | None) -> list[tuple[float, ...]]:
    """The steps between taps for each image, along each axis of its grid."""
    if dilations is not None and len(dilations) != len(grids):
        raise ValueError(f"dilations must be one for each of {len(grids)} images; got {len(dilations)}")
    each = [dilation] * len(grids) if dilations is None else dilations
    return [per_axis(step, len(grid), "dilation") for step, grid in zip(each, grids)]


def _canvas(grids: Sequence[AnyGrid], gutter: int) -> AnyGrid:
    """Sides of a canvas that holds the grids one below the other."""
    sides = [max(lengths) for lengths in zip(*(grid[1:] for grid in grids))]
    return sum(grid[0] for grid in grids) + gutter * (len(grids) - 1), *sides


def _lay_out(grids: Sequence[AnyGrid], gutter: int, device: torch.device) -> tuple[AnyGrid, Tensor]:
    """Sides of a canvas that holds the grids one below the other, and the place of every token on it.

    Only the first axis needs gutters: along the others each grid begins at the canvas's own border, and what is left of
    a narrower one is zero.
    """
    canvas = _canvas(grids, gutter)
    numbers = torch.arange(math.prod(canvas)).view(canvas)
    places, top = [], 0
    for grid in grids:
        region = (slice(top, top + grid[0]), *(slice(side) for side in grid[1:]))
        places.append(numbers[region].flatten())
        top += grid[0] + gutter
    return canvas, torch.cat(places).to(device)


def _patches(lengths: Sequence[int], prefix_tokens: int, device: torch.device) -> Tensor:
    """Which tokens of a pack are patches, not prefix."""
    numbers = torch.arange(sum(lengths)).split(list(lengths))
    return torch.cat([each[prefix_tokens:] for each in numbers]).to(device)
