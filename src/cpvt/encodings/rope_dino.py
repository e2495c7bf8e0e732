"""Rotary encoding of coordinates from -1 to 1, jittered in training."""

from __future__ import annotations

import math

import torch

from cpvt.encodings.base import ModelShape, Pair, PositionalEncoding, check_positive
from cpvt.encodings.coordinates import AnyJitter, find_coordinates, frequencies
from cpvt.encodings.rope import check_head_width, rotate_pairs
from cpvt.grids import Grid, Scale


class DinoRotaryEncoding(PositionalEncoding):
    """Queries and keys are rotated by row and column, mapped to -1 to 1 and jittered in training (RoPE of DINOv3).

    Angles are 2 pi c / 100^(i / (d / 4)) with c = 2 (i + 1/2) / h - 1 along each axis, half of the channels for each.
    In training both axes are rescaled together, log-uniformly by 1/2 to 2; jitter=None turns that off, and its fields
    are those of `sincos`. `coordinates` as for `sincos`; at scale s 'object' reads place (i + 1/2) / s of the training
    grid.
    Source: Simeoni et al. (DINOv3), arXiv 2508.10104.
    """

    def __init__(
        self, shape: ModelShape, coordinates: str = "scaled", base: float = 100.0, jitter: AnyJitter = "dino"
    ) -> None:
        super().__init__()
        check_head_width("rope_dino", shape)
        check_positive("rope_dino", base=base)
        self.head_dim, self.base = shape.head_dim, base
        self.coordinates = find_coordinates(coordinates, shape, jitter=jitter)

    def rotation(self, grid: Grid, device: torch.device, scale: Scale | None = None) -> Pair:
        frequency = 2 * math.pi * frequencies(self.base, self.head_dim // 4, device)
        axes = self.coordinates.places(grid, device, scale, self.training)
        sides = self.coordinates.training_grid
        centred = (2 * (places + 0.5) / side - 1 for places, side in zip(axes, sides))
        return rotate_pairs(torch.cat([places[:, None] * frequency for places in centred], dim=1))
