"""What a probe found, as JSON lines: the seam between probing and its page. Standard library only."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cpvt.runtime.files import read_lines

BASELINES = ("model", "untrained", "none")
KEYS = {"baseline": "twin", "images": "pictures"}  # fields that files call by another name


@dataclass(frozen=True)
class ProbeResult:
    """One number of one probe, or, where `value` is None, the words that say why there is none."""

    model: str
    data: str
    probe: str  # order, translation, position, longer, islam, attention
    measure: str  # what the number is: "r2", "token error", "accuracy", ...
    case: str  # where it was taken, if the measure has several: "circular, 1 patch", "distance 2", "head 3", ...
    baseline: str  # model, untrained (fresh random weights) or none (the same weights, the positional encoding off)
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

    def as_json(self) -> dict[str, Any]:
        """The result as a line of findings.jsonl holds it."""
        return {KEYS.get(name, name): value for name, value in asdict(self).items()}

    @property
    def key(self) -> tuple[Any, ...]:
        """What was measured; of several results with one key the last counts."""
        return (self.model, self.data, self.probe, self.measure, self.case, self.baseline, self.depth, self.images, self.size,
                self.seed)  # fmt: skip


def finite(value: float) -> float | None:
    """Five digits of a number, or None where it is none (a model may give NaN)."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def read_probe_results(path: Path) -> list[ProbeResult]:
    """Read results back, the last one of each key; half-written lines are passed over. No file means no results."""
    found: dict[tuple[Any, ...], ProbeResult] = {}
    for number, values in read_lines(path):
        probe_result = _probe_result(values, f"{path}, line {number}")
        found.pop(probe_result.key, None)
        found[probe_result.key] = probe_result
    return list(found.values())


def _probe_result(values: Any, where: str) -> ProbeResult:
    names = {KEYS.get(field.name, field.name): field.name for field in fields(ProbeResult)}
    if not isinstance(values, dict) or not set(names) <= set(values):
        raise ValueError(f"{where}: expected an object with the keys {', '.join(names)}; got {values}")
    known = {name: values[key] for key, name in names.items()}
    size = known["size"] if isinstance(known["size"], int) else tuple(known["size"])
    return ProbeResult(**{**known, "size": size})
