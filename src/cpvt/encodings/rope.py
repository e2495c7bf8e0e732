"""Rotary encoding: queries and keys are turned by angles that grow with row and column."""

from __future__ import annotations

import torch
from torch import Tensor

from cpvt.encodings.base import ModelShape, Pair, PositionalEncoding, check_positive
from cpvt.encodings.coordinates import AnyJitter, by_size, find_coordinates, frequencies
from cpvt.grids import Grid, Scale

BASES = (  # ratio of sides to those of training, factor of the base: 100 at 224 pixels to 1250 at 1024
    (1.0, 1.0), (320 / 224, 1.6), (384 / 224, 1.9), (448 / 224, 2.5), (512 / 224, 7.0), (768 / 224, 12.5),
)  # fmt: skip


class RotaryEncoding(PositionalEncoding):
    """Queries and keys are rotated by row and column, so that attention sees offsets (2-D axial RoPE).

    Of the head's width d, one half is rotated with the row and one with the column, at frequencies 100^(-i / (d / 4)).
    At a new size coordinates are spread over the training grid; `coordinates`, `grid` and `jitter` as for `sincos`.
    tuned: places 0, 1, 2, ... instead, and a base that grows with the size as arXiv 2405.13985 tuned it. Nothing is
    learned; prefix tokens are not rotated.
    Source: Su et al., arXiv 2104.09864; two axes and base 100 as in Heo et al., arXiv 2403.13298.
    """

    def __init__(
        self,
        shape: ModelShape,
        coordinates: str = "scaled",
        base: float = 100.0,
        grid: Grid | None = None,
        jitter: AnyJitter = None,
        tuned: bool = False,
    ) -> None:
        super().__init__()
        check_head_width("rope", shape)
        check_positive("rope", base=base)
        if tuned and coordinates not in ("scaled", "raw"):
            raise ValueError(f"rope(tuned=True) counts places 0, 1, 2, ...; leave out coordinates='{coordinates}'")
        self.head_dim, self.base, self.tuned = shape.head_dim, base, tuned
        self.coordinates = find_coordinates("raw" if tuned else coordinates, shape, grid, jitter)

    def rotation(self, grid: Grid, device: torch.device, scale: Scale | None = None) -> Pair:
        base: float | Tensor = self.base
        if self.tuned:
            base = base * by_size(BASES, grid, self.coordinates.training_grid, device)
        frequency = frequencies(base, self.head_dim // 4, device)
        places = self.coordinates.places(grid, device, scale, self.training)
        return rotate_pairs(torch.cat([along[:, None] * frequency for along in places], dim=1))


def rotate_pairs(angles: Tensor) -> Pair:
    """Cosine and sine of angles (..., d / 2) for all channels (..., d): channel i is rotated with channel i + d / 2."""
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def check_head_width(name: str, shape: ModelShape) -> None:
    """Raise ValueError unless pairs of channels can be halved between the two axes."""
    if shape.head_dim % 4:
        raise ValueError(f"{name} needs a head width that is a multiple of 4; got {shape.head_dim}")
