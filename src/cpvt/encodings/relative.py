"""A learned bias on the attention logits for every offset between two tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape
from cpvt.encodings.learned import linear_weights
from cpvt.encodings.offsets import OffsetBias, find_offsets
from cpvt.grids import Grid, Scale


class RelativeEncoding(OffsetBias):
    """A learned bias per block and head for each offset of two tokens, added to the attention logits.

    Offsets are clipped to -K..K on each axis (K = 8 as in the CPVT paper), so any grid has a value for any pair. At
    scale s they are divided by s, and the table is read bilinearly between its entries.
    Each block has its own table (heads, (2K + 1)^2); shared=True: one serves all blocks. Prefix tokens get no bias,
    so where the head reads one of them, the last block's own table changes no answer and gets a gradient of zero.
    Source: the 2-D form of Shaw et al., arXiv 1803.02155, as a bias on logits like Liu et al. (Swin), arXiv 2103.14030;
    one table for all blocks as in Raffel et al. (T5), arXiv 1910.10683.
    """

    def __init__(self, shape: ModelShape, max_offset: int = 8, shared: bool = False) -> None:
        super().__init__()
        if max_offset < 1:
            raise ValueError(f"max_offset must be 1 or more; got {max_offset}")
        self.max_offset, self.shared = max_offset, shared
        self.per_block = () if shared else ("tables",)
        size = (shape.num_heads, (2 * max_offset + 1) ** 2)
        self.tables = nn.ParameterList(torch.empty(size) for _ in range(1 if shared else shape.depth))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in self.tables:
            nn.init.trunc_normal_(table, std=0.02)

    def by_offset(self, grid: Grid, depth: int, scale: Scale, device: torch.device) -> Tensor:
        table: Tensor = self.tables[0 if self.shared else depth - 1]
        side, last = 2 * self.max_offset + 1, self.max_offset
        axes = (offsets.flatten() for offsets in find_offsets(grid, scale, device))
        rows, columns = (linear_weights(offsets, -last, last).to(table.dtype) for offsets in axes)
        return rows @ table.unflatten(1, (side, side)) @ columns.t()
