"""Kernels whose taps are any distance apart: which neighbours they read, and the weight of each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Steps = tuple[float, ...]  # the distance between taps along each axis of the grid, in tokens, 1 or more


def under_autocast(x: Tensor) -> bool:
    """Whether autocast is on for the device of x; devices without numbers (meta) know no autocast."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def are_symbolic(steps: Steps) -> bool:
    """Whether this is a graph for steps of any value: while PyTorch compiles or exports, ints are fixed, floats not."""
    return torch.compiler.is_compiling() and not all(isinstance(step, int) for step in steps)


def own_tap(side: int, axis: int, causal: bool) -> int:
    """The tap that meets the token itself: the middle one, or for a causal kernel the last of the first axis."""
    return side - 1 if causal and axis == 0 else side // 2


def border(side: int, step: float, axis: int, causal: bool) -> tuple[int, int]:
    """How many places before and after a token the kernel reads along an axis."""
    own = own_tap(side, axis, causal)
    return math.ceil(step * own), math.ceil(step * (side - 1 - own))


def offsets(side: int, step: float, axis: int, causal: bool) -> list[int]:
    """The places that the kernel reads along an axis, counted from the token; taps between two places read both."""
    own = own_tap(side, axis, causal)
    taps = [step * (tap - own) for tap in range(side)]
    return sorted({place for tap in taps for place in (math.floor(tap), math.ceil(tap))})


def spread(weight: Tensor, steps: Steps, causal: bool = False) -> tuple[Tensor, list[int]]:
    """The kernel (D, 1, k, ...) for taps at these steps, and the dilation that is left for the convolution to do.

    A whole step is dilation, and the kernel stays as it is. Along an axis of any other step it becomes larger, with
    dilation 1: each tap gives its weight to the two places that it lies between, the nearer one more. It is then in
    float32 at least, under autocast too, for whoever uses it to round once.
    """
    kernel = weight
    for axis, step in enumerate(steps):
        if step != int(step):
            kernel = _spread_axis(kernel.to(torch.promote_types(weight.dtype, torch.float32)), axis, step, causal)
    return kernel, [int(step) if step == int(step) else 1 for step in steps]


def _spread_axis(kernel: Tensor, axis: int, step: float, causal: bool) -> Tensor:
    side = kernel.shape[axis + 2]
    before, after = border(side, step, axis, causal)
    taps = step * (torch.arange(side, dtype=kernel.dtype, device=kernel.device) - own_tap(side, axis, causal))
    places = torch.arange(-before, after + 1, device=kernel.device)
    shares = (1 - (places[:, None] - taps).abs()).clamp(min=0)  # (places, taps), of each tap's weight
    return (kernel.movedim(axis + 2, -1)[..., None, :] * shares).sum(-1).movedim(-1, axis + 2)
