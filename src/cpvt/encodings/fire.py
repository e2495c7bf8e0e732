"""A bias from a small network of the distance of two tokens, relative to the largest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape
from cpvt.encodings.offsets import OffsetBias, OffsetMlp
from cpvt.grids import Grid, Scale


class FireEncoding(OffsetBias):
    """A network of each block maps how far two tokens are, as a share of the longest way, to a bias (FIRE).

    MLP(log(1 + c d) / log(1 + c max(L, d_max))) for the distances d along rows and columns, or one Euclidean distance;
    d_max is the largest of the grid. c and L of each block are learned; they start at 0.1 and at the longest side in
    training. The MLP has a hidden layer of 32 with ReLU. At scale s distances are divided by s.
    Source: Li et al., arXiv 2310.04418, for text; two axes are this package's reading.
    """

    per_block = ("mlps", "rates", "thresholds")

    def __init__(self, shape: ModelShape, distance: str = "axes", hidden_dim: int = 32) -> None:
        super().__init__()
        if distance not in ("axes", "euclidean"):
            raise ValueError(f"distance must be 'axes' or 'euclidean'; got '{distance}'")
        self.symmetries = frozenset({"flip"} if distance == "axes" else {"flip", "transpose"})
        self.distance, self.longest = distance, max(shape.scale_grid or shape.grid)
        axes = 2 if distance == "axes" else 1
        self.mlps = nn.ModuleList(OffsetMlp(axes, hidden_dim, shape.num_heads) for _ in range(shape.depth))
        # logarithms, so that both stay positive: c = 0.1 e^rate, L = longest e^threshold
        self.rates, self.thresholds = (nn.ParameterList(torch.zeros(()) for _ in range(shape.depth)) for _ in range(2))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for number in (*self.rates, *self.thresholds):
            nn.init.zeros_(number)

    def by_offset(self, grid: Grid, depth: int, scale: Scale) -> Tensor:
        rows, columns = (offsets.abs() for offsets in self.offsets(grid, scale))
        ways = (rows, columns) if self.distance == "axes" else ((rows.square() + columns.square()).sqrt(),)
        rate = 0.1 * self.rates[depth - 1].float().exp()
        threshold = self.longest * self.thresholds[depth - 1].float().exp()
        shares = [(1 + rate * way).log() / (1 + rate * torch.maximum(threshold, way[:1, :1])).log() for way in ways]
        numbers: Tensor = self.mlps[depth - 1](*shares)
        return numbers
