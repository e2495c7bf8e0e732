"""A bias from a small network of the offset of two tokens, on a logarithmic scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, check_positive
from cpvt.encodings.offsets import OffsetBias, OffsetMlp, find_offsets
from cpvt.grids import Grid, Scale


class ContinuousBias(OffsetBias):
    """A network of each block maps the offset of two tokens to a bias on the attention logits (Swin v2's log-CPB).

    16 sigmoid(MLP(o)), with o = sign(D) log2(1 + 8 |D| / (W - 1)) / 3 for the offset D along each axis, W the tokens of
    that axis in training; the MLP has a hidden layer of 512 with ReLU. At scale s offsets are divided by s;
    use_scale=False: they stay in tokens, as published, whatever scale the model is given.
    Source: Liu et al. (Swin v2), arXiv 2111.09883.
    """

    per_block = ("mlps",)

    def __init__(self, shape: ModelShape, hidden_dim: int = 512, use_scale: bool = True) -> None:
        super().__init__()
        check_positive("cpb", hidden_dim=hidden_dim)
        self.use_scale = use_scale
        self.training_grid = shape.scale_grid or shape.grid
        self.mlps = nn.ModuleList(OffsetMlp(2, hidden_dim, shape.num_heads) for _ in range(shape.depth))

    def by_offset(self, grid: Grid, depth: int, scale: Scale, device: torch.device) -> Tensor:
        axes = zip(find_offsets(grid, scale, device), self.training_grid)
        places = (_on_log_scale(8 * offsets / max(1, side - 1)) for offsets, side in axes)
        numbers: Tensor = self.mlps[depth - 1](*places)
        return 16 * numbers.sigmoid()


def _on_log_scale(offsets: Tensor) -> Tensor:
    return offsets.sign() * (1 + offsets.abs()).log2() / math.log2(8)
