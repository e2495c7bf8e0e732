"""Probe results indexed by line, probe and measure, for pages and tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import NamedTuple

from cpvt.encodings import TABLE
from cpvt.results.probe_results import BASELINES, ProbeResult

BASELINE_LABELS = {"model": "", "untrained": "untrained", "none": "encoding off"}


class Line(NamedTuple):
    """A line of a table or figure: a model or one of its baselines."""

    model: str
    baseline: str


class Headline(NamedTuple):
    """The one number that summarises a probe."""

    title: str
    probe: str
    measure: str
    case: str = ""
    images: str = "noise"
    percent: bool = False


HEADLINES = (
    Headline("order: change of logits", "order", "logit change"),
    Headline("shift by a patch, circular: token error", "translation", "token error", "circular, 1 patch"),
    Headline("shift by a pixel, canvas: same prediction", "translation", "same prediction", "canvas, 1 pixel",
             "natural", True),
    Headline("row and column: R²", "position", "r2"),
    Headline("left to right (Islam et al.): SPC", "islam", "spearman", "H, fitted on noise"),
    Headline("attention: distance / uniform", "attention", "relative distance", "", "natural"),
)  # fmt: skip


@dataclass(frozen=True)
class ProbeIndex:
    """All results of one or several folders."""

    results: Sequence[ProbeResult]

    @cached_property
    def models(self) -> list[str]:
        """Names of models: first those named after an encoding, in the order of the TABLE, then the others."""
        names = dict.fromkeys(each.model for each in self.results)
        return sorted(names, key=lambda name: (*TABLE, leading_word(name)).index(leading_word(name)))

    @cached_property
    def labels(self) -> dict[str, str]:
        """Model -> label: the last part of its name without the suffix that all share, if that is unique."""
        short = [PurePath(model).name for model in self.models]
        while len(short) > 1 and len({name.rpartition("-")[1:] for name in short}) == 1 and "-" in short[0]:
            short = [name.rpartition("-")[0] for name in short]
        return {model: name if name and short.count(name) == 1 else model for model, name in zip(self.models, short)}

    @cached_property
    def lines(self) -> list[Line]:
        """Every model and baseline with numbers."""
        measured = {(each.model, each.baseline) for each in self.results if each.value is not None}
        return [line for model in self.models for each in BASELINES if (line := Line(model, each)) in measured]

    def label(self, line: Line) -> str:
        """The label of a model or baseline, such as "peg · untrained"."""
        return " · ".join(filter(None, (self.labels[line.model], BASELINE_LABELS.get(line.baseline))))

    @cached_property
    def _index(self) -> dict[tuple[Line | None, str, str], list[ProbeResult]]:
        """Results with a value by line, probe and measure; under line None those of all lines."""
        index: dict[tuple[Line | None, str, str], list[ProbeResult]] = {}
        for each in self.results:
            if each.value is not None:
                for line in (Line(each.model, each.baseline), None):
                    index.setdefault((line, each.probe, each.measure), []).append(each)
        return index

    def select(self, line: Line | None, probe: str, measure: str, case: str | None = None,
               images: str | None = None, deepest: bool = False) -> list[ProbeResult]:  # fmt: skip
        """Results with a value; with `deepest`, only those of the last depth."""
        found = [each for each in self._index.get((line, probe, measure), [])
                 if case in (None, each.case) and images in (None, each.images)]  # fmt: skip
        if deepest and line is not None:
            last = max((each.depth for each in found if each.depth is not None), default=None)
            found = [each for each in found if each.depth in (last, None)]
        return found

    def one(self, line: Line, probe: str, measure: str, case: str = "", images: str | None = None) -> float | None:
        """The number of the last depth; None if it was not measured."""
        found = self.select(line, probe, measure, case, images, deepest=True)
        return found[-1].value if found else None

    def refusals(self) -> list[str]:
        """What could not be measured, and why, a line each."""
        failed = [each for each in self.results if each.value is None]
        lines = [f"{self.label(Line(each.model, each.baseline))}: {each.probe} ({each.measure}): {each.words}"
                 for each in failed]  # fmt: skip
        return list(dict.fromkeys(lines))


def leading_word(model: str) -> str:
    """The word that a model's name begins with: "peg" in "runs/peg-cls-seed0"."""
    return re.split(r"[^a-z0-9]", PurePath(model).name)[0]


def headline(probed: ProbeIndex, line: Line, wanted: Headline) -> str:
    """The headline of a model or baseline, as text."""
    return plain(probed.one(line, wanted.probe, wanted.measure, wanted.case, wanted.images), wanted.percent)


def plain(value: float | None, percent: bool = False) -> str:
    """A number with two decimals or in percent; – for None."""
    if value is None:
        return "–"
    if percent:
        return f"{100 * value:.0f} %"
    if abs(value) < 1e-4:
        return "0"
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
