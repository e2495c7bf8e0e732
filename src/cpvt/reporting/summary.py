"""Rows -> one cell per encoding and size: mean and spread over seeds, share kept, difference to `learned`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple

from cpvt.config import Size
from cpvt.results import Row

BASELINE = "learned"
ORDER = ("none", BASELINE, "sincos", "relative", "rope", "peg", "peg5")  # others follow as they come


@dataclass(frozen=True)
class Cell:
    """One encoding and pool at one size under one protocol, over all seeds measured. Accuracies are in percent."""

    protocol: str
    size: Size
    encoding: str
    pool: str
    seeds: tuple[int, ...]
    mean: float
    deviation: float | None  # standard deviation over seeds; None for a single seed
    kept: float | None  # share of the accuracy at the training size, percent; None where that was not measured
    difference: float | None  # to the baseline, mean over the seeds both have, in points
    interval: tuple[float, float] | None  # of that difference, 95 %, by Student's t over seeds; None below two
    fill: float
    parameters: int
    at: tuple[int, ...]  # depths at which the encoding touches tokens

    @property
    def label(self) -> str:
        return head_label(self.encoding, self.pool)


def head_label(encoding: str, pool: str) -> str:
    """How tables and figures call an encoding under a head."""
    return encoding if pool == "cls" else f"{encoding} · {pool}"


Groups = dict[tuple[str, Size, str, str], dict[int, Row]]  # (protocol, size, encoding, pool) -> seed -> row


def summarise(rows: Sequence[Row]) -> list[Cell]:
    """One cell per (protocol, size, encoding, pool): known encodings in the order of ORDER, gap after cls."""
    groups: Groups = {}
    for row in rows:
        groups.setdefault((row.protocol, row.size, _name(row, rows), row.pool), {})[row.seed] = row
    names = list(dict.fromkeys((*ORDER, *(_name(row, rows) for row in rows))))
    keys = sorted(groups, key=lambda key: (key[0], names.index(key[2]), key[3], pixels(key[1])))
    return [_cell(key, groups[key], groups) for key in keys]


def _name(row: Row, rows: Sequence[Row]) -> str:
    """The encoding, and what else differs from the first of the rows: model, data set, way of reading."""
    first = rows[0]
    words = {
        row.model: row.model != first.model,
        row.data: row.data != first.data,
        f"crop ratio {row.crop_ratio:g}": row.crop_ratio != first.crop_ratio,
        row.interpolation: row.interpolation != first.interpolation,
        f"longest side {row.longest_side}": row.longest_side != first.longest_side,
    }
    others = [word for word, differs in words.items() if differs]
    return row.encoding + (f" ({', '.join(others)})" if others else "")


def _cell(key: tuple[str, Size, str, str], by_seed: dict[int, Row], groups: Groups) -> Cell:
    protocol, size, encoding, pool = key
    any_row = next(iter(by_seed.values()))
    accuracies = [100 * row.accuracy for row in by_seed.values()]
    at_training = groups.get((protocol, any_row.train_size, encoding, pool), {})
    kept = [100 * row.accuracy / at_training[seed].accuracy for seed, row in by_seed.items()
            if seed in at_training and at_training[seed].correct]  # fmt: skip
    baseline = groups.get((protocol, size, BASELINE, pool)) or groups.get((protocol, size, BASELINE, "cls"), {})
    paired = [100 * (row.accuracy - baseline[seed].accuracy) for seed, row in by_seed.items() if seed in baseline]
    is_baseline = encoding == BASELINE and pool == next((r.pool for r in baseline.values()), None)
    return Cell(
        protocol, size, encoding, pool, tuple(sorted(by_seed)), mean(accuracies),
        stdev(accuracies) if len(accuracies) > 1 else None,
        mean(kept) if kept else None,
        mean(paired) if paired and not is_baseline else None,
        confidence_interval(paired) if not is_baseline else None,
        mean(row.fill for row in by_seed.values()), any_row.parameters, any_row.at,
    )  # fmt: skip


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def as_csv(cells: Sequence[Cell]) -> str:
    """The cells as comma-separated values, a line each."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["protocol", "size", "encoding", "pool", "seeds", "accuracy_mean", "accuracy_sd", "kept_percent",
         f"difference_to_{BASELINE}", "difference_low", "difference_high", "fill"]
    )  # fmt: skip
    for cell in cells:
        low, high = cell.interval or (None, None)
        numbers = [cell.mean, cell.deviation, cell.kept, cell.difference, low, high, cell.fill]
        texts = ["" if number is None else f"{number:.2f}" for number in numbers]
        writer.writerow([cell.protocol, size_label(cell.size), cell.encoding, cell.pool, len(cell.seeds), *texts])
    return file.getvalue()


def size_label(size: Size) -> str:
    """48, or 48x64 for height x width."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def pixels(size: Size) -> float:
    """A side that stands for the size on an axis: for height x width, that of the square of equal area."""
    return float(size) if isinstance(size, int) else math.sqrt(size[0] * size[1])


class Table(NamedTuple):
    """Cells of one protocol laid out: a line per encoding and pool, a column per size."""

    sizes: list[Size]  # from small to large
    best: dict[Size, float]  # the highest mean of each size
    lines: dict[str, list[Cell | None]]  # label -> a cell per size; None where nothing was measured


def tabulate(cells: Sequence[Cell], protocol: str) -> Table:
    """Lay out the cells of one protocol, in the order they come in."""
    mine = [cell for cell in cells if cell.protocol == protocol]
    sizes = sorted({cell.size for cell in mine}, key=pixels)
    found = {(cell.label, cell.size): cell for cell in mine}
    labels = dict.fromkeys(cell.label for cell in mine)
    best = {size: max(cell.mean for cell in mine if cell.size == size) for size in sizes}
    return Table(sizes, best, {label: [found.get((label, size)) for size in sizes] for label in labels})


def as_markdown(cells: Sequence[Cell], protocol: str) -> str:
    """Accuracy of one protocol as a Markdown table, mean and standard deviation over seeds, the best in bold."""
    sizes, best, boxes = tabulate(cells, protocol)
    lines = [f"| {protocol} | {' | '.join(map(size_label, sizes))} |", "|---|" + "---:|" * len(sizes)]
    for label, line in boxes.items():
        texts = ["–" if cell is None else _markdown_box(cell, best[cell.size]) for cell in line]
        lines.append(f"| {label} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _markdown_box(cell: Cell, best: float) -> str:
    mean_text = f"**{cell.mean:.1f}**" if cell.mean == best else f"{cell.mean:.1f}"
    return mean_text if cell.deviation is None else f"{mean_text} ± {cell.deviation:.1f}"
