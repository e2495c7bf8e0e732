"""Learnable Fourier features of row and column."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, PositionalEncoding, check_positive
from cpvt.encodings.coordinates import AnyJitter, find_coordinates
from cpvt.grids import Grid, Scale


class FourierEncoding(PositionalEncoding):
    """Sines and cosines of learned mixtures of row and column, through a small network, added to the patches.

    MLP([cos Wp, sin Wp] / sqrt D), where p in [0, 1] is the place on the training grid, W (D / 2, 2) starts normal with
    standard deviation 1 / gamma, and the MLP has one hidden layer with GELU. `coordinates` and `jitter` as for
    `sincos`; at scale s 'object' reads place (i + 0.5) / s of the training grid, beyond 1 where the view grows.
    Source: Li et al., arXiv 2106.02795.
    """

    at = (0,)

    def __init__(
        self,
        shape: ModelShape,
        coordinates: str = "scaled",
        hidden_dim: int = 32,
        gamma: float = 1.0,
        jitter: AnyJitter = None,
    ) -> None:
        super().__init__()
        if shape.dim % 2:
            raise ValueError(f"fourier needs an even width; got {shape.dim}")
        check_positive("fourier", hidden_dim=hidden_dim, gamma=gamma)
        self.dim, self.gamma = shape.dim, gamma
        self.coordinates = find_coordinates(coordinates, shape, jitter=jitter)
        self.waves = nn.Parameter(torch.empty(shape.dim // 2, 2))
        self.fc1, self.fc2 = nn.Linear(shape.dim, hidden_dim), nn.Linear(hidden_dim, shape.dim)
        nn.init.normal_(self.waves, std=1 / gamma)  # the layers have drawn theirs

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.normal_(self.waves, std=1 / self.gamma)

    def tokens(self, x: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        axes = self.coordinates.places(grid, x.device, scale, self.training)
        sides = self.coordinates.training_grid
        places = torch.stack([(along + 0.5) / side for along, side in zip(axes, sides)], dim=1)  # (N, 2)
        waves = places @ self.waves.float().t()
        features = torch.cat([waves.cos(), waves.sin()], dim=1) / waves.shape[1] ** 0.5 / 2**0.5
        return x + self.fc2(F.gelu(self.fc1(features.to(self.fc1.weight.dtype)))).to(x.dtype)
