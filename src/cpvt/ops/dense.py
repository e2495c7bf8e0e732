"""PEG on full grids as a depth-wise convolution, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cpvt.grids import AnyGrid

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
    casts = torch.is_autocast_enabled(x.device.type) and torch.float64 not in (x.dtype, dtype)
    return x.dtype == dtype or casts


def peg_dense(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, grid: AnyGrid, prefix_tokens: int = 0,
    padding_mode: str = "zeros", residual: bool = True, dilation: int = 1, causal: bool = False,
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
    return encoded.movedim(1, -1).flatten(1, -2)  # (B, N, D)


def convolve(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding_mode: str = "zeros",
    residual: bool = True,
    dilation: int = 1,
    causal: bool = False,
) -> Tensor:
    """Depth-wise convolution of (B, D, h, w), or of 1 or 3 axes, that keeps the grid; plus the input if `residual`.

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
    weight = weight.squeeze(1).unsqueeze(1)  # the gradient then has the weight's strides, as DDP wants them
    folded = residual and _exact_in(image)
    kernel = weight + identity_kernel(weight, causal) if folded else weight
    reach = [dilation * (side // 2) for side in weight.shape[2:]]
    if padding_mode != "zeros":
        image_and_border, reach = _pad(image, reach, padding_mode), [0] * len(reach)
    elif causal:
        ahead = [0, 0] * (len(reach) - 1) + [2 * reach[0], 0]  # F.pad names the last axis first
        image_and_border, reach = F.pad(image, ahead), [0, *reach[1:]]
    else:
        image_and_border = image
    apply = CONVOLUTIONS[len(reach)]
    encoded = apply(image_and_border, kernel, bias, padding=reach, dilation=dilation, groups=image.shape[1])
    return image + encoded if residual and not folded else encoded


def identity_kernel(weight: Tensor, causal: bool = False) -> Tensor:
    """The identity as a kernel (1, 1, k, ...): 1 at the token's own place, 0 elsewhere; to be added to `weight`."""
    border: list[int] = []
    for axis, side in enumerate(weight.shape[2:]):
        own = side - 1 if causal and axis == 0 else side // 2
        border = [own, side - 1 - own, *border]
    return F.pad(weight.new_ones([1] * weight.ndim), border)


def _exact_in(image: Tensor) -> bool:
    """Whether 1 + weight keeps the weight's digits, so that the residual may be folded into the kernel.

    In half precision and under autocast it does not (1 + 0.001 is 1 in bfloat16); there the input is added instead.
    """
    wide = image.dtype in (torch.float32, torch.float64)
    return wide and not torch.is_autocast_enabled(image.device.type)


def _pad(image: Tensor, reach: list[int], padding_mode: str) -> Tensor:
    grid = image.shape[2:]
    extra = {"reflect": 1, "circular": 0}.get(padding_mode)
    if extra is not None and any(side < border + extra for side, border in zip(grid, reach)):
        raise ValueError(
            f"padding_mode '{padding_mode}' with a border of {max(reach)} needs a grid of at least "
            f"{max(reach) + extra} rows and columns; got {'x'.join(str(side) for side in grid)}. "
            "Use 'zeros' or 'replicate', or a larger image"
        )
    both = [border for border in reversed(reach) for _ in range(2)]
    return F.pad(image, both, mode=padding_mode)
