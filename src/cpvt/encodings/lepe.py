"""A depth-wise convolution over the values of attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, PositionalEncoding
from cpvt.encodings.peg import PEGWithoutResidual, at_least_one
from cpvt.grids import Grid, Scale


class LocallyEnhancedEncoding(PositionalEncoding):
    """A depth-wise convolution over the values of each block is added to what attention returns (LePE, CSWin).

    It is a PEG on values instead of tokens, in every block; with its batch norm folded, YOLO11's and YOLO12's `pe` (3x3
    and 7x7). At scale s neighbours are read at distance s.
    Source: Dong et al. (CSWin), arXiv 2107.00652.
    """

    per_block = ("value_pegs",)

    def __init__(self, shape: ModelShape, kernel_size: int | Sequence[int] = 3, padding_mode: str = "zeros") -> None:
        super().__init__()
        self.value_pegs = nn.ModuleList(
            PEGWithoutResidual(shape.dim, kernel_size, padding_mode=padding_mode) for _ in range(shape.depth)
        )

    def value_encoding(self, value: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        encoded: Tensor = self.value_pegs[depth - 1](value, grid, 0, at_least_one(scale))
        return encoded
