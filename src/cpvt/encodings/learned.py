"""A learned table of positions, resized to other grids: what ViT and DeiT use."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, PositionalEncoding
from cpvt.grids import Grid


class LearnedEncoding(PositionalEncoding):
    """A learned vector for each position of the training grid, resized bicubically to other grids (ViT, DeiT).

    The table is (1, N, D) as timm's `pos_embed` without the class token's row; at the training grid it is added
    as it is, at any other it is resized bicubically (no antialiasing, corners not aligned), as DeiT's code does.
    Source: Dosovitskiy et al., arXiv 2010.11929; resizing as in Touvron et al., arXiv 2012.12877.
    """

    at = (0,)

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.dim, self.grid = shape.dim, shape.grid
        self.table = nn.Parameter(torch.empty(1, shape.grid[0] * shape.grid[1], shape.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    def tokens(self, x: Tensor, grid: Grid, depth: int) -> Tensor:
        return x + self.resized(grid).to(x.dtype)

    def resized(self, grid: Grid) -> Tensor:
        """The table at another grid, (1, h * w, D) in float32."""
        image = self.table.float().unflatten(1, self.grid).permute(0, 3, 1, 2)  # (1, D, h, w)
        image = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
        return image.flatten(2).transpose(1, 2)

    def set_grid(self, grid: Grid) -> dict[str, Any]:
        if grid != self.grid:
            table = self.resized(grid).detach().to(self.table.dtype)
            self.table, self.grid = nn.Parameter(table, requires_grad=self.table.requires_grad), grid
        return {}
