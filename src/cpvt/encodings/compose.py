"""Several encodings in one model, such as a learned table and a PEG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cpvt.encodings.base import Pair, PositionalEncoding
from cpvt.grids import Grid, Layout, Scale


class SumEncoding(PositionalEncoding):
    """Several encodings at once, applied from left to right; what they add to attention is summed, one may rotate."""

    def __init__(self, parts: Sequence[PositionalEncoding]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.at = tuple(sorted({depth for part in parts for depth in part.at}))
        self.active_hooks = frozenset(hook for part in parts for hook in part.active_hooks)
        self.rotating = [number for number, part in enumerate(parts) if "rotation" in part.active_hooks]
        if len(self.rotating) > 1:
            raise ValueError(f"at most one encoding of a sum may rotate queries and keys; got {len(self.rotating)}")

    def forward(self, x: Tensor, layout: Layout, depth: int) -> Tensor:
        for part in self.parts:
            x = part(x, layout, depth)
        return x

    def tokens(self, x: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        return self(x, Layout((grid,), 0, (scale,)), depth)

    def rotation(self, grid: Grid, device: torch.device, scale: Scale | None = None) -> Pair | None:
        rotations: list[Pair] = [
            self.encodings()[number].call_hook("rotation", grid, device, scale=scale) for number in self.rotating
        ]
        return rotations[0] if rotations else None

    def block_rotation(self, rotation: Pair, depth: int) -> Pair:
        return self.encodings()[self.rotating[0]].block_rotation(rotation, depth)

    def bias(
        self, grid: Grid, depth: int, scale: Scale | None = None, device: torch.device | None = None
    ) -> Tensor | None:
        return self._sum("bias", grid, depth, scale=scale, device=device)

    def query_bias(self, query: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor | None:
        return self._sum("query_bias", query, grid, depth, scale=scale)

    def value_encoding(self, value: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor | None:
        return self._sum("value_encoding", value, grid, depth, scale=scale)

    def _sum(self, hook: str, *arguments: Any, **more: Any) -> Tensor | None:
        """The sum of what the parts return, None if none returns anything."""
        given = (part.call_hook(hook, *arguments, **more) for part in self.encodings() if hook in part.active_hooks)
        found: list[Tensor] = [each for each in given if each is not None]
        return sum(found[1:], start=found[0]) if found else None

    def layers(self) -> dict[str, int]:
        parts = enumerate(self.encodings())
        return {f"parts.{number}.{name}": depth for number, part in parts for name, depth in part.layers().items()}

    def outputs(self) -> dict[int, str]:
        parts = enumerate(self.encodings())
        return {depth: f"parts.{number}.{name}" for number, part in parts for depth, name in part.outputs().items()}

    def reset_parameters(self) -> None:
        for part in self.encodings():
            part.reset_parameters()

    def encodings(self) -> list[PositionalEncoding]:
        """The parts, in order."""
        return list(self.parts)  # type: ignore[arg-type]
