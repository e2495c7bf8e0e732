"""PEG on full grids by one depth-wise convolution, without changing the layout of the tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cpvt.shapes import Grid, check_tokens

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def peg(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grid: Grid,
    prefix_tokens: int = 0,
    padding_mode: str = "zeros",
    residual: bool = True,
) -> Tensor:
    """Add to every token what a small convolution sees around it, so that tokens learn where they stand.

    tokens: (B, P + h * w, D), P prefix tokens first, then the grid row by row. weight: (D, 1, k, k), k odd.
    bias: (D,) or None. Returns a tensor of the shape of `tokens`: tokens plus encoding, or with `residual=False`
    the encoding alone (zero for prefix tokens). Raises ValueError where tokens and grid disagree.

    Without prefix tokens no layout is copied: (B, N, D) is a channels-last picture seen another way. With them
    the patches are made dense once, which a convolution cannot do without.
    Source: Chu et al., Conditional Positional Encodings for Vision Transformers, arXiv 2102.10882, section 3.
    """
    check_tokens(tokens.shape, grid, prefix_tokens)
    h, w = grid
    if prefix_tokens:
        prefix, patches = tokens.split([prefix_tokens, h * w], dim=1)
        encoded = peg(patches, weight, bias, grid, 0, padding_mode, residual)
        return torch.cat([prefix.to(encoded.dtype) if residual else torch.zeros_like(prefix), encoded], dim=1)
    picture = tokens.unflatten(1, (h, w)).permute(0, 3, 1, 2)  # (B, D, h, w), channels-last strides
    encoded = convolve(picture, weight, bias, padding_mode, residual)
    return encoded.permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, D)


def convolve(
    picture: Tensor, weight: Tensor, bias: Tensor | None, padding_mode: str = "zeros", residual: bool = True
) -> Tensor:
    """Depth-wise convolution of (B, D, h, w) that keeps height and width; plus the picture itself if `residual`."""
    kernel_size = weight.shape[-1]
    folded = residual and _exact_in(picture)
    kernel = weight + _identity_kernel(weight) if folded else weight
    if padding_mode == "zeros":
        padded, padding = picture, kernel_size // 2
    else:
        padded, padding = _pad(picture, kernel_size // 2, padding_mode), 0
    encoded = F.conv2d(padded, kernel, bias, padding=padding, groups=picture.shape[1])
    return picture + encoded if residual and not folded else encoded


def _exact_in(picture: Tensor) -> bool:
    """Whether 1 + weight keeps the weight's digits, so that the residual may be folded into the kernel.

    In half precision it does not (1 + 0.001 is 1 in bfloat16), under autocast neither; there the picture is added.
    """
    wide = picture.dtype in (torch.float32, torch.float64)
    return wide and not torch.is_autocast_enabled(picture.device.type)


def _identity_kernel(weight: Tensor) -> Tensor:
    """The kernel that returns its input: 1 in the middle, 0 elsewhere; same shape as `weight`."""
    border = weight.shape[-1] // 2
    return F.pad(weight.new_ones(weight.shape[0], 1, 1, 1), (border,) * 4)


def _pad(picture: Tensor, border: int, padding_mode: str) -> Tensor:
    h, w = picture.shape[2:]
    smallest = {"reflect": border + 1, "circular": border}.get(padding_mode, 1)
    if h < smallest or w < smallest:
        raise ValueError(
            f"padding_mode '{padding_mode}' with a border of {border} needs a grid of at least {smallest} rows and "
            f"columns; got {h}x{w}. Use 'zeros' or 'replicate', or a larger picture"
        )
    return F.pad(picture, (border,) * 4, mode=padding_mode)
