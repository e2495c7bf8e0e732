"""Fixed sines and cosines of row and column."""

from __future__ import annotations

import torch
from torch import Tensor

from cpvt.encodings.base import ModelShape, Pair, PositionalEncoding, check_positive
from cpvt.encodings.coordinates import AnyJitter, find_coordinates, frequencies
from cpvt.grids import Grid, Scale


class SinCosEncoding(PositionalEncoding):
    """Fixed sines and cosines of row and column at many wavelengths, added to the patches; nothing is learned.

    Half of the width encodes the row, half the column, each half as sines then cosines at wavelengths
    2 pi * 10000^(i / (D / 4)). At a new size coordinates are spread over the training grid, as resizing a table does.
    `coordinates='object'`: (i + 0.5) / s - 0.5 at scale s; 'raw': 0, 1, 2, ... grid: the one over which 'scaled'
    spreads them, where it is not that of img_size. jitter: random changes of coordinates in training, 'cape', 'fpe' or
    'dino'.
    Source: Vaswani et al., arXiv 1706.03762; in two dimensions as in Chen et al. (MoCo v3), arXiv 2104.02057.
    """

    at = (0,)
    dim: int
    name = "sincos"  # in errors

    def __init__(
        self,
        shape: ModelShape,
        coordinates: str = "scaled",
        temperature: float = 10000.0,
        grid: Grid | None = None,
        jitter: AnyJitter = None,
    ) -> None:
        super().__init__()
        if shape.dim % 4:
            raise ValueError(f"{self.name} needs a width that is a multiple of 4; got {shape.dim}")
        check_positive(self.name, temperature=temperature)
        self.dim, self.temperature = shape.dim, temperature
        self.coordinates = find_coordinates(coordinates, shape, grid, jitter)

    def tokens(self, x: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        return x + self.table(grid, x.device, scale).to(x.dtype)

    def table(self, grid: Grid, device: torch.device, scale: Scale | None = None) -> Tensor:
        """The encoding of every place, (N, D) in float32."""
        wave = frequencies(self.temperature, self.dim // 4, device)
        y, x = (places[:, None] * wave for places in self.places(grid, device, scale))
        return torch.cat([y.sin(), y.cos(), x.sin(), x.cos()], dim=1)

    def places(self, grid: Grid, device: torch.device, scale: Scale | None) -> Pair:
        """Row and column of every token, (N,) float32 each."""
        return self.coordinates.places(grid, device, scale, self.training)
