"""Rotary encoding: queries and keys are turned by angles that grow with row and column."""

from __future__ import annotations

import torch
from torch import Tensor

from cpvt.encodings.base import ModelShape, PositionalEncoding, check_coordinates, grid_coordinates
from cpvt.shapes import Grid


class RotaryEncoding(PositionalEncoding):
    """Queries and keys are turned by angles that grow with row and column, so attention sees offsets (2-D axial RoPE).

    Of the head's width d, one half turns with the row and one with the column, at frequencies 100^(-i / (d / 4)).
    At a new size coordinates are scaled to the training grid, as for `sincos`; `coordinates='raw'` counts
    0, 1, 2, ... instead. Nothing is learned; prefix tokens are not turned.
    Source: Su et al., arXiv 2104.09864; two axes and base 100 as in Heo et al., arXiv 2403.13298.
    """

    def __init__(self, shape: ModelShape, coordinates: str = "scaled", base: float = 100.0) -> None:
        super().__init__()
        if shape.head_dim % 4:
            raise ValueError(f"rope needs a head width that is a multiple of 4; got {shape.head_dim}")
        check_coordinates(coordinates)
        self.head_dim, self.grid = shape.head_dim, shape.grid
        self.coordinates, self.base = coordinates, base

    def rotation(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        rows, columns = grid_coordinates(grid, self.grid, self.coordinates, device)
        quarter = self.head_dim // 4
        exponent = torch.arange(quarter, device=device, dtype=torch.float32) / quarter
        frequency = self.base**-exponent  # (d / 4,)
        angle = torch.cat([rows[:, None] * frequency, columns[:, None] * frequency], dim=1)  # (N, d / 2)
        angle = torch.cat([angle, angle], dim=1)  # channel i turns with channel i + d / 2
        return angle.cos(), angle.sin()
