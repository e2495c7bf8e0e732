"""A global encoding of coordinates and a local one of values, each through a depth-wise convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, Pair
from cpvt.encodings.coordinates import AnyJitter
from cpvt.encodings.peg import PEGWithoutResidual, at_least_one
from cpvt.encodings.sincos import SinCosEncoding
from cpvt.grids import Grid, Scale


class GlobalLocalEncoding(SinCosEncoding):
    """Sines and cosines of coordinates through a convolution, and a convolution of the values in each block (GLPE).

    Before block 1: tokens plus a depth-wise 3x3 convolution of a fixed table of sines and cosines, of coordinates that
    are in (0, 2 pi] on the training grid. In each block: a depth-wise 3x3 convolution of the values, the same for every
    head and zero at the start, is added to what attention returns. `coordinates` and `jitter` as for `sincos`; at scale
    s both convolutions read neighbours at distance s.
    Source: Tian et al. (ResFormer), arXiv 2212.00776.
    """

    name = "glpe"
    per_block = ("value_pegs",)

    def __init__(
        self,
        shape: ModelShape,
        coordinates: str = "scaled",
        temperature: float = 10000.0,
        jitter: AnyJitter = None,
    ) -> None:
        super().__init__(shape, coordinates, temperature, jitter=jitter)
        self.num_heads = shape.num_heads
        self.global_peg = PEGWithoutResidual(shape.dim)
        self.value_pegs = nn.ModuleList(PEGWithoutResidual(shape.head_dim) for _ in range(shape.depth))
        self._start_at_zero()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        for layer in self.value_pegs:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]

    def tokens(self, x: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        table = self.table(grid, x.device, scale).to(x.dtype)[None]
        encoded: Tensor = self.global_peg(table, grid, 0, at_least_one(scale))
        return x + encoded

    def places(self, grid: Grid, device: torch.device, scale: Scale | None) -> Pair:
        rows, columns = super().places(grid, device, scale)
        h, w = self.coordinates.training_grid
        return 2 * math.pi * (rows + 1) / h, 2 * math.pi * (columns + 1) / w

    def value_encoding(self, value: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        by_head = value.unflatten(2, (self.num_heads, -1)).transpose(1, 2).flatten(0, 1)  # (B * heads, N, d)
        encoded: Tensor = self.value_pegs[depth - 1](by_head, grid, 0, at_least_one(scale))
        return encoded.unflatten(0, (-1, self.num_heads)).transpose(1, 2).flatten(2)

    def layers(self) -> dict[str, int]:
        return {"global_peg": 0, **super().layers()}
