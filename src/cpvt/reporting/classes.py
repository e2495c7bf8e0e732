"""Accuracy of each class, and which classes are taken for which: from the counts in the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from cpvt.config import Size
from cpvt.reporting.labels import label_of
from cpvt.reporting.summary import pixels
from cpvt.results.rows import Row

MATRIX_CLASSES = 20  # most classes that are shown as a matrix
LINES = 50  # most classes, and most kinds of errors, that are listed


class Confusion(NamedTuple):
    """The errors of one model, over all seeds."""

    label: str
    matrix: list[list[int]]  # images by class and predicted class; empty for many classes
    errors: list[tuple[str, str, int]]  # otherwise the most frequent: class, predicted class, images


class Classes(NamedTuple):
    """Accuracy by class under one protocol at one size, over all seeds."""

    protocol: str
    size: Size
    names: list[str]
    lines: list[tuple[str, int, list[float | None]]]  # class, images of one seed, and percent for each label
    hidden: int  # classes that are not listed; those listed have the lowest accuracy
    labels: list[str]
    confusions: list[Confusion]  # empty for more classes than rows keep them for


def by_class(rows: Sequence[Row]) -> list[Classes]:
    """What the counts of classes say, for each protocol: at the training size, else the nearest to it.

    Rows of the first data set alone are used; without counts there is nothing.
    """
    counted = [row for row in rows if row.class_totals and row.total and row.data == rows[0].data]
    return [_classes(protocol, [row for row in counted if row.protocol == protocol], rows)
            for protocol in dict.fromkeys(row.protocol for row in counted)]  # fmt: skip


def _classes(protocol: str, counted: Sequence[Row], rows: Sequence[Row]) -> Classes:
    wanted = next((pixels(row.train_size) for row in counted if row.train_size), 0.0)
    size = min((row.size for row in counted), key=lambda each: abs(pixels(each) - wanted))
    by_seed: dict[str, dict[int, Row]] = {}  # of two tests of a seed the last, as in the tables of accuracy
    for row in counted:
        if row.size == size:
            by_seed.setdefault(label_of(row, rows), {})[row.seed] = row
    models = {label: list(own.values()) for label, own in by_seed.items()}
    first = next(iter(models.values()))[0]
    names = list(first.class_names) or [str(number) for number in range(len(first.class_totals))]
    models = {label: own for label, own in models.items() if all(len(each.class_totals) == len(names) for each in own)}
    lines = []
    for number, name in enumerate(names):
        counts = [[(row.class_correct[number], row.class_totals[number]) for row in own] for own in models.values()]
        accuracies = [_percent(*map(sum, zip(*each))) for each in counts]
        lines.append((name, first.class_totals[number], accuracies))
    hidden = max(0, len(lines) - LINES)
    if hidden:
        lines.sort(key=lambda line: sum(101.0 if each is None else each for each in line[2]))
    confusions = [_confusion(label, own, names) for label, own in models.items()
                  if all(row.confusion is not None for row in own)]  # fmt: skip
    return Classes(protocol, size, names, lines[:LINES], hidden, list(models), confusions)


def _percent(correct: int, total: int) -> float | None:
    return 100 * correct / total if total else None


def _confusion(label: str, rows: Sequence[Row], names: Sequence[str]) -> Confusion:
    cells: Counter[tuple[int, int]] = Counter()
    for row in rows:
        cells.update({(true, answer): images for true, answer, images in row.confusion or ()})
        cells.update({(number, number): correct for number, correct in enumerate(row.class_correct)})
    if len(names) <= MATRIX_CLASSES:
        return Confusion(label, [[cells[i, j] for j in range(len(names))] for i in range(len(names))], [])
    errors = [(names[i], names[j], images) for (i, j), images in cells.most_common() if i != j and images]
    return Confusion(label, [], errors[:LINES])
