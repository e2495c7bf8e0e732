"""Results of probes as JSON lines, between evaluation and reporting. Standard library only."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cpvt.runtime.files import read_lines

BASELINES = ("model", "untrained", "none")
KEYS = {"baseline": "twin", "images": "pictures"}  # field -> its key in findings.jsonl


@dataclass(frozen=True)
class ProbeResult:
    """One number of one probe, or the reason in `words` why `value` is None."""

    model: str
    data: str
    probe: str  # order, translation, position, longer, islam, attention
    measure: str  # "r2", "token error", "accuracy", ...
    case: str  # variant of the measure, if it has any: "circular, 1 patch", "distance 2", "head 3", ...
    baseline: str  # model, untrained (random weights) or none (the positional encoding off)
    depth: int | None  # 0: input of block 1; d: output of block d; -1: last of an unknown encoder; None: whole model
    images: str  # natural, noise, black or white
    size: int | tuple[int, int]  # of the images, pixels
    seed: int
    value: float | None
    spread: float | None = None  # standard deviation over images
    count: int = 0  # images that were measured
    words: str = ""  # the reason, if there is no value
    scale: str = ""  # the scale rule of objects that the model was under; none for models that take none

    def as_json(self) -> dict[str, Any]:
        """The result as a line of findings.jsonl."""
        return {KEYS.get(name, name): value for name, value in asdict(self).items()}

    @property
    def key(self) -> tuple[Any, ...]:
        """What was measured: the fields up to `seed`. Of several results with one key, the last counts."""
        return tuple(getattr(self, field.name) for field in fields(self)[:10])


def finite(value: float) -> float | None:
    """A number rounded to five digits; None if it is not finite (a model may return NaN)."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def read_probe_results(path: Path) -> list[ProbeResult]:
    """Read results, the last one of each key; incomplete lines are skipped. No file means no results."""
    results: dict[tuple[Any, ...], ProbeResult] = {}
    for number, values in read_lines(path):
        result = _probe_result(values, f"{path}, line {number}")
        results.pop(result.key, None)
        results[result.key] = result
    return list(results.values())


def _probe_result(values: Any, where: str) -> ProbeResult:
    names = {KEYS.get(field.name, field.name): field.name for field in fields(ProbeResult)}
    if not isinstance(values, dict) or not set(names) <= {"scale", *values}:  # older results have no scale
        raise ValueError(f"{where}: expected an object with the keys {', '.join(names)}; got {values}")
    known = {name: values[key] for key, name in names.items() if key in values}
    size = known["size"] if isinstance(known["size"], int) else tuple(known["size"])
    return ProbeResult(**{**known, "size": size})
