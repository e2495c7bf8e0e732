"""Metrics of training: sums over images, held on the device between reductions to avoid synchronisation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from cpvt.runtime import distributed


@dataclass
class Metrics:
    """Named sums over the images of some steps; numbers, or tensors on the device."""

    loss: Any = 0.0
    correct: Any = 0.0
    images: float = 0.0  # trained on
    skipped: float = 0.0  # not decodable
    shrunk: float = 0.0  # larger than the longest side allowed

    def count(self, loss: Tensor, correct: Tensor, images: float) -> None:
        """Count images (fractions, where each is shown at several sizes): mean loss, number of correct predictions."""
        self.loss = self.loss + (loss.detach() * images).to(_dtype(loss.device))
        self.correct = self.correct + correct
        self.images += images

    def add(self, other: Metrics) -> None:
        """Add the sums of further steps."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def mean(self, name: str) -> float:
        """A sum divided by the number of images trained on."""
        return float(getattr(self, name) / max(1.0, self.images))


def reduce(metrics: Metrics, flags: list[bool], device: torch.device) -> tuple[Metrics, list[bool]]:
    """The sums over all processes, and which flags any process set, in one reduction that every process calls."""
    values = [*vars(metrics).values(), *map(float, flags)]
    summed = torch.stack([torch.as_tensor(value, device=device).to(_dtype(device)) for value in values])
    sums = distributed.all_reduce_sum(summed).tolist()
    count = len(fields(Metrics))
    return Metrics(*sums[:count]), [value > 0 for value in sums[count:]]


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
