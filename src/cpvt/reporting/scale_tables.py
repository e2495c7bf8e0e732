"""Tables of models that were given the object scale in several ways."""

from __future__ import annotations

from collections.abc import Sequence

from cpvt.config import Size, size_label
from cpvt.reporting.markdown import lay_out
from cpvt.reporting.summary import Cell, summarise
from cpvt.results.rows import Row

RULES = ("protocol", "paper")  # given the scale, and as published


def cells_of(rows: Sequence[Row], rule: str) -> list[Cell]:
    """The cells of the rows under one scale rule."""
    own = [row for row in rows if row.scale_rule == rule]
    return summarise(own) if own else []


def tested_both_ways(rows: Sequence[Row], protocol: str) -> list[Row]:
    """The rows of trainings that were tested as published and with scale."""
    own = [row for row in rows if row.protocol == protocol]
    trainings = [{(row.encoding, row.pool, row.seed) for row in own if row.scale_rule == rule} for rule in RULES]
    return [row for row in own if all((row.encoding, row.pool, row.seed) in each for each in trainings)]


def before_after(rows: Sequence[Row], protocol: str, sizes: Sequence[Size]) -> str:
    """Accuracy as published -> with scale, a line per encoding that has both: mean and standard deviation over seeds.

    Of both, over the seeds that were tested in both ways, so that a difference is none of trainings; nothing where no
    model was.
    """
    both = tested_both_ways(rows, protocol)
    scaled, unscaled = ({(cell.label, cell.size): cell for cell in cells_of(both, rule)} for rule in RULES)
    lines = {}
    for label in dict.fromkeys(label for label, _ in scaled):
        pairs = [(unscaled.get((label, size)), scaled.get((label, size))) for size in sizes]
        lines[f"`{label}`"] = [f"{number(old)} → {number(new)}" for old, new in pairs]
    return lay_out(protocol, [size_label(size) for size in sizes], lines) if lines else ""


def number(cell: Cell | None) -> str:
    """The mean, and the standard deviation over several seeds."""
    if cell is None:
        return "–"
    return f"{cell.mean:.1f} ± {cell.deviation:.1f}" if cell.deviation is not None else f"{cell.mean:.1f}"
