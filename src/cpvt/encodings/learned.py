"""A learned table of positions, read at the places of other grids: what ViT and DeiT use."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, PositionalEncoding, find_coordinates
from cpvt.grids import Grid, Scale

BORDER = 4  # how far a table is continued beyond its edge: more than the cubic kernel reaches


class LearnedEncoding(PositionalEncoding):
    """A learned vector for each position of the training grid, resized bicubically to other grids (ViT, DeiT).

    The table is (1, N, D) as timm's `pos_embed` without the class token's row; at the training grid it is added as it
    is. At others the tokens are spread over it, as DeiT's code resizes it (bicubic, no antialiasing, corners not
    aligned). `coordinates='told'`: at scale s token i reads place (i + 0.5) / s - 0.5; 'raw': places 0, 1, 2, ... What
    lies outside reads the table's edge.
    Source: Dosovitskiy et al., arXiv 2010.11929; resizing as in Touvron et al., arXiv 2012.12877.
    """

    at = (0,)

    def __init__(self, shape: ModelShape, coordinates: str = "scaled") -> None:
        super().__init__()
        self.coordinates = find_coordinates(coordinates, shape._replace(scale_grid=None))  # in tokens of the table
        self.dim, self.grid, self.scale_grid = shape.dim, shape.grid, shape.scale_grid or shape.grid
        self.table = nn.Parameter(torch.empty(1, shape.grid[0] * shape.grid[1], shape.dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    def tokens(self, x: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        return x + self.resized(grid, scale).to(x.dtype)

    def resized(self, grid: Grid, scale: Scale | None = None) -> Tensor:
        """The table at the places of another grid, (1, h * w, D) in float32."""
        if self.scale_grid != self.grid and scale is not None:  # a model whose training size was changed later
            (before_h, before_w), (h, w) = self.scale_grid, self.grid
            scale = (scale[0] * before_h / h, scale[1] * before_w / w)
        axes = self.coordinates.axes(grid, self.table.device, scale)
        image = self.table.float().unflatten(1, self.grid).permute(0, 3, 1, 2)  # (1, D, h, w)
        image = F.pad(image, [BORDER] * 4, mode="replicate")
        rows, columns = (cubic_weights(places, side) for places, side in zip(axes, self.grid))
        return (rows @ image @ columns.t()).flatten(2).transpose(1, 2)

    def set_grid(self, grid: Grid) -> dict[str, Any]:
        if grid != self.grid:
            scale = (grid[0] / self.scale_grid[0], grid[1] / self.scale_grid[1])  # of an image that fits the new grid
            table = self.resized(grid, scale).detach().to(self.table.dtype).contiguous()
            self.table, self.grid = nn.Parameter(table, requires_grad=self.table.requires_grad), grid
            self.coordinates = self.coordinates._replace(training_grid=grid)
        return {}


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
