"""A learned bias on the attention logits for every offset between two tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, PositionalEncoding
from cpvt.grids import Grid, Scale


class RelativeEncoding(PositionalEncoding):
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
        size = (shape.num_heads, (2 * max_offset + 1) ** 2)
        self.tables = nn.ParameterList(torch.empty(size) for _ in range(1 if shared else shape.depth))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in self.tables:
            nn.init.trunc_normal_(table, std=0.02)

    def bias(self, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        table: Tensor = self.tables[0 if self.shared else depth - 1]
        h, w = grid
        side = 2 * self.max_offset + 1
        scale = (1.0, 1.0) if scale is None else scale
        by_offset = self._weights(h, scale[0], table) @ table.unflatten(1, (side, side))  # (heads, 2h - 1, 2K + 1)
        by_offset = by_offset @ self._weights(w, scale[1], table).t()  # (heads, 2h - 1, 2w - 1)
        rows, columns = _offsets(h, table.device), _offsets(w, table.device)  # (h, h), (w, w)
        index = rows[:, None, :, None] * (2 * w - 1) + columns[None, :, None, :]  # (h, w, h, w)
        return by_offset.flatten(1).index_select(1, index.flatten()).view(-1, h * w, h * w)

    def layers(self) -> dict[str, int]:
        return {} if self.shared else {f"tables.{number}": number + 1 for number in range(len(self.tables))}

    def prune(self, depth: int) -> dict[str, Any]:
        self.tables = self.tables[:depth]  # one that is shared stays
        return {}

    def _weights(self, length: int, scale: float, table: Tensor) -> Tensor:
        """How much of each entry of the table an offset 1 - length, ..., length - 1 reads, (2 length - 1, 2K + 1)."""
        offsets = torch.arange(1 - length, length, device=table.device) / scale
        offsets = offsets.clamp(-self.max_offset, self.max_offset)
        entries = torch.arange(-self.max_offset, self.max_offset + 1, device=table.device)
        return (1 - (offsets[:, None] - entries).abs()).clamp(min=0).to(table.dtype)


def _offsets(length: int, device: torch.device) -> Tensor:
    """Offset from place i (query) to place j (key) of one axis, counted from 0; (length, length)."""
    places = torch.arange(length, device=device)
    return places[None, :] - places[:, None] + (length - 1)
