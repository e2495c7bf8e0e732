"""Biases that depend on nothing but the offset of two tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpvt.encodings.base import PositionalEncoding
from cpvt.grids import Grid, Scale


class OffsetBias(PositionalEncoding):
    """Base of encodings that add a number to the attention logits for each offset of two tokens.

    Subclasses give the numbers of all offsets of a grid; here they become a bias (heads, N, N), held for one block at
    a time. Prefix tokens get none, so where the head reads one of them, the last block's bias changes no answer.
    """

    use_scale = True
    """Whether offsets are divided by the scale; else they stay in tokens, whatever scale the model is given."""

    def by_offset(self, grid: Grid, depth: int, scale: Scale, device: torch.device) -> Tensor:
        """The number of each offset from (1 - h, 1 - w) to (h - 1, w - 1), key minus query: (heads, 2h - 1, 2w - 1)."""
        raise NotImplementedError

    def bias(self, grid: Grid, depth: int, scale: Scale | None = None, device: torch.device | None = None) -> Tensor:
        if device is None:
            device = next((each.device for each in self.parameters()), torch.device("cpu"))
        by_offset = self.by_offset(grid, depth, scale if scale is not None and self.use_scale else (1.0, 1.0), device)
        h, w = grid
        rows, columns = (_number_offsets(side, device) for side in grid)  # (h, h), (w, w)
        index = rows[:, None, :, None] * (2 * w - 1) + columns[None, :, None, :]  # (h, w, h, w)
        return by_offset.flatten(1).index_select(1, index.flatten()).view(-1, h * w, h * w)


def find_offsets(grid: Grid, scale: Scale, device: torch.device) -> tuple[Tensor, Tensor]:
    """Offsets along rows, (2h - 1, 1), and columns, (1, 2w - 1), in tokens of an object at scale 1."""
    h, w = grid
    rows, columns = torch.arange(1 - h, h, device=device), torch.arange(1 - w, w, device=device)
    return (rows / scale[0])[:, None], (columns / scale[1])[None]


class OffsetMlp(nn.Module):
    """A small network from a number for each axis to one for each head."""

    def __init__(self, axes: int, hidden_dim: int, num_heads: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(axes, hidden_dim), nn.Linear(hidden_dim, num_heads, bias=False)

    def forward(self, *axes: Tensor) -> Tensor:
        """Numbers of all offsets, (heads, 2h - 1, 2w - 1), from those of each axis, (2h - 1, 1) and (1, 2w - 1)."""
        places = torch.stack(torch.broadcast_tensors(*axes), dim=-1).to(self.fc1.weight.dtype)
        numbers: Tensor = self.fc2(self.fc1(places).relu())
        return numbers.permute(2, 0, 1)


def _number_offsets(length: int, device: torch.device) -> Tensor:
    """Offset from place i (query) to place j (key) of one axis, counted from 0; (length, length)."""
    places = torch.arange(length, device=device)
    return places[None, :] - places[:, None] + (length - 1)
