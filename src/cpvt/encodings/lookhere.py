"""Attention whose heads each look one way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cpvt.encodings.alibi import AlibiEncoding
from cpvt.encodings.base import ModelShape, check_positive
from cpvt.encodings.offsets import find_offsets
from cpvt.grids import Grid, Scale

VIEWS = {  # field of view -> direction of the first head, and by how much those of heads 5 to 8 differ, in degrees
    180: (0.0, 0.0),
    90: (0.0, 45.0),
    45: (22.5, 45.0),
}
FIRST_BLOCK, LAST_BLOCK = 1.5, 0.5  # slopes of blocks, linear between


class LookHereEncoding(AlibiEncoding):
    """Each attention head looks one way, up to a field of view, and less the further; nothing is learned (LookHere).

    Directed heads, in fours, see only keys within `view` degrees (180, 90 or 45) around their direction, the token
    itself included; they are eight of 12 or 16 heads, four of 4 to 8, two of fewer, and the others see all. From the
    logits the distance is subtracted, times a slope of the block (1.5 at the first to 0.5 at the last) and of the head
    (1/2 for the first four directed heads, 1/4 for the next; 1/4, 1/16, 1/64, 1/256 for those that see all). Distances
    are in tokens, as published; use_scale, tuned: as for `alibi`, with its factors, and directions stay.
    depth: the number of blocks over which slopes fall, where it is not the model's.
    Source: Fuller et al., arXiv 2405.13985.
    """

    symmetries = frozenset()

    def __init__(
        self, shape: ModelShape, view: int = 180, tuned: bool = False, use_scale: bool = False, depth: int | None = None
    ) -> None:
        super().__init__(shape, tuned, use_scale)
        if view not in tuple(VIEWS):
            listed = ", ".join(map(str, VIEWS))
            raise ValueError(f"view, the field of view in degrees, must be one of {listed}; got {view!r}")
        check_positive("lookhere", depth=shape.depth if depth is None else depth)
        self.depth, self.view, self.directed = depth or shape.depth, view, _directed_heads(shape.num_heads)

    def by_offset(self, grid: Grid, depth: int, scale: Scale, device: torch.device) -> Tensor:
        along = (depth - 1) / max(1, self.depth - 1)
        bias = super().by_offset(grid, depth, scale, device) * (FIRST_BLOCK + (LAST_BLOCK - FIRST_BLOCK) * along)
        directed, others = bias.split([self.directed, self.num_heads - self.directed])
        return torch.cat([directed.masked_fill(~self._seen(grid, device), -math.inf), others])

    def slopes(self, device: torch.device) -> Tensor:
        directed = torch.arange(self.directed, device=device)
        others = torch.arange(self.num_heads - self.directed, device=device)
        return torch.cat([2.0 ** -(1 + directed % 8 // 4), 4.0 ** -(1 + others % 4)])

    def _seen(self, grid: Grid, device: torch.device) -> Tensor:
        """Which offsets lie in the field of view of each directed head, its edges included: (heads, 2h - 1, 2w - 1)."""
        rows, columns = find_offsets(grid, (1.0, 1.0), device)
        head, (first, later) = torch.arange(self.directed, device=device), VIEWS[self.view]
        angles = (first + 90 * (head % 4) + later * (head % 8 // 4)).deg2rad()[:, None, None]  # 0: right, 90: down
        ahead = rows * angles.sin() + columns * angles.cos()
        distance = (rows.square() + columns.square()).sqrt()
        return ahead >= distance * math.cos(math.radians(self.view / 2)) - 1e-3

    def prune(self, depth: int) -> dict[str, Any]:
        return {"depth": self.depth}


def _directed_heads(heads: int) -> int:
    """Two thirds of the heads in whole fours, as in the released models of 6, 12 and 16 heads; two or four of fewer."""
    return 0 if heads < 2 else 2 if heads < 4 else max(4, (heads - heads // 3) // 4 * 4)
