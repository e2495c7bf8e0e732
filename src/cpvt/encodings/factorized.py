"""Two learned tables, one for the row and one for the column."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape
from cpvt.encodings.coordinates import AnyJitter
from cpvt.encodings.learned import TableEncoding, linear_weights
from cpvt.grids import Grid, Scale


class FactorizedEncoding(TableEncoding):
    """A learned vector for each row and one for each column, added to the patches (factorized, NaViT).

    The tables are (h, D) and (w, D) on the training grid; other grids read them linearly, as timm's NaFlex models do.
    `coordinates` and `jitter` as for `learned`; at scale s 'object' reads place (i + 0.5) / s - 0.5 of each axis.
    Source: Dehghani et al. (NaViT), arXiv 2307.06304.
    """

    def __init__(self, shape: ModelShape, coordinates: str = "scaled", jitter: AnyJitter = None) -> None:
        super().__init__(shape, coordinates, jitter)
        self.rows, self.columns = (nn.Parameter(torch.empty(side, shape.dim)) for side in shape.grid)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in (self.rows, self.columns):
            nn.init.trunc_normal_(table, std=0.02)

    def resized(self, grid: Grid, scale: Scale | None = None) -> Tensor:
        if self.training and self.coordinates.jitter is not None:
            axes = self.coordinates.places(grid, self.rows.device, self.table_scale(scale), training=True)
            rows, columns = self._read(axes)  # (N, D) each
            return (rows + columns)[None]
        rows, columns = self._read(self.coordinates.axes(grid, self.rows.device, self.table_scale(scale)))
        return (rows[:, None] + columns[None, :]).flatten(0, 1)[None]

    def resize_tables(self, grid: Grid, scale: Scale) -> None:
        axes = self.coordinates.axes(grid, self.rows.device, self.table_scale(scale))
        tables = (self.rows, self.columns)
        self.rows, self.columns = (
            nn.Parameter(read.detach().to(table.dtype), requires_grad=table.requires_grad)
            for read, table in zip(self._read(axes), tables)
        )

    def _read(self, axes: tuple[Tensor, Tensor]) -> list[Tensor]:
        """What the places of each axis read in its table, (places, D) each in float32."""
        both = zip(axes, (self.rows, self.columns))
        return [linear_weights(places, 0, table.shape[0] - 1) @ table.float() for places, table in both]
