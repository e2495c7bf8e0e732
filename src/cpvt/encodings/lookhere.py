"""Attention whose heads each look one way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cpvt.encodings.alibi import AlibiEncoding
from cpvt.encodings.base import ModelShape
from cpvt.grids import Grid, Scale

DIRECTIONS = {  # field of view -> directions in degrees, from 0 to the right over 90 downwards, of eight heads
    180: (0, 90, 180, 270, 0, 90, 180, 270),
    90: (0, 90, 180, 270, 45, 135, 225, 315),
    45: (22.5, 112.5, 202.5, 292.5, 67.5, 157.5, 247.5, 337.5),
}
FIRST_BLOCK, LAST_BLOCK = 1.5, 0.5  # slopes of blocks, linear between


class LookHereEncoding(AlibiEncoding):
    """Each attention head looks one way, up to a field of view, and less the further; nothing is learned (LookHere).

    Two thirds of the heads see only keys within `view` degrees (180, 90 or 45) around their direction, the token itself
    included; the others see all. From the logits the distance is subtracted, times a slope of the block (1.5 at the
    first to 0.5 at the last) and of the head (1/2 for the first four directed heads, 1/4 for the next; 1/4, 1/16, 1/64,
    1/256 for those that see all). At scale s distances are divided by s, directions stay. tuned: as for `alibi`.
    depth: the number of blocks over which slopes fall, where it is not the model's.
    Source: Fuller et al., arXiv 2405.13985. There models have 12 heads; with four here all are directed.
    """

    symmetries = frozenset()

    def __init__(self, shape: ModelShape, view: int = 180, tuned: bool = False, depth: int | None = None) -> None:
        super().__init__(shape, tuned)
        if view not in DIRECTIONS:
            raise ValueError(f"view, the field of view in degrees, must be one of {', '.join(map(str, DIRECTIONS))}; "
                             f"got {view!r}")  # fmt: skip
        directed, heads = _directed_heads(shape.num_heads), range(shape.num_heads)
        self.depth, self.view = depth or shape.depth, view
        self.directions = [DIRECTIONS[view][head % 8] for head in range(directed)]
        self.slopes = [2.0 ** -(1 + head % 8 // 4) if head < directed else 4.0 ** -(1 + (head - directed) % 4)
                       for head in heads]  # fmt: skip

    def by_offset(self, grid: Grid, depth: int, scale: Scale) -> Tensor:
        along = (depth - 1) / max(1, self.depth - 1)
        bias = super().by_offset(grid, depth, scale) * (FIRST_BLOCK + (LAST_BLOCK - FIRST_BLOCK) * along)
        seen = self._seen(grid)
        return torch.cat([bias[: len(seen)].masked_fill(~seen, -math.inf), bias[len(seen) :]])

    def prune(self, depth: int) -> dict[str, Any]:
        return {"depth": self.depth}

    def _seen(self, grid: Grid) -> Tensor:
        """Which offsets lie in the field of view of each directed head, its edges included: (heads, 2h - 1, 2w - 1)."""
        rows, columns = self.offsets(grid)
        distance = (rows.square() + columns.square()).sqrt()
        angles = torch.tensor(self.directions, device=rows.device).deg2rad()[:, None, None]
        ahead = rows * angles.sin() + columns * angles.cos()
        return ahead >= distance * math.cos(math.radians(self.view / 2)) - 1e-3


def _directed_heads(heads: int) -> int:
    """Two thirds of the heads in whole fours, as in the paper's models of 6, 12 and 16 heads; two or four of fewer."""
    return 0 if heads < 2 else 2 if heads < 4 else max(4, (heads - heads // 3) // 4 * 4)
