"""Rotary encoding: queries and keys are turned by angles that grow with row and column."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cpvt.encodings.base import ModelShape, PositionalEncoding, check_coordinates, check_grid, grid_angles
from cpvt.grids import Grid


class RotaryEncoding(PositionalEncoding):
    """Queries and keys are rotated by row and column, so that attention sees offsets (2-D axial RoPE).

    Of the head's width d, one half turns with the row and one with the column, at frequencies 100^(-i / (d / 4)).
    At a new size coordinates are scaled to the training grid, as for `sincos`; `coordinates='raw'` counts
    0, 1, 2, ... instead. grid: the one to which they are scaled, where it is not the training grid (a model whose
    training size was changed later). Nothing is learned; prefix tokens are not turned.
    Source: Su et al., arXiv 2104.09864; two axes and base 100 as in Heo et al., arXiv 2403.13298.
    """

    def __init__(
        self, shape: ModelShape, coordinates: str = "scaled", base: float = 100.0, grid: Grid | None = None
    ) -> None:
        super().__init__()
        if shape.head_dim % 4:
            raise ValueError(f"rope needs a head width that is a multiple of 4; got {shape.head_dim}")
        check_coordinates(coordinates)
        check_grid(grid)
        self.head_dim, self.grid = shape.head_dim, grid or shape.grid
        self.coordinates, self.base = coordinates, base

    def rotation(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        angles = grid_angles(grid, self.grid, self.coordinates, self.base, self.head_dim // 4, device)
        angle = torch.cat(angles, dim=1)  # (N, d / 2)
        angle = torch.cat([angle, angle], dim=1)  # channel i turns with channel i + d / 2
        return angle.cos(), angle.sin()

    def set_grid(self, grid: Grid) -> dict[str, Any]:
        return {"grid": self.grid} if self.coordinates == "scaled" else {}
