"""Where tokens of any grid stand on the grid of training, by the rule for other sizes, and jittered in training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cpvt.encodings.base import ModelShape, Pair
from cpvt.grids import Grid, Scale


def spread_coordinates(length: int, training_length: int, device: torch.device, scale: float) -> Tensor:
    """Places of `length` tokens spread over the training axis, as resizing a table spreads them, (length,) float32.

    (i + 0.5) * training_length / length - 0.5: at the training length these are 0, 1, 2, ...
    """
    places = torch.arange(length, device=device, dtype=torch.float32)
    return (places + 0.5) * (training_length / length) - 0.5


def raw_coordinates(length: int, training_length: int, device: torch.device, scale: float) -> Tensor:
    """Places 0, 1, 2, ... whatever the training length was; longer axes reach places never trained."""
    return torch.arange(length, device=device, dtype=torch.float32)


def object_coordinates(length: int, training_length: int, device: torch.device, scale: float) -> Tensor:
    """Places in tokens of the training size: (i + 0.5) / scale - 0.5, which at scale 1 is 0, 1, 2, ..."""
    places = torch.arange(length, device=device, dtype=torch.float32)
    return (places + 0.5) / scale - 0.5


COORDINATES = {"scaled": spread_coordinates, "object": object_coordinates, "raw": raw_coordinates}


def find_coordinates(rule: str, shape: ModelShape, grid: Grid | None = None, jitter: AnyJitter = None) -> Coordinates:
    """The rule for coordinates, on `grid` or that of the model; ValueError unless it is one of COORDINATES."""
    if rule not in COORDINATES:
        raise ValueError(f"coordinates must be one of {', '.join(COORDINATES)}; got '{rule}'")
    check_grid(grid)
    return Coordinates(rule, grid or shape.scale_grid or shape.grid, find_jitter(jitter))


def check_grid(grid: Grid | None) -> None:
    """Raise ValueError unless `grid` is None or rows and columns."""
    sides = grid if isinstance(grid, (tuple, list)) else (grid,)
    if grid is not None and not (len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)):
        raise ValueError(f"grid must be rows and columns, 1 or more each, as in grid=(14, 14); got {grid}")


class Jitter(NamedTuple):
    """Random changes of coordinates in training, so that a model meets more of them.

    Drawn once per forward for all images of a batch (in a list, of each size), where CAPE and FPE draw for each image.

    Per axis: x' = centre + rescale * stretch * (x - centre + shift + noise).
    """

    noise: float = 0.0
    """Of each token by itself: uniform in -noise to noise, in tokens of the training grid."""
    shift: float = 0.0
    """Of all tokens along an axis: uniform in -shift to shift, in sides of the training grid."""
    stretch: float = 1.0
    """Of each axis about its centre: log-uniform in 1 / stretch to stretch."""
    rescale: float = 1.0
    """Of both axes alike: log-uniform in 1 / rescale to rescale."""

    def apply(self, axes: Iterable[Tensor], training_grid: Grid) -> Iterator[Tensor]:
        """The coordinates of every token along each axis, (N,) each, changed at random."""
        rescale: Tensor | None = None
        for places, side in zip(axes, training_grid):
            centre = (side - 1) / 2
            draws = torch.rand(2, device=places.device) * 2 - 1
            rescale = self.rescale ** (torch.rand((), device=places.device) * 2 - 1) if rescale is None else rescale
            noise = self.noise * (torch.rand(places.shape, device=places.device) * 2 - 1)
            moved = places - centre + self.shift * side * draws[0] + noise
            yield centre + rescale * self.stretch ** draws[1] * moved


JITTERS = {
    "fpe": Jitter(noise=0.5),  # fuzzy positions of ViTAR, arXiv 2403.18361
    "cape": Jitter(noise=0.5, shift=0.25, rescale=1.4),  # Likhomanenko et al., arXiv 2106.03143
    "dino": Jitter(rescale=2.0),  # DINOv3, arXiv 2508.10104
}
AnyJitter = str | float | dict[str, float] | None  # a name of JITTERS, the noise in tokens, or the fields of Jitter


def find_jitter(jitter: AnyJitter) -> Jitter | None:
    """The random changes behind an option `jitter`; ValueError for names, fields and values that do not exist."""
    if jitter is None:
        return None
    if isinstance(jitter, str) and jitter in JITTERS:
        return JITTERS[jitter]
    fields: dict[str, Any] = jitter if isinstance(jitter, dict) else {"noise": jitter}
    numbers = all(type(value) in (int, float) and math.isfinite(value) for value in fields.values())
    if not (numbers and set(fields) <= set(Jitter._fields)):
        raise ValueError(
            f"jitter must be one of {', '.join(JITTERS)}, the noise in tokens such as 0.5, or fields such as "
            f"{Jitter(0.5)._asdict()}; got {jitter!r}"
        )
    found = Jitter(**fields)
    if min(found.noise, found.shift) < 0 or min(found.stretch, found.rescale) < 1:
        raise ValueError(f"jitter needs noise and shift of 0 or more, stretch and rescale of 1 or more; got {jitter!r}")
    return found


class Coordinates(NamedTuple):
    """Where the tokens of any grid stand on the grid of training, by one of the rules in COORDINATES."""

    rule: str
    training_grid: Grid
    jitter: Jitter | None = None  # of training

    def axes(self, grid: Grid, device: torch.device, scale: Scale | None) -> tuple[Tensor, Tensor]:
        """Places of the rows, (h,), and of the columns, (w,), float32."""
        place = COORDINATES["scaled" if self.rule == "object" and scale is None else self.rule]
        (h, w), (before_h, before_w), scale = grid, self.training_grid, (1.0, 1.0) if scale is None else scale
        return place(h, before_h, device, scale[0]), place(w, before_w, device, scale[1])

    def places(self, grid: Grid, device: torch.device, scale: Scale | None, training: bool = False) -> Pair:
        """Row and column of every token, (N,) float32 each; jittered in training."""
        rows, columns = self.axes(grid, device, scale)
        h, w = grid
        rows, columns = rows[:, None].expand(h, w).reshape(-1), columns[None, :].expand(h, w).reshape(-1)
        if training and self.jitter is not None:
            rows, columns = self.jitter.apply((rows, columns), self.training_grid)
        return rows, columns


def frequencies(base: float | Tensor, count: int, device: torch.device) -> Tensor:
    """base^(-i / count) for i = 0, 1, ..., (count,) float32."""
    return base ** -(torch.arange(count, device=device, dtype=torch.float32) / count)


def by_size(points: Sequence[tuple[float, float]], grid: Grid, training_grid: Grid, device: torch.device) -> Tensor:
    """A number that depends on the size, linear between points (ratio of sides, number), as a tensor of no axis.

    The ratio is that of the sides of squares with as many tokens; beyond the ends the number stays as there.
    """
    tokens = torch.ones((), device=device) * grid[0] * grid[1]  # a tensor: in a graph sizes vary
    ratio = (tokens / math.prod(training_grid)).sqrt()
    number = torch.full((), float(points[0][1]), device=device)
    for (start, low), (end, high) in pairwise(points):
        number = number + (high - low) * ((ratio - start) / (end - start)).clamp(0, 1)
    return number
