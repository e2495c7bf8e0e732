"""The truth: PEG written as a loop over neighbours, to be read and to test every fast path against."""

from __future__ import annotations

import torch
from torch import Tensor

from cpvt.shapes import Grid, check_tokens


def peg(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grid: Grid,
    prefix_tokens: int = 0,
    padding_mode: str = "zeros",
    residual: bool = True,
) -> Tensor:
    """Same arguments and result as `cpvt.ops.peg`, slowly: one multiplication per neighbour of each token."""
    check_tokens(tokens.shape, grid, prefix_tokens)
    h, w = grid
    kernel_size = weight.shape[-1]
    prefix, patches = tokens[:, :prefix_tokens], tokens[:, prefix_tokens:]
    encoded = []
    for row in range(h):
        for column in range(w):
            total = torch.zeros_like(patches[:, 0])  # (B, D)
            for i in range(kernel_size):
                for j in range(kernel_size):
                    y = _source(row + i - kernel_size // 2, h, padding_mode)
                    x = _source(column + j - kernel_size // 2, w, padding_mode)
                    if y is not None and x is not None:
                        total = total + weight[:, 0, i, j] * patches[:, y * w + x]
            encoded.append(total if bias is None else total + bias)
    encoding = torch.cat([torch.zeros_like(prefix), torch.stack(encoded, dim=1)], dim=1)
    return tokens + encoding if residual else encoding


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
