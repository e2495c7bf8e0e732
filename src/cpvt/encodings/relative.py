"""A learned bias on the attention logits for every offset between two tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, PositionalEncoding
from cpvt.shapes import Grid


class RelativeEncoding(PositionalEncoding):
    """A learned number per head for each offset (rows, columns) between two tokens, added to their attention.

    Offsets are clipped to -K..K on each axis (K = 8 as in the CPVT paper), so any grid has a value for any pair.
    One table (heads, (2K + 1)^2) serves all blocks. Prefix tokens get no bias.
    Source: the 2-D form of Shaw et al., arXiv 1803.02155, as a bias on logits like Liu et al. (Swin), arXiv 2103.14030.
    """

    def __init__(self, shape: ModelShape, max_offset: int = 8) -> None:
        super().__init__()
        if max_offset < 1:
            raise ValueError(f"max_offset must be 1 or more; got {max_offset}")
        self.max_offset = max_offset
        self.table = nn.Parameter(torch.empty(shape.num_heads, (2 * max_offset + 1) ** 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    def bias(self, grid: Grid) -> Tensor:
        h, w = grid
        rows, columns = self._offsets(h), self._offsets(w)  # (h, h), (w, w)
        index = rows[:, None, :, None] * (2 * self.max_offset + 1) + columns[None, :, None, :]  # (h, w, h, w)
        return self.table.index_select(1, index.flatten()).view(-1, h * w, h * w)

    def _offsets(self, length: int) -> Tensor:
        """Clipped offset from place i (query) to place j (key) of one axis, counted from 0; (length, length)."""
        places = torch.arange(length, device=self.table.device)
        offsets = places[None, :] - places[:, None]
        return offsets.clamp(-self.max_offset, self.max_offset) + self.max_offset
