"""What every probe receives: one baseline of one model, its images, and a method that makes results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from cpvt.adapters import ModelAdapter, UnsupportedError, UnsupportedSizeError
from cpvt.config.scale import scale_label
from cpvt.evaluation.probes.images import ProbeDataset
from cpvt.grids import Grid
from cpvt.results.probe_results import ProbeResult, finite

Sides = tuple[int, int]  # height and width, pixels


@dataclass(frozen=True)
class ProbeContext:
    """One baseline of one model, for one probe."""

    adapter: ModelAdapter
    model: str  # its name in results, the same for every baseline
    baseline: str
    dataset: ProbeDataset
    sides: Sides  # the training size, in whole patches
    larger: Sequence[Sides]  # the test sizes of `longer`
    grids: dict[int, Grid]  # by depth, at the training size; empty without spatial tokens
    missing: str  # why `grids` is empty
    patch: int | None  # side, pixels; None: unknown
    has_labels: bool  # whether the data has the model's classes
    arrays: Path | None = None  # folder of .npy files
    probe: str = ""

    def result(
        self,
        measure: str,
        value: float | None,
        *,
        case: str = "",
        depth: int | None = None,
        images: str = "natural",
        sides: Sides | None = None,
        spread: float | None = None,
        count: int = 0,
        words: str = "",
    ) -> ProbeResult:
        """A number of this probe. NaN and infinity become a result without a value that says so."""
        height, width = sides or self.sides
        known = None if value is None else finite(value)
        spread = None if spread is None or count < 2 else finite(spread)
        if value is not None and known is None:
            words = f"the value came to {value}"
        return ProbeResult(
            self.model, self.dataset.data.name, self.probe, measure, case, self.baseline, depth, images,
            height if height == width else (height, width), self.dataset.seed, known, spread, count, words,
            scale=self.scale,
        )  # fmt: skip

    @property
    def scale(self) -> str:
        """The scale rule that the model is under; none where it takes none."""
        rule = getattr(self.adapter.model, "scale", "") if self.adapter.scale is None else self.adapter.scale
        return scale_label(rule) if self.adapter.takes_scale else ""

    def cannot(self, what: str, error: Exception, sides: Sides | None = None) -> ProbeResult:
        """A result without a value: a part of this probe cannot run, and why."""
        return self.result(what, None, sides=sides, words=str(error), images="")

    def at(self, sides: Sides) -> ModelAdapter:
        """The adapter for images of these sides."""
        return self.adapter.at_size(sides)

    def need_tokens(self) -> None:
        """Raise UnsupportedError where the model has no spatial tokens."""
        if not self.grids:
            raise UnsupportedError(self.missing)

    @cached_property
    def last(self) -> int:
        """The deepest depth with tokens."""
        self.need_tokens()
        return max(self.grids)

    def need_patch(self) -> int:
        """Side of a patch, pixels; UnsupportedError where it is not known."""
        if self.patch is None:
            raise UnsupportedError(f"the patch size of '{self.model}' is not known, so no whole patch can be moved")
        return self.patch

    @property
    def stride(self) -> int:
        """Side of the largest token of any depth, pixels: a shift by it moves every token map by whole tokens."""
        if self.patch is None:
            return max(2, min(self.sides) // 14)
        return max([self.patch, *(self.sides[0] // h for h, _ in self.grids.values())])


Parts = dict[str, Callable[[ProbeContext], Iterator[ProbeResult]]]  # of a probe: each may fail without the others


def logits_of(adapter: ModelAdapter, images: Tensor) -> Tensor:
    """Logits (B, classes); UnsupportedError where the model gives none."""
    try:
        return adapter.logits(images)
    except UnsupportedSizeError:
        raise
    except ValueError as error:
        raise UnsupportedError(str(error)) from error


def each_size(
    context: ProbeContext, what: str, measure: Callable[[Sides], Iterator[ProbeResult]]
) -> Iterator[ProbeResult]:
    """Measure at every larger size; one that the model refuses gives a result without a value."""
    for sides in context.larger:
        try:
            yield from measure(sides)
        except (UnsupportedError, UnsupportedSizeError) as error:
            yield context.cannot(what, error, sides)


@dataclass
class Change:
    """Difference of token maps from expected ones: root mean square, in units of the tokens' spread.

    0: equal; about 1.4 (the root of 2): as different as two random tokens of the expected maps.
    """

    differences: list[Tensor] = field(default_factory=list)  # mean square difference of each image
    total: Tensor | float = 0.0  # (D,)
    squares: float = 0.0
    count: int = 0

    def add(self, found: Tensor, expected: Tensor) -> None:
        """Add maps (B, h, w, D) and the expected ones."""
        found, expected = found.double(), expected.double()
        self.differences.append((found - expected).square().sum(-1).mean((1, 2)).cpu())
        self.total = self.total + expected.sum((0, 1, 2)).cpu()
        self.squares += float(expected.square().sum())
        self.count += expected[..., 0].numel()

    @property
    def numbers(self) -> tuple[float, float, int]:
        """The change, its standard deviation over images, and the number of images."""
        power, mean = self.squares / self.count, torch.as_tensor(self.total) / self.count
        spread = max(power - float(mean.square().sum()), 1e-12 * power, 1e-300)
        each = torch.cat(self.differences)
        return math.sqrt(float(each.mean()) / spread), float((each / spread).sqrt().std(correction=0)), len(each)
