"""Tables of models that were told the scale of objects in several ways."""

from __future__ import annotations

from collections.abc import Sequence

from cpvt.config import Size, size_label
from cpvt.reporting.markdown import lay_out
from cpvt.reporting.summary import Cell, summarise
from cpvt.results.rows import Row


def cells_of(rows: Sequence[Row], rule: str) -> list[Cell]:
    """The cells of the rows told in one way."""
    own = [row for row in rows if row.scale_rule == rule]
    return summarise(own) if own else []


def before_after(rows: Sequence[Row], protocol: str, sizes: Sequence[Size]) -> str:
    """Accuracy as published -> told, a line per encoding that has both: mean and standard deviation over seeds."""
    told, untold = ({(cell.label, cell.size): cell for cell in cells_of(rows, rule) if cell.protocol == protocol}
                    for rule in ("protocol", "paper"))  # fmt: skip
    both = {label for label, _ in told} & {label for label, _ in untold}
    lines = {}
    for label in dict.fromkeys(label for label, _ in told if label in both):
        pairs = [(untold.get((label, size)), told.get((label, size))) for size in sizes]
        lines[f"`{label}`"] = [f"{number(old)} → {number(new)}" for old, new in pairs]
    return lay_out(protocol, [size_label(size) for size in sizes], lines)


def number(cell: Cell | None) -> str:
    """The mean, and the standard deviation over several seeds."""
    if cell is None:
        return "–"
    return f"{cell.mean:.1f} ± {cell.deviation:.1f}" if cell.deviation is not None else f"{cell.mean:.1f}"
