"""Attention that falls with the distance of two tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from cpvt.encodings.base import ModelShape
from cpvt.encodings.coordinates import by_size
from cpvt.encodings.offsets import OffsetBias, find_offsets
from cpvt.grids import Grid, Scale

SLOPES = ((1.0, 1.0), (320 / 224, 1.4), (512 / 224, 1.4), (768 / 224, 1.5), (1024 / 224, 1.6))  # ratio of sides, factor


class AlibiEncoding(OffsetBias):
    """Attention falls with the distance of two tokens, in each head at another rate; nothing is learned (2-D ALiBi).

    The bias is -2^(-8 (head + 1) / heads) times the Euclidean distance in tokens, as published, whatever scale the
    model is given: on photographs that holds best. use_scale: at scale s distances are divided by s. tuned: slopes grow
    with the size as arXiv 2405.13985 tuned them, for distances in tokens.
    Source: Press et al., arXiv 2108.12409; in two dimensions as in Fuller et al. (CROMA), arXiv 2311.00566.
    """

    symmetries = frozenset({"transpose", "flip"})

    def __init__(self, shape: ModelShape, tuned: bool = False, use_scale: bool = False) -> None:
        super().__init__()
        if tuned and use_scale:
            raise ValueError("slopes are tuned for distances in tokens: leave out use_scale=True or tuned=True")
        self.num_heads, self.training_grid = shape.num_heads, shape.scale_grid or shape.grid
        self.tuned, self.use_scale = tuned, use_scale

    def by_offset(self, grid: Grid, depth: int, scale: Scale, device: torch.device) -> Tensor:
        rows, columns = find_offsets(grid, scale, device)
        distance = (rows.square() + columns.square()).sqrt()
        if self.tuned:
            distance = distance * by_size(SLOPES, grid, self.training_grid, device)
        return -self.slopes(device)[:, None, None] * distance

    def slopes(self, device: torch.device) -> Tensor:
        """How fast attention falls in each head, (heads,)."""
        return 2 ** (torch.arange(1, self.num_heads + 1, device=device) * (-8 / self.num_heads))
