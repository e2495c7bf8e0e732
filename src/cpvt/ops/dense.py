"""PEG on full grids as a depth-wise convolution, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cpvt.grids import AnyGrid, per_axis
from cpvt.ops import shifted
from cpvt.ops.spread import are_symbolic, border, own_tap, spread, under_autocast

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def check_weight(weight: Tensor, bias: Tensor | None, axes: int) -> None:
    """Raise ValueError unless weight and bias are those of a depth-wise convolution over so many axes."""
    if weight.ndim != axes + 2 or weight.shape[1] != 1 or any(side % 2 == 0 for side in weight.shape[2:]):
        sides = ", k" * axes
        raise ValueError(
            f"a grid of {axes} axes needs a weight of {axes + 2}, (D, 1{sides}) with odd k; got {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"a weight of {weight.shape[0]} channels needs a bias of as many; got {tuple(bias.shape)}")


def takes_dtype(dtype: torch.dtype, x: Tensor) -> bool:
    """Whether weights of this dtype take x: it has the same, or autocast casts both."""
    return x.dtype == dtype or (under_autocast(x) and torch.float64 not in (x.dtype, dtype))


def peg_dense(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, grid: AnyGrid, prefix_tokens: int = 0,
    padding_mode: str = "zeros", residual: bool = True, dilation: float | Sequence[float] = 1, causal: bool = False,
) -> Tensor:  # fmt: skip
    """`peg` by one convolution.

    Without prefix tokens nothing is copied: (B, N, D) is a view of a channels-last image. With them the patches are
    copied once, since a convolution needs them contiguous.
    """
    if prefix_tokens:
        prefix, patches = tokens.split([prefix_tokens, tokens.shape[1] - prefix_tokens], dim=1)
        encoded = peg_dense(patches, weight, bias, grid, 0, padding_mode, residual, dilation, causal)
        return torch.cat([prefix.to(encoded.dtype) if residual else torch.zeros_like(prefix), encoded], dim=1)
    image = tokens.unflatten(1, grid).movedim(-1, 1)  # (B, D, h, w), channels-last strides
    encoded = convolve(image, weight, bias, padding_mode, residual, dilation, causal)
    return encoded.movedim(1, -1).reshape(tokens.shape)  # in graphs the number of tokens stays as short as it came


def convolve(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding_mode: str = "zeros",
    residual: bool = True,
    dilation: float | Sequence[float] = 1,
    causal: bool = False,
) -> Tensor:
    """Depth-wise convolution of (B, D, h, w), or of 1 or 3 axes, that keeps the grid; plus the input if `residual`.

    dilation: as in `peg`; where a graph is for steps of any value, shifted images are summed instead.
    Raises ValueError where image, weight and bias disagree.
    """
    check_weight(weight, bias, image.ndim - 2)
    if image.shape[1] != weight.shape[0]:
        raise ValueError(f"a weight for {weight.shape[0]} channels takes no image of {image.shape[1]}")
    if not takes_dtype(weight.dtype, image):
        raise ValueError(
            f"tokens are {image.dtype} and the weights {weight.dtype}: convert one, as by tokens.to(dtype)"
        )
    if padding_mode not in PADDING_MODES or (causal and padding_mode != "zeros"):
        known = "'zeros' for a causal kernel" if causal else f"one of {', '.join(PADDING_MODES)}"
        raise ValueError(f"padding_mode must be {known}; got '{padding_mode}'")
    steps = per_axis(dilation, image.ndim - 2, "dilation")
    if are_symbolic(steps):
        encoded = shifted.encode(image, weight, bias, steps, padding_mode, causal)
        return image + encoded if residual else encoded
    weight = weight.squeeze(1).unsqueeze(1)  # the gradient then has the weight's strides, as DDP wants them
    folded = residual and _exact_in(image)
    kernel, gaps = spread(weight + identity_kernel(weight, causal) if folded else weight, steps, causal)
    borders = [border(side, step, axis, causal) for axis, (side, step) in enumerate(zip(weight.shape[2:], steps))]
    padding = [0] * len(borders)
    if padding_mode != "zeros":
        image_and_border = _pad(image, borders, padding_mode)
    elif causal:
        image_and_border = F.pad(image, _outwards([borders[0], *[(0, 0)] * (len(borders) - 1)]))
        padding[1:] = [after for _, after in borders[1:]]
    else:
        image_and_border, padding = image, [after for _, after in borders]
    apply = CONVOLUTIONS[len(borders)]
    kernel = kernel.to(weight.dtype)
    encoded = apply(image_and_border, kernel, bias, padding=padding, dilation=gaps, groups=image.shape[1])
    return image + encoded if residual and not folded else encoded


def identity_kernel(weight: Tensor, causal: bool = False) -> Tensor:
    """The identity as a kernel (1, 1, k, ...): 1 at the token's own place, 0 elsewhere; to be added to `weight`."""
    owns = [own_tap(side, axis, causal) for axis, side in enumerate(weight.shape[2:])]
    around = _outwards([(own, side - 1 - own) for own, side in zip(owns, weight.shape[2:])])
    return F.pad(weight.new_ones([1] * weight.ndim), around)


def _outwards(borders: list[tuple[int, int]]) -> list[int]:
    """Borders (before, after) of each axis as F.pad takes them, the last axis first."""
    return [places for both in reversed(borders) for places in both]


def _exact_in(image: Tensor) -> bool:
    """Whether 1 + weight keeps the weight's digits, so that the residual may be folded into the kernel.

    In half precision and under autocast it does not (1 + 0.001 is 1 in bfloat16); there the input is added instead.
    """
    wide = image.dtype in (torch.float32, torch.float64)
    return wide and not under_autocast(image)


def _pad(image: Tensor, borders: list[tuple[int, int]], padding_mode: str) -> Tensor:
    grid, reach = image.shape[2:], [after for _, after in borders]
    extra = {"reflect": 1, "circular": 0}.get(padding_mode)
    if extra is not None and any(side < after + extra for side, after in zip(grid, reach)):
        raise ValueError(
            f"padding_mode '{padding_mode}' with a border of {max(reach)} needs a grid of at least "
            f"{max(reach) + extra} rows and columns; got {'x'.join(str(side) for side in grid)}. "
            "Use 'zeros' or 'replicate', or a larger image"
        )
    return F.pad(image, _outwards(borders), mode=padding_mode)
