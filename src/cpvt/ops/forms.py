"""PEG on full grids, by the form that suits: one convolution, or on GPUs one Triton kernel."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cpvt.grids import AnyGrid, check_tokens, per_axis
from cpvt.ops.dense import check_weight, peg_dense
from cpvt.ops.spread import are_symbolic, border, spread

FORMS = ("auto", "dense", "fused")
FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_FUSED = 7  # side of a kernel, spread as it is, where 'auto' chooses: more taps do not fit registers
HAS_TRITON = importlib.util.find_spec("triton") is not None


def peg(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grid: AnyGrid,
    prefix_tokens: int = 0,
    *,
    form: str = "auto",
    **options: Any,
) -> Tensor:
    """Add to every token a small convolution of its neighbours, which tells tokens where they stand.

    tokens: (B, P + N, D), P prefix tokens first, then the grid row by row; grid: (n,), (h, w) or (t, h, w).
    weight: (D, 1, k, ...), one odd k per axis of the grid. bias: (D,) or None.
    form: 'dense' is one convolution, on any device. 'fused' is one Triton kernel on the tokens as they lie, for GPUs,
    grids (h, w), zero padding and float32, bfloat16 or float16. 'auto' is 'fused' where that is possible, but not while
    exporting, so that exported files need nothing of ours.
    options: padding_mode="zeros" (or "reflect", "replicate", "circular"). residual=True; False returns the encoding
    alone, which is zero for prefix tokens. dilation=1, the step between taps, in tokens: 1 or more, one number or one
    for each axis of the grid; between tokens values are bilinear (linear along each axis). causal=False; True lets a
    token see only itself and what comes before it along the first axis (zero padding only).
    Returns a tensor of the shape of `tokens`. Raises ValueError where tokens, grid and weight disagree, or 'fused' is
    not possible.
    Source: Chu et al., Conditional Positional Encodings for Vision Transformers, arXiv 2102.10882, section 3.
    """
    check_tokens(tokens, grid, prefix_tokens, weight.shape[0])
    check_weight(weight, bias, len(grid))
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}; got '{form}'")
    if form == "fused":
        obstacle = _obstacle(tokens, weight, bias, **options)
        if obstacle:
            raise ValueError(f"form 'fused' {obstacle}. Use 'dense', or 'auto', which chooses")
    if form == "fused" or (form == "auto" and _suits_fused(tokens, weight, bias, **options)):
        from cpvt.ops import fused  # not before it is used: Triton comes with builds of torch for GPUs only

        weight, gaps = spread(weight, per_axis(options.get("dilation", 1), 2, "dilation"))
        how = (options.get("residual", True), gaps)
        return fused.peg(tokens, weight, bias, (grid[0], grid[1]), prefix_tokens, *how)
    return peg_dense(tokens, weight, bias, grid, prefix_tokens, **options)


def _obstacle(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding_mode: str = "zeros",
    residual: bool = True,
    dilation: float | Sequence[float] = 1,
    causal: bool = False,
) -> str:
    """What keeps the fused form from computing this, as the end of a sentence; nothing if nothing does."""
    sides = tuple(weight.shape[2:])
    dtypes = [tensor.dtype for tensor in (tokens, weight, bias) if tensor is not None]
    unknown = [dtype for dtype in dtypes if dtype not in FUSED_DTYPES]
    if len(sides) != 2:
        return f"is for grids (h, w); got a weight of {len(sides)} axes"
    if padding_mode != "zeros":
        return f"knows padding_mode 'zeros' alone; got '{padding_mode}'"
    if are_symbolic(per_axis(dilation, 2, "dilation")):
        return "knows only whole steps in graphs"
    if causal:
        return "knows no causal kernels; got causal=True"
    if unknown:
        return f"needs float32, bfloat16 or float16; got {unknown[0]}"
    if not HAS_TRITON:
        return "needs the package triton, which is not installed: pip install triton (Linux)"
    if tokens.device.type != "cuda" and not _interpreted(tokens.device.type):
        return f"needs tokens on a GPU, or on the CPU TRITON_INTERPRET=1 from the start; got {tokens.device}"
    return ""


def _interpreted(device_type: str) -> bool:
    """Whether Triton's interpreter is on, and tokens where it can read them."""
    from cpvt.ops import kernels

    return device_type == "cpu" and kernels.interpreted()


def _suits_fused(tokens: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> bool:
    """Whether 'auto' means 'fused' here."""
    if tokens.device.type != "cuda" or _obstacle(tokens, weight, bias, **options):
        return False
    steps = per_axis(options.get("dilation", 1), 2, "dilation")
    sides = [
        side if step == int(step) else 1 + sum(border(side, step, axis, causal=False))
        for axis, (side, step) in enumerate(zip(weight.shape[2:], steps))
    ]
    if max(sides) > LARGEST_FUSED:
        return False
    from cpvt.ops import fused

    return not fused.exporting() and fused.works(tokens.device.index)
