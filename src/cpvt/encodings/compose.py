"""Several encodings in one model, such as a learned table and a PEG."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cpvt.encodings.base import PositionalEncoding
from cpvt.grids import Grid, Layout, Scale


class SumEncoding(PositionalEncoding):
    """Several encodings at once, applied from left to right; biases add, and at most one may rotate."""

    def __init__(self, parts: Sequence[PositionalEncoding]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.at = tuple(sorted({depth for part in parts for depth in part.at}))
        rotating = [type(part) for part in parts if type(part).rotation is not PositionalEncoding.rotation]
        if len(rotating) > 1:
            raise ValueError(f"at most one encoding of a sum may rotate queries and keys; got {len(rotating)}")

    def forward(self, x: Tensor, layout: Layout, depth: int) -> Tensor:
        for part in self.parts:
            x = part(x, layout, depth)
        return x

    def tokens(self, x: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        return self(x, Layout((grid,), 0, (scale,)), depth)

    def rotation(self, grid: Grid, device: torch.device, scale: Scale | None = None) -> tuple[Tensor, Tensor] | None:
        for part in self.encodings():
            rotation: tuple[Tensor, Tensor] | None = part.call_hook("rotation", grid, device, scale=scale)
            if rotation is not None:
                return rotation
        return None

    def bias(self, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor | None:
        given = (part.call_hook("bias", grid, depth, scale=scale) for part in self.encodings())
        biases: list[Tensor] = [bias for bias in given if bias is not None]
        return sum(biases[1:], start=biases[0]) if biases else None

    def layers(self) -> dict[str, int]:
        parts = enumerate(self.encodings())
        return {f"parts.{number}.{name}": depth for number, part in parts for name, depth in part.layers().items()}

    def reset_parameters(self) -> None:
        for part in self.encodings():
            part.reset_parameters()

    def encodings(self) -> list[PositionalEncoding]:
        """The parts, in order."""
        return list(self.parts)  # type: ignore[arg-type]
