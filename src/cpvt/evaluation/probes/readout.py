"""A linear readout: ridge regression fitted on sums, so that no token is kept."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 1e-4  # of each channel's variance: fixed, so that no probe is tuned on what it tests
EXACT = 1024  # channels; sums over more are taken in single precision


class Readout(NamedTuple):
    """What was fitted: targets = tokens @ weight + bias."""

    weight: Tensor  # (D, targets)
    bias: Tensor  # (targets,)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Read tokens (..., D) out, (..., targets)."""
        return tokens.to(self.weight.dtype) @ self.weight + self.bias


class Sums:
    """What ridge regression needs to know of tokens (n, D) and their targets (n, k), added up batch by batch."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, tokens: Tensor, targets: Tensor) -> None:
        """Take in a batch."""
        x = tokens.double() if tokens.shape[1] <= EXACT else tokens.float()
        y = targets.to(x)
        if not self.count:  # sums of differences from a typical token: large offsets would drown small variances
            self.origin = x.mean(0)
            self.x = self.xx = self.xy = self.y = torch.zeros((), dtype=torch.float64, device=x.device)
        x = x - self.origin
        self.count += len(x)
        self.x, self.y = self.x + x.sum(0), self.y + y.sum(0)
        self.xx, self.xy = self.xx + x.T @ x, self.xy + x.T @ y

    def solve(self) -> Readout:
        """The readout that predicts best, each channel's weight held back in proportion to its variance."""
        mean_x, mean_y = self.x / self.count, self.y / self.count
        covariance = (self.xx / self.count - mean_x[:, None] * mean_x).double()
        shared = (self.xy / self.count - mean_x[:, None] * mean_y).double()
        variance = covariance.diagonal()
        if not float(variance.max()) > 0:  # every token is the same, so the mean is all that can be said
            weight = torch.zeros_like(shared)
        else:
            held_back = RIDGE * variance.clamp_min(1e-6 * float(variance.max()))
            weight = torch.linalg.solve(covariance + torch.diag(held_back), shared)
        return Readout(weight, mean_y.double() - (self.origin.double() + mean_x) @ weight)
