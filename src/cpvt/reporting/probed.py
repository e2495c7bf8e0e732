"""Findings in the order in which pages and tables want them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import NamedTuple

from cpvt.encodings import TABLE
from cpvt.results.probe_results import BASELINES, ProbeResult

TWIN_WORDS = {"model": "", "untrained": "untrained", "none": "encoding off"}


class Line(NamedTuple):
    """A line of a table or a figure: one baseline of one model."""

    model: str
    baseline: str


class Headline(NamedTuple):
    """A number that stands for a probe."""

    title: str
    probe: str
    measure: str
    case: str = ""
    images: str = "noise"
    share: bool = False


HEADLINES = (
    Headline("order: logits move by", "order", "logit change"),
    Headline("shift by a patch, circular: tokens off by", "translation", "token error", "circular, 1 patch"),
    Headline("shift by a pixel, canvas: same prediction", "translation", "same prediction", "canvas, 1 pixel", "natural", True),
    Headline("row and column: R²", "position", "r2"),
    Headline("left to right (Islam et al.): SPC", "islam", "spearman", "H, fitted on noise"),
    Headline("attention: distance / uniform", "attention", "relative distance", "", "natural"),
)  # fmt: skip


@dataclass(frozen=True)
class Probed:
    """All probe_results of a folder."""

    probe_results: Sequence[ProbeResult]

    @cached_property
    def models(self) -> list[str]:
        """Names of models, those named after an encoding of the table in its order, then others as they come."""
        names = dict.fromkeys(probe_result.model for probe_result in self.probe_results)
        return sorted(names, key=lambda name: (*TABLE, leading_word(name)).index(leading_word(name)))

    @cached_property
    def labels(self) -> dict[str, str]:
        """Model -> how pages call it: the last part of its name, without the ending all have in common, if that says enough."""
        short = [PurePath(model).name for model in self.models]
        while len(short) > 1 and len({name.rpartition("-")[1:] for name in short}) == 1 and "-" in short[0]:
            short = [name.rpartition("-")[0] for name in short]
        return {model: name if name and short.count(name) == 1 else model for model, name in zip(self.models, short)}

    @cached_property
    def lines(self) -> list[Line]:
        """Every baseline of every model that has numbers."""
        there = {
            (probe_result.model, probe_result.baseline)
            for probe_result in self.probe_results
            if probe_result.value is not None
        }
        return [Line(model, baseline) for model in self.models for baseline in BASELINES if (model, baseline) in there]

    def label(self, line: Line) -> str:
        """How pages call a baseline of a model."""
        words = TWIN_WORDS[line.baseline]
        return self.labels[line.model] + (f" · {words}" if words else "")

    @cached_property
    def _index(self) -> dict[tuple[Line | None, str, str], list[ProbeResult]]:
        """Findings with a value by line, probe and measure, and without the line."""
        index: dict[tuple[Line | None, str, str], list[ProbeResult]] = {}
        for probe_result in self.probe_results:
            if probe_result.value is not None:
                for line in (Line(probe_result.model, probe_result.baseline), None):
                    index.setdefault((line, probe_result.probe, probe_result.measure), []).append(probe_result)
        return index

    def select(self, line: Line | None, probe: str, measure: str, case: str | None = None,
               images: str | None = None, deepest: bool = False) -> list[ProbeResult]:  # fmt: skip
        """Findings with a value; `deepest`: only those of the model's last depth."""
        found = [
            probe_result for probe_result in self._index.get((line, probe, measure), [])
            if (case is None or probe_result.case == case) and (images is None or probe_result.images == images)
        ]  # fmt: skip
        if deepest and line is not None:
            last = max((probe_result.depth for probe_result in found if probe_result.depth is not None), default=None)
            found = [probe_result for probe_result in found if probe_result.depth in (last, None)]
        return found

    def one(self, line: Line, probe: str, measure: str, case: str = "", images: str | None = None) -> float | None:
        """The number of the last depth, or None where it was not measured."""
        found = self.select(line, probe, measure, case, images, deepest=True)
        return found[-1].value if found else None

    def refusals(self) -> list[str]:
        """What could not be measured, and why, a line each."""
        said = [
            f"{self.labels[each.model]}{' · ' + TWIN_WORDS[each.baseline] if TWIN_WORDS.get(each.baseline) else ''}: {each.probe}"
            f" ({each.measure}): {each.words}"
            for each in self.probe_results
            if each.value is None
        ]
        return list(dict.fromkeys(said))


def leading_word(model: str) -> str:
    """What a model's name begins with: of "runs/peg-cls-seed0" peg."""
    return re.split(r"[^a-z0-9]", PurePath(model).name)[0]


def headline(probed: Probed, line: Line, wanted: Headline) -> str:
    """A number that stands for a probe, in words."""
    return plain(probed.one(line, wanted.probe, wanted.measure, wanted.case, wanted.images), wanted.share)


def plain(value: float | None, share: bool = False) -> str:
    """A number with two decimals, or as percent; – where there is none."""
    if value is None:
        return "–"
    if share:
        return f"{100 * value:.0f} %"
    if abs(value) < 1e-4:
        return "0"
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")
