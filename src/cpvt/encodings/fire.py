"""A bias from a small network of the distance of two tokens, relative to the largest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, check_positive
from cpvt.encodings.offsets import OffsetBias, OffsetMlp, find_offsets
from cpvt.grids import Grid, Scale


class FireEncoding(OffsetBias):
    """A network of each block maps the distance of two tokens, as a fraction of the largest, to a bias (FIRE).

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
        check_positive("fire", hidden_dim=hidden_dim)
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

    def by_offset(self, grid: Grid, depth: int, scale: Scale, device: torch.device) -> Tensor:
        dtype = torch.promote_types(self.rates[depth - 1].dtype, torch.float32)
        rate = 0.1 * self.rates[depth - 1].to(dtype).exp()
        threshold = self.longest * self.thresholds[depth - 1].to(dtype).exp()
        distances = [offsets.abs().to(dtype) for offsets in find_offsets(grid, scale, device)]
        if self.distance == "euclidean":
            distances = [(distances[0].square() + distances[1].square()).sqrt()]
        largest = [torch.maximum(threshold, each[:1, :1]) for each in distances]
        fractions = [(1 + rate * each).log() / (1 + rate * most).log() for each, most in zip(distances, largest)]
        numbers: Tensor = self.mlps[depth - 1](*fractions)
        return numbers
