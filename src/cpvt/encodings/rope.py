"""Rotary encoding: queries and keys are turned by angles that grow with row and column."""

from __future__ import annotations

import torch
from torch import Tensor

from cpvt.encodings.base import ModelShape, PositionalEncoding, find_coordinates
from cpvt.grids import Grid, Scale


class RotaryEncoding(PositionalEncoding):
    """Queries and keys are rotated by row and column, so that attention sees offsets (2-D axial RoPE).

    Of the head's width d, one half turns with the row and one with the column, at frequencies 100^(-i / (d / 4)).
    At a new size coordinates are spread over the training grid; `coordinates` and `grid` as for `sincos`. Nothing is
    learned; prefix tokens are not turned.
    Source: Su et al., arXiv 2104.09864; two axes and base 100 as in Heo et al., arXiv 2403.13298.
    """

    def __init__(
        self, shape: ModelShape, coordinates: str = "scaled", base: float = 100.0, grid: Grid | None = None
    ) -> None:
        super().__init__()
        if shape.head_dim % 4:
            raise ValueError(f"rope needs a head width that is a multiple of 4; got {shape.head_dim}")
        self.head_dim, self.base = shape.head_dim, base
        self.coordinates = find_coordinates(coordinates, shape, grid)

    def rotation(self, grid: Grid, device: torch.device, scale: Scale | None = None) -> tuple[Tensor, Tensor]:
        angles = self.coordinates.angles(grid, device, scale, self.base, self.head_dim // 4)
        angle = torch.cat(angles, dim=1)  # (N, d / 2)
        angle = torch.cat([angle, angle], dim=1)  # channel i turns with channel i + d / 2
        return angle.cos(), angle.sin()
