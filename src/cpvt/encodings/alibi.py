"""Attention that falls with the distance of two tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from cpvt.encodings.base import ModelShape
from cpvt.encodings.coordinates import by_size
from cpvt.encodings.offsets import OffsetBias
from cpvt.grids import Grid, Scale

SLOPES = ((1.0, 1.0), (320 / 224, 1.4), (512 / 224, 1.4), (768 / 224, 1.5), (1024 / 224, 1.6))  # ratio of sides, factor


class AlibiEncoding(OffsetBias):
    """Attention falls with the distance of two tokens, in each head at another rate; nothing is learned (2-D ALiBi).

    The bias is -2^(-8 (head + 1) / heads) times the Euclidean distance in tokens; at scale s distances are divided by
    s. tuned: distances as they are, and slopes that grow with the size as arXiv 2405.13985 tuned them.
    Source: Press et al., arXiv 2108.12409; in two dimensions as in Fuller et al. (CROMA), arXiv 2311.00566.
    """

    symmetries = frozenset({"transpose", "flip"})

    def __init__(self, shape: ModelShape, tuned: bool = False) -> None:
        super().__init__()
        self.tuned, self.training_grid = tuned, shape.scale_grid or shape.grid
        self.slopes = [2 ** (-8 * (head + 1) / shape.num_heads) for head in range(shape.num_heads)]

    def by_offset(self, grid: Grid, depth: int, scale: Scale) -> Tensor:
        slopes = torch.tensor(self.slopes, device=self.anchor.device)[:, None, None]
        return -slopes * self.distance(grid, scale)

    def distance(self, grid: Grid, scale: Scale) -> Tensor:
        """The distance of each offset, (2h - 1, 2w - 1), in tokens of an object at scale 1; tuned: times the factor."""
        rows, columns = self.offsets(grid) if self.tuned else self.offsets(grid, scale)
        distance = (rows.square() + columns.square()).sqrt()
        if self.tuned:
            distance = distance * by_size(SLOPES, grid, self.training_grid, distance.device)
        return distance
