"""Findings in the order in which pages and tables want them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import NamedTuple

from cpvt.encodings import TABLE
from cpvt.results.probe_results import TWINS, Finding

TWIN_WORDS = {"model": "", "untrained": "untrained", "none": "encoding off"}


class Line(NamedTuple):
    """A line of a table or a figure: one twin of one model."""

    model: str
    twin: str


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
    """All findings of a folder."""

    findings: Sequence[Finding]

    @cached_property
    def models(self) -> list[str]:
        """Names of models, those named after an encoding of the table in its order, then others as they come."""
        names = dict.fromkeys(finding.model for finding in self.findings)
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
        """Every twin of every model that has numbers."""
        there = {(finding.model, finding.twin) for finding in self.findings if finding.value is not None}
        return [Line(model, twin) for model in self.models for twin in TWINS if (model, twin) in there]

    def label(self, line: Line) -> str:
        """How pages call a twin of a model."""
        words = TWIN_WORDS[line.twin]
        return self.labels[line.model] + (f" · {words}" if words else "")

    @cached_property
    def _index(self) -> dict[tuple[Line | None, str, str], list[Finding]]:
        """Findings with a value by line, probe and measure, and without the line."""
        index: dict[tuple[Line | None, str, str], list[Finding]] = {}
        for finding in self.findings:
            if finding.value is not None:
                for line in (Line(finding.model, finding.twin), None):
                    index.setdefault((line, finding.probe, finding.measure), []).append(finding)
        return index

    def select(self, line: Line | None, probe: str, measure: str, case: str | None = None,
               images: str | None = None, deepest: bool = False) -> list[Finding]:  # fmt: skip
        """Findings with a value; `deepest`: only those of the model's last depth."""
        found = [
            finding for finding in self._index.get((line, probe, measure), [])
            if (case is None or finding.case == case) and (images is None or finding.images == images)
        ]  # fmt: skip
        if deepest and line is not None:
            last = max((finding.depth for finding in found if finding.depth is not None), default=None)
            found = [finding for finding in found if finding.depth in (last, None)]
        return found

    def one(self, line: Line, probe: str, measure: str, case: str = "", images: str | None = None) -> float | None:
        """The number of the last depth, or None where it was not measured."""
        found = self.select(line, probe, measure, case, images, deepest=True)
        return found[-1].value if found else None

    def refusals(self) -> list[str]:
        """What could not be measured, and why, a line each."""
        said = [
            f"{self.labels[each.model]}{' · ' + TWIN_WORDS[each.twin] if TWIN_WORDS.get(each.twin) else ''}: {each.probe}"
            f" ({each.measure}): {each.words}"
            for each in self.findings
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
