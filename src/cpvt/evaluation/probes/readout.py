"""A linear readout: ridge regression from running sums, so no tokens are stored."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 1e-4  # of each channel's variance; fixed, so no probe is tuned on its test data
EXACT = 1024  # channels; sums over more are in float32


class Readout(NamedTuple):
    """A fitted linear map: targets = tokens @ weight + bias."""

    weight: Tensor  # (D, k)
    bias: Tensor  # (k,)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Predict targets (..., k) from tokens (..., D)."""
        return tokens.to(self.weight.dtype) @ self.weight + self.bias


class Sums:
    """The sums that ridge regression needs of tokens (n, D) and targets (n, k), added batch by batch."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, tokens: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        x = tokens.double() if tokens.shape[1] <= EXACT else tokens.float()
        y = targets.to(x)
        if not self.count:  # sums are of differences from a typical token: large offsets would swamp small variances
            self.origin = x.mean(0)
            self.x = self.xx = self.xy = self.y = torch.zeros((), dtype=torch.float64, device=x.device)
        x = x - self.origin
        self.count += len(x)
        self.x, self.y = self.x + x.sum(0), self.y + y.sum(0)
        self.xx, self.xy = self.xx + x.T @ x, self.xy + x.T @ y

    def solve(self) -> Readout:
        """The ridge regression, each channel regularised in proportion to its variance."""
        mean_x, mean_y = self.x / self.count, self.y / self.count
        covariance = (self.xx / self.count - mean_x[:, None] * mean_x).double()
        shared = (self.xy / self.count - mean_x[:, None] * mean_y).double()
        variance = covariance.diagonal()
        if not float(variance.max()) > 0:  # all tokens are equal, so the readout is the mean
            weight = torch.zeros_like(shared)
        else:
            penalty = RIDGE * variance.clamp_min(1e-6 * float(variance.max()))
            weight = torch.linalg.solve(covariance + torch.diag(penalty), shared)
        return Readout(weight, mean_y.double() - (self.origin.double() + mean_x) @ weight)
