"""The Triton kernels of PEG against cuDNN and against a plain copy, on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import Clock, Figure, alternate, ratio
from cpvt import ops

NEEDS_GPU = True
CASES = [  # batch, prefix tokens, grid, width, dtype
    (64, 0, (14, 14), 384, torch.bfloat16),
    (64, 1, (14, 14), 384, torch.bfloat16),
    (16, 0, (64, 64), 384, torch.bfloat16),
    (64, 0, (14, 14), 384, torch.float32),
    (16, 0, (64, 64), 384, torch.float32),
]
# Bytes written before every call, to flush the caches. Meanwhile the host queues the call (about 0.7 ms on an H100), so
# the kernels' time is measured, not the host's.
FLUSHED = 2**31
TOLERANCE = 0.01  # largest difference from the convolution in float32, relative to the largest value


def gpu_clock() -> Clock:
    """A clock for `alternate`: seconds between two GPU events, with cold caches."""
    flushed = torch.empty(FLUSHED, dtype=torch.uint8, device="cuda")

    def clock(function: Callable[[], Any], repeats: int) -> float:
        total = 0.0
        for _ in range(repeats):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            flushed.zero_()
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            total += start.elapsed_time(end) / 1000
        return total / repeats

    return clock


def contenders(
    tokens: Tensor, weight: Tensor, bias: Tensor, prefix: int, grid: tuple[int, int], backward: bool
) -> dict[str, Callable[[], Any]]:
    """The two forms of PEG, the convolution alone on an image that is ready for it, and a copy.

    The copy moves the bytes that must be moved: it reads and writes the tokens. Backward reads gradient and tokens and
    writes a gradient, which makes two and a half copies of the tokens in all.
    """
    patches = tokens[:, prefix:].detach().unflatten(1, grid).permute(0, 3, 1, 2)
    image = patches.contiguous(memory_format=torch.channels_last).requires_grad_(backward)
    seed = torch.randn_like(tokens)
    seed_image = torch.randn_like(image)  # keeps channels last
    x, taps, constant = inputs = [each.detach().requires_grad_(backward) for each in (tokens, weight, bias)]

    def run(forward: Callable[[], Tensor], asking: list[Tensor], grad: Tensor) -> Callable[[], Any]:
        return (lambda: torch.autograd.grad(forward(), asking, grad)) if backward else forward

    def convolution() -> Tensor:
        return image + F.conv2d(image, taps, constant, padding=weight.shape[2] // 2, groups=weight.shape[0])

    def copy() -> None:
        for part in (tokens, tokens, tokens[: len(tokens) // 2]) if backward else (tokens,):
            torch.empty_like(part).copy_(part)

    return {
        "fused": run(lambda: ops.peg(x, taps, constant, grid, prefix, form="fused"), inputs, seed),
        "dense": run(lambda: ops.peg(x, taps, constant, grid, prefix, form="dense"), inputs, seed),
        "convolution": run(convolution, [image, *inputs[1:]], seed_image),
        "copy": copy,
    }


def check(tokens: Tensor, weight: Tensor, bias: Tensor, prefix: int, grid: tuple[int, int]) -> None:
    """Assert that outputs and gradients of the fused form equal those of the convolution in float32."""
    seed, found = torch.randn_like(tokens), []
    for form, dtype in (("fused", tokens.dtype), ("dense", torch.float32)):
        x, taps, constant = inputs = [each.detach().to(dtype).requires_grad_() for each in (tokens, weight, bias)]
        output = ops.peg(x, taps, constant, grid, prefix, form=form)
        found.append([output, *torch.autograd.grad(output, inputs, seed.to(dtype))])
    for ours, truth in zip(*found):
        assert float((ours.detach().float() - truth.detach()).abs().max() / truth.detach().abs().max()) < TOLERANCE


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only fused`."""
    clock = gpu_clock()
    for batch, prefix, grid, width, dtype in CASES:
        shape = (batch, prefix + grid[0] * grid[1], width)
        tokens, weight, bias = (
            torch.randn(size, device="cuda", dtype=dtype) for size in (shape, (width, 1, 3, 3), (width,))
        )
        check(tokens, weight, bias, prefix, grid)
        for backward in (False, True):
            forms = contenders(tokens, weight, bias, prefix, grid, backward)
            seconds = alternate(forms, 2 * rounds, clock=clock)
            what = f"{'forward + backward' if backward else 'forward'}, {shape}, {prefix} prefix, {dtype}"
            for other in ("copy", "dense", "convolution"):
                yield ratio(f"time of {other} / fused, {what}", seconds[other], seconds["fused"])
