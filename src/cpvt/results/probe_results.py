"""What a probe found, as JSON lines: the seam between probing and its page. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cpvt.runtime.files import read_lines

TWINS = ("model", "untrained", "none")


@dataclass(frozen=True)
class Finding:
    """One number of one probe, or, where `value` is None, the words that say why there is none."""

    model: str
    data: str
    probe: str  # order, translation, position, longer, islam, attention
    measure: str  # what the number is: "r2", "token error", "accuracy", ...
    case: str  # where it was taken, if the measure has several: "circular, 1 patch", "distance 2", "head 3", ...
    twin: str  # model, untrained (fresh random weights) or none (the same weights, the positional encoding off)
    depth: (
        int | None
    )  # 0 = what block 1 receives, d = what block d hands on, -1 = the last of an encoder not known; None: the whole model
    images: str  # natural, noise, black or white
    size: int | tuple[int, int]  # of the images, pixels
    seed: int
    value: float | None
    spread: float | None = None  # standard deviation over images
    count: int = 0  # images that were measured
    words: str = ""  # why there is no value

    @property
    def key(self) -> tuple[Any, ...]:
        """What was measured; of several findings with one key the last counts."""
        return (self.model, self.data, self.probe, self.measure, self.case, self.twin, self.depth, self.images, self.size,
                self.seed)  # fmt: skip


def finite(value: float) -> float | None:
    """Five digits of a number, or None where it is none (a model may give NaN)."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def read_findings(path: Path) -> list[Finding]:
    """Read findings back, the last one of each key; half-written lines are passed over. No file means no findings."""
    found: dict[tuple[Any, ...], Finding] = {}
    for number, values in read_lines(path):
        finding = _finding(values, f"{path}, line {number}")
        found.pop(finding.key, None)
        found[finding.key] = finding
    return list(found.values())


def _finding(values: Any, where: str) -> Finding:
    names = [field.name for field in fields(Finding)]
    if not isinstance(values, dict) or not set(names) <= set(values):
        raise ValueError(f"{where}: expected an object with the keys {', '.join(names)}; got {values}")
    known = {name: values[name] for name in names}
    size = known["size"] if isinstance(known["size"], int) else tuple(known["size"])
    return Finding(**{**known, "size": size})
