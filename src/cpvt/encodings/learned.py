"""A learned table of positions, read at the places of other grids: what ViT and DeiT use."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, PositionalEncoding
from cpvt.encodings.coordinates import AnyJitter, find_coordinates
from cpvt.grids import Grid, Scale

BORDER = 4  # how far a table is continued beyond its edge: more than the cubic kernel reaches


class TableEncoding(PositionalEncoding):
    """Base of learned tables of positions on the training grid, which are read at the places of other grids."""

    at = (0,)

    def __init__(self, shape: ModelShape, coordinates: str = "scaled", jitter: AnyJitter = None) -> None:
        super().__init__()
        own = shape._replace(scale_grid=None)  # places are in tokens of the table
        self.coordinates = find_coordinates(coordinates, own, jitter=jitter)
        self.dim, self.grid, self.scale_grid = shape.dim, shape.grid, shape.scale_grid or shape.grid

    def tokens(self, x: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        return x + self.resized(grid, scale).to(x.dtype)

    def table_scale(self, scale: Scale | None) -> Scale | None:
        """The scale in tokens of the table, which differ where the training size of a model was changed later."""
        if self.scale_grid == self.grid or scale is None:
            return scale
        (before_h, before_w), (h, w) = self.scale_grid, self.grid
        return scale[0] * before_h / h, scale[1] * before_w / w

    def resized(self, grid: Grid, scale: Scale | None = None) -> Tensor:
        """The table at the places of another grid, (1, h * w, D) in float32."""
        raise NotImplementedError

    def resize_tables(self, grid: Grid, scale: Scale) -> None:
        """Replace the tables by what another grid reads in them."""
        raise NotImplementedError

    def set_grid(self, grid: Grid) -> dict[str, Any]:
        if grid != self.grid:
            # the scale of an image that fits the new grid
            self.resize_tables(grid, (grid[0] / self.scale_grid[0], grid[1] / self.scale_grid[1]))
            self.grid, self.coordinates = grid, self.coordinates._replace(training_grid=grid)
        return {}


class LearnedEncoding(TableEncoding):
    """A learned vector for each position of the training grid, resized bicubically to other grids (ViT, DeiT).

    The table is (1, N, D) as timm's `pos_embed` without the class token's row; at the training grid it is added as it
    is. At others the tokens are spread over it, as DeiT's code resizes it (bicubic, no antialiasing, corners not
    aligned). `coordinates='object'`: at scale s token i reads place (i + 0.5) / s - 0.5; 'raw': places 0, 1, 2, ...
    What lies outside reads the table's edge. jitter='fpe': in training each token reads the table up to half a token
    away. Source: Dosovitskiy et al., arXiv 2010.11929; resizing as in Touvron et al., arXiv 2012.12877; fuzzy
    positions: Fan et al. (ViTAR), arXiv 2403.18361.
    """

    def __init__(self, shape: ModelShape, coordinates: str = "scaled", jitter: AnyJitter = None) -> None:
        super().__init__(shape, coordinates, jitter)
        self.table = nn.Parameter(torch.empty(1, shape.grid[0] * shape.grid[1], shape.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    def resized(self, grid: Grid, scale: Scale | None = None) -> Tensor:
        if not self.training or self.coordinates.jitter is None:
            return self._read(grid, scale)
        # each token stands at a row and column of its own
        axes = self.coordinates.places(grid, self.table.device, self.table_scale(scale), training=True)
        rows, columns = (cubic_weights(places, side) for places, side in zip(axes, self.grid))  # (N, side)
        return torch.einsum("na, dab, nb -> nd", rows, self._continued()[0], columns)[None]

    def resize_tables(self, grid: Grid, scale: Scale) -> None:
        table = self._read(grid, scale).detach().to(self.table.dtype).contiguous()
        self.table = nn.Parameter(table, requires_grad=self.table.requires_grad)

    def _read(self, grid: Grid, scale: Scale | None) -> Tensor:
        """The table at the places of a grid, without jitter."""
        axes = self.coordinates.axes(grid, self.table.device, self.table_scale(scale))
        rows, columns = (cubic_weights(places, side) for places, side in zip(axes, self.grid))
        return (rows @ self._continued() @ columns.t()).flatten(2).transpose(1, 2)

    def _continued(self) -> Tensor:
        """The table as an image (1, D, h, w) in float32, continued beyond its edges."""
        image = self.table.float().unflatten(1, self.grid).permute(0, 3, 1, 2)
        return F.pad(image, [BORDER] * 4, mode="replicate")


def cubic_weights(places: Tensor, side: int) -> Tensor:
    """How much of each token of an axis, continued by BORDER at both ends, a place reads: (places, side + 2 BORDER).

    The cubic convolution kernel of torch's bicubic interpolation (a = -0.75); float32.
    """
    taps = torch.arange(-BORDER, side + BORDER, device=places.device)
    places = places.clamp(1 - BORDER, side + BORDER - 2)  # beyond, every tap reads the edge
    distance = (places[:, None] - taps).abs()
    near = ((1.25 * distance - 2.25) * distance) * distance + 1
    far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))


def linear_weights(places: Tensor, first: int, last: int) -> Tensor:
    """How much of each entry first, ..., last of an axis a place reads, linearly: (places, entries)."""
    entries = torch.arange(first, last + 1, device=places.device)
    return (1 - (places.clamp(first, last)[:, None] - entries).abs()).clamp(min=0)
