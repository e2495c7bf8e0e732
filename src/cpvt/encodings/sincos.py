"""Fixed sines and cosines of row and column."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cpvt.encodings.base import ModelShape, PositionalEncoding, check_coordinates, check_grid, grid_angles
from cpvt.grids import Grid


class SinCosEncoding(PositionalEncoding):
    """Fixed sines and cosines of row and column at many wavelengths, added to the patches; nothing is learned.

    Half of the width encodes the row, half the column, each half as sines then cosines at wavelengths
    2 pi * 10000^(i / (D / 4)). At a new size coordinates are scaled to the training grid, as interpolating a
    table does; `coordinates='raw'` counts 0, 1, 2, ... instead. grid: the one to which they are scaled, where it is
    not the training grid (a model whose training size was changed later).
    Source: Vaswani et al., arXiv 1706.03762; in two dimensions as in Chen et al. (MoCo v3), arXiv 2104.02057.
    """

    at = (0,)
    dim: int

    def __init__(
        self, shape: ModelShape, coordinates: str = "scaled", temperature: float = 10000.0, grid: Grid | None = None
    ) -> None:
        super().__init__()
        if shape.dim % 4:
            raise ValueError(f"sincos needs a width that is a multiple of 4; got {shape.dim}")
        check_coordinates(coordinates)
        check_grid(grid)
        self.dim, self.grid = shape.dim, grid or shape.grid
        self.coordinates, self.temperature = coordinates, temperature

    def tokens(self, x: Tensor, grid: Grid, depth: int) -> Tensor:
        return x + self.table(grid, x.device).to(x.dtype)

    def table(self, grid: Grid, device: torch.device) -> Tensor:
        """The encoding of every place, (N, D) in float32."""
        y, x = grid_angles(grid, self.grid, self.coordinates, self.temperature, self.dim // 4, device)
        return torch.cat([y.sin(), y.cos(), x.sin(), x.cos()], dim=1)

    def set_grid(self, grid: Grid) -> dict[str, Any]:
        return {"grid": self.grid} if self.coordinates == "scaled" else {}
