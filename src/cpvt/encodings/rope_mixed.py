"""Rotary encoding with learned directions, of each block and head."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, Pair, PositionalEncoding, check_positive
from cpvt.encodings.coordinates import AnyJitter, find_coordinates, frequencies
from cpvt.encodings.rope import check_head_width, rotate_pairs
from cpvt.grids import Grid, Scale


class MixedRotaryEncoding(PositionalEncoding):
    """Queries and keys are rotated along learned directions, of each block and head (RoPE-Mixed).

    Channel pair t is rotated by waves[0, head, t] * row + waves[1, head, t] * column. The waves start with magnitudes
    10^(-i / (d / 4)) along a direction that is random for each head and along the one across it.
    `coordinates` and `jitter` as for `sincos`. coordinates='raw' counts 0, 1, 2, ... at any size, as in the paper;
    at scale s 'object' reads place (i + 0.5) / s - 0.5.
    Source: Heo et al. (RoPE for vision transformers), arXiv 2403.13298.
    """

    per_block = ("waves",)

    def __init__(
        self, shape: ModelShape, coordinates: str = "scaled", base: float = 10.0, jitter: AnyJitter = None
    ) -> None:
        super().__init__()
        check_head_width("rope_mixed", shape)
        check_positive("rope_mixed", base=base)
        self.base, self.coordinates = base, find_coordinates(coordinates, shape, jitter=jitter)
        size = (2, shape.num_heads, shape.head_dim // 2)
        self.waves = nn.ParameterList(torch.empty(size) for _ in range(shape.depth))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for waves in self.waves:
            magnitude = frequencies(self.base, waves.shape[2] // 2, waves.device)
            angle = torch.rand(waves.shape[1], 1, device=waves.device) * (2 * math.pi)
            angle = torch.cat([angle.expand(-1, len(magnitude)), angle.expand(-1, len(magnitude)) + math.pi / 2], dim=1)
            with torch.no_grad():
                waves.copy_(torch.stack([angle.sin(), angle.cos()]) * magnitude.repeat(2))

    def rotation(self, grid: Grid, device: torch.device, scale: Scale | None = None) -> Pair:
        return self.coordinates.places(grid, device, scale, self.training)

    def block_rotation(self, rotation: Pair, depth: int) -> Pair:
        rows, columns = rotation
        waves: Tensor = self.waves[depth - 1].float()[:, :, None]  # (2, heads, 1, d / 2)
        return rotate_pairs(rows[:, None] * waves[0] + columns[:, None] * waves[1])  # (heads, N, d)
