"""Rows -> a cell per encoding and size: mean and deviation over seeds, retained accuracy, difference to `learned`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean, stdev
from typing import NamedTuple

from cpvt.config import Size, size_label
from cpvt.config.scale import scale_label
from cpvt.data.protocols import TABLE as PROTOCOLS
from cpvt.encodings import TABLE
from cpvt.reporting.labels import head_label, label_of, name_of, variant_of
from cpvt.reporting.markdown import lay_out
from cpvt.results.rows import Row

BASELINE = "learned"
AGREEING = ("protocol", "", "paper", "pixels", "fit", "auto")  # rules that give scale 1 at the training size


@dataclass(frozen=True)
class Cell:
    """One encoding and pool at one size under one protocol, under one scale rule, over all seeds.

    Accuracies are in percent.
    """

    protocol: str
    size: Size
    encoding: str
    pool: str
    seeds: tuple[int, ...]
    mean: float
    deviation: float | None  # standard deviation over seeds; None for a single seed
    retained: float | None  # percent of the accuracy at the training size; None if that was not measured of every seed
    difference: float | None  # to the baseline, mean over common seeds, in points
    interval: tuple[float, float] | None  # 95 % interval of it, by Student's t over seeds; None for one seed
    padding_fraction: float
    parameters: int
    at: tuple[int, ...]  # depths at which the encoding changes tokens
    top5: float | None = None  # percent
    rate: float | None = None  # images per second through the model
    peak_memory: int | None = None  # bytes, maximum over seeds
    refused: str | None = None  # the model's message, if it does not support this size; the mean is NaN then
    accuracy_interval: tuple[float, float] | None = None  # 95 %: Wilson's over images for one seed, else Student's t
    balanced: float | None = None  # balanced accuracy, percent, mean over seeds
    majority: float | None = None  # accuracy of always answering the largest class, percent
    collapsed: tuple[int, ...] = ()  # seeds that are not above that at the training size: nothing is claimed of them
    scale_rule: str = ""  # the rule for the object scale, as in `Row`
    variant: str = ""  # the same in words, and the precision, where the rows of a page differ in it
    scales: tuple[tuple[float, float] | None, ...] = ()  # of each seed, where one was given
    precision: str = "fp32"  # in which the model computed
    left_out: tuple[int, ...] = ()  # seeds that were refused where others were not: all numbers are of the others

    @property
    def label(self) -> str:
        return head_label(self.encoding, self.pool, self.variant)

    @property
    def scale(self) -> str | None:
        """The scale that was given, such as "2" or "1.5x2" for rows and columns, mean over seeds; None for none."""
        scales = [scale for scale in self.scales if scale is not None]
        return (
            scale_label((mean(rows for rows, _ in scales), mean(columns for _, columns in scales))) if scales else None
        )


class Key(NamedTuple):
    """What a cell is about."""

    protocol: str
    size: Size
    encoding: str
    pool: str
    rule: str  # of the scale
    precision: str


Groups = dict[Key, dict[int, Row]]  # seed -> row


def summarise(rows: Sequence[Row]) -> list[Cell]:
    """One cell per (protocol, size, encoding, pool, rule of the scale, precision).

    Encodings come in the order of the TABLE, gap after cls, of the rules 'protocol' first, and fp32 before others.
    Retained accuracy and difference are among rows of one precision under the same scale rule. Where a seed has no such
    row at the training size, one under another rule takes its place: the scale is 1 there, and rules agree.
    """
    groups: Groups = {}
    for row in rows:
        groups.setdefault(_key(row, rows), {})[row.seed] = row
    collapsed = collapsed_seeds(rows)
    variants = {key: variant_of(next(iter(own.values())), rows) for key, own in groups.items()}
    names = list(dict.fromkeys((*TABLE, *(key.encoding for key in groups))))
    rules = sorted({key.rule for key in groups}, key=lambda rule: (rule != "protocol", rule))
    keys = sorted(groups, key=lambda key: (key.protocol, names.index(key.encoding), key.pool, rules.index(key.rule),
                                           key.precision != "fp32", key.precision, pixels(key.size)))  # fmt: skip
    return [_cell(key, groups, variants, collapsed) for key in keys]


def _key(row: Row, rows: Sequence[Row]) -> Key:
    return Key(row.protocol, row.size, name_of(row, rows), row.pool, row.scale_rule, row.precision)


Collapsed = dict[tuple[str, str], tuple[int, ...]]  # (protocol, label) -> seeds


def collapsed_seeds(rows: Sequence[Row]) -> Collapsed:
    """(protocol, label) -> the seeds that do no better than always answering the largest class.

    Judged at the training size, also under another scale rule where rules agree there, or at every size if that was not
    tested: the lower end of Wilson's 95 % interval must be above the majority class. Rows without counts of classes
    are not judged.
    """
    trainings: dict[tuple[str, str, int], dict[str, list[Row]]] = {}  # each model's rows by its scale rule
    for row in rows:
        if row.majority is not None:
            model = (row.protocol, head_label(name_of(row, rows), row.pool), row.seed)
            trainings.setdefault(model, {}).setdefault(label_of(row, rows), []).append(row)
    collapsed: Collapsed = {}
    for (protocol, _, seed), variants in sorted(trainings.items()):
        tested = {label: [row for row in own if row.size == row.train_size] for label, own in variants.items()}
        agreeing = [row for own in tested.values() for row in own if _agrees(protocol, row.scale_rule)]
        for label, own in variants.items():
            judged = tested[label] or agreeing or own
            if not any(wilson_interval(row.correct, row.total)[0] > (row.majority or 0) for row in judged):
                collapsed[protocol, label] = (*collapsed.get((protocol, label), ()), seed)
    return collapsed


def _agrees(protocol: str, rule: str) -> bool:
    """Whether a rule gives scale 1 at the training size, so that it does the same there as the others that do."""
    return rule in AGREEING and not (protocol in PROTOCOLS and PROTOCOLS[protocol].size_is_limit)


def _training_keys(key: Key, trained: Size) -> list[Key]:
    """The keys of the same model at the training size, under the same scale rule, then by rules that agree there."""
    rules = (key.rule, *(each for each in AGREEING if _agrees(key.protocol, each)))
    return [key._replace(size=trained, rule=rule) for rule in rules]


def _baseline_keys(key: Key, groups: Groups, trained: Size | None) -> list[Key]:
    """The keys of the baseline, of the same pool if there is one, under the same scale rule; the first is of its label.

    Under another rule at the training size, where rules agree; and for models of other libraries, which take none.
    """
    agreeing = key.size == trained and _agrees(key.protocol, key.rule)
    rules = (key.rule, *AGREEING) if agreeing or not (key.pool or key.rule) else (key.rule,)
    keys = [key._replace(encoding=BASELINE, pool=pool, rule=rule) for pool, rule in product((key.pool, "cls"), rules)]
    first = next((number for number, each in enumerate(keys) if each in groups), 0)
    return [each for each in keys[first:] if each.pool == keys[first].pool]


def _by_seed(keys: Sequence[Key], groups: Groups) -> dict[int, Row]:
    """Seed -> its row of the first of these keys that has one: one seed may be tested in more ways than another."""
    found: dict[int, Row] = {}
    for key in keys:
        found = {**groups.get(key, {}), **found}
    return found


def _cell(key: Key, groups: Groups, variants: dict[Key, str], collapsed: Collapsed) -> Cell:
    (protocol, size, encoding, pool, rule, precision), every, variant = key, groups[key], variants[key]
    measured = {seed: row for seed, row in every.items() if row.total}
    by_seed = measured or every
    any_row = next(iter(by_seed.values()))
    accuracies = [100 * row.accuracy for row in by_seed.values()]
    trained, own = any_row.train_size, collapsed.get((protocol, head_label(encoding, pool, variant)), ())
    at_training = _by_seed(_training_keys(key, trained), groups) if trained and not own else {}
    retained = [100 * row.accuracy / at_training[seed].accuracy for seed, row in by_seed.items()
                if seed in at_training and at_training[seed].correct and row.total]  # fmt: skip
    baseline_keys = _baseline_keys(key, groups, trained)
    baseline_key, baseline = baseline_keys[0], _by_seed(baseline_keys, groups)
    baseline_label = head_label(BASELINE, baseline_key.pool, variants.get(baseline_key, ""))
    claimed = not own and (protocol, baseline_label) not in collapsed
    paired = [100 * (row.accuracy - baseline[seed].accuracy) for seed, row in by_seed.items()
              if claimed and seed in baseline and row.total and baseline[seed].total]  # fmt: skip
    is_baseline = key == baseline_key
    return Cell(
        protocol, size, encoding, pool, tuple(sorted(by_seed)), mean(accuracies),
        stdev(accuracies) if len(accuracies) > 1 and measured else None,
        mean(retained) if retained and by_seed.keys() <= at_training.keys() else None,
        mean(paired) if paired and not is_baseline else None,
        confidence_interval(paired) if not is_baseline else None,
        mean(row.fill for row in by_seed.values()), any_row.parameters, any_row.at,
        top5=_mean(100 * row.top5 / row.total for row in by_seed.values() if row.top5 is not None and row.total),
        rate=_mean(row.rate for row in by_seed.values() if row.rate),
        peak_memory=max((row.peak_memory for row in by_seed.values() if row.peak_memory is not None), default=None),
        refused=next((row.refused for row in by_seed.values() if row.refused), None),
        accuracy_interval=_accuracy_interval(list(by_seed.values())),
        balanced=_mean(100 * row.balanced_accuracy for row in by_seed.values() if row.balanced_accuracy is not None),
        majority=_mean(100 * row.majority for row in by_seed.values() if row.majority is not None),
        collapsed=own, scale_rule=rule, variant=variant, precision=precision,
        scales=tuple(None if rule == "paper" else by_seed[seed].scale for seed in sorted(by_seed)),
        left_out=tuple(sorted(every.keys() - by_seed.keys())),
    )  # fmt: skip


def _accuracy_interval(rows: Sequence[Row]) -> tuple[float, float] | None:
    if not all(row.total for row in rows):
        return None
    if len(rows) > 1:
        return confidence_interval([100 * row.accuracy for row in rows])
    low, high = wilson_interval(rows[0].correct, rows[0].total)
    return 100 * low, 100 * high


def warnings_of(rows: Sequence[Row], protocol: str | None = None) -> list[str]:
    """A sentence for each model that rows cannot speak for, under one protocol or any.

    It does no better than always answering the largest class of the test, or was refused with some of its seeds, or two
    tests of it, such as of trainings that differ in what rows do not say, gave different answers: the last is shown.
    And one for each data set whose images changed between tests.
    """
    cells = [cell for cell in summarise(rows) if protocol in (None, cell.protocol)]
    own = [row for row in rows if protocol in (None, row.protocol)]
    clashes = clash_warnings(rows, protocol)
    return [*_majority_warnings(cells), *_refusal_warnings(cells), *clashes, *image_warnings(own)]


def image_warnings(rows: Sequence[Row]) -> list[str]:
    """A sentence for each data set of which rows counted different images; tests that refused are not judged."""
    counts: dict[str, dict[int, str]] = {}  # data -> images, and the last test of as many
    for row in rows:
        if row.total:
            counts.setdefault(row.data, {})[row.total + row.skipped] = f"{row.protocol} at {size_label(row.size)}"
    return [
        f"'{data}' had {' and '.join(f'{count:,} images ({test})' for count, test in found.items())}: it changed "
        "between tests, which cannot be compared; test again all that came before"
        for data, found in counts.items()
        if len(found) > 1
    ]


def clash_warnings(rows: Sequence[Row], protocol: str | None = None) -> list[str]:
    """A sentence for each model of which two tests gave different answers, under one protocol or any."""
    answers: dict[tuple[Key, int], set[tuple[int, str | None]]] = {}
    for row in rows:
        if protocol in (None, row.protocol):
            answers.setdefault((_key(row, rows), row.seed), set()).add((row.correct, row.hits))
    clashes: dict[tuple[str, str, int], list[str]] = {}
    for (key, seed), found in answers.items():
        if len(found) > 1:
            model = (head_label(key.encoding, key.pool), key.protocol, seed)
            clashes.setdefault(model, []).append(size_label(key.size))
    return [
        f"{label} ({protocol} at {', '.join(dict.fromkeys(sizes))}; seed {seed}): tests with different answers share "
        "this place, as of two trainings with other options, and the last is shown: report them apart"
        for (label, protocol, seed), sizes in clashes.items()
    ]


def _majority_warnings(cells: Sequence[Cell]) -> list[str]:
    found: dict[tuple[str, tuple[int, ...]], dict[str, None]] = {}
    for cell in cells:
        if cell.collapsed:
            found.setdefault((cell.label, cell.collapsed), {})[cell.protocol] = None
    return [
        f"{label} ({', '.join(protocols)}; {_plural('seed', seeds)}): its accuracy is not clearly above that of always "
        "answering the largest class (the 95 % interval of the images at the training size, or at all sizes where that "
        "was not tested), so no retained accuracy, difference or rank is given"
        for (label, seeds), protocols in found.items()
    ]


def _refusal_warnings(cells: Sequence[Cell]) -> list[str]:
    return [
        f"{cell.label} ({cell.protocol} at {size_label(cell.size)}): {_plural('seed', cell.left_out)} refused, and all "
        f"numbers are of {_plural('seed', cell.seeds)}"
        for cell in cells
        if cell.left_out
    ]


def _plural(word: str, numbers: Sequence[int]) -> str:
    return f"{word}{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def majority_shares(cells: Sequence[Cell], protocol: str) -> dict[Size, str]:
    """Size -> accuracy of always answering the largest class, percent; of several data sets, the range."""
    shares: dict[Size, list[float]] = {}
    for cell in cells:
        if cell.protocol == protocol and cell.majority is not None:
            shares.setdefault(cell.size, []).append(cell.majority)
    texts = {size: sorted({f"{share:.1f}" for share in each}, key=float) for size, each in shares.items()}
    return {size: each[0] if len(each) == 1 else f"{each[0]} to {each[-1]}" for size, each in texts.items()}


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return mean(found) if found else None


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a fraction of `total` images by Wilson's score, 0 to 1."""
    z = 1.959964  # of the normal distribution
    fraction, widening = correct / total, z * z / total
    half = z * math.sqrt(fraction * (1 - fraction) / total + widening / (4 * total))
    centre = fraction + widening / 2
    return max(0.0, (centre - half) / (1 + widening)), min(1.0, (centre + half) / (1 + widening))


def as_csv(cells: Sequence[Cell]) -> str:
    """The cells as CSV, a line each."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["protocol", "size", "encoding", "pool", "seeds", "accuracy_mean", "accuracy_sd", "retained_percent",
         f"difference_to_{BASELINE}", "difference_low", "difference_high", "padding_fraction", "top5",
         "images_per_second",
         "peak_memory_mib", "refused", "accuracy_low", "accuracy_high", "accuracy_interval", "balanced_accuracy",
         "majority_class", "scale_rule", "scale", "precision"]
    )  # fmt: skip
    for cell in cells:
        low, high = cell.interval or (None, None)
        memory = None if cell.peak_memory is None else cell.peak_memory / 2**20
        numbers = [None if cell.refused else cell.mean, cell.deviation, cell.retained, cell.difference, low, high,
                   cell.padding_fraction, cell.top5, cell.rate, memory]  # fmt: skip
        kind = "" if cell.accuracy_interval is None else "wilson" if len(cell.seeds) == 1 else "student-t"
        ends = cell.accuracy_interval or (None, None)
        names = [cell.protocol, size_label(cell.size), cell.encoding, cell.pool, len(cell.seeds)]
        later = [cell.refused or "", *map(_decimals, ends), kind, _decimals(cell.balanced), _decimals(cell.majority)]
        writer.writerow([*names, *map(_decimals, numbers), *later, cell.scale_rule, cell.scale or "", cell.precision])
    return file.getvalue()


def _decimals(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def pixels(size: Size) -> float:
    """The position of a size on an axis: its side, or that of the square of equal area."""
    return float(size) if isinstance(size, int) else math.sqrt(size[0] * size[1])


class Table(NamedTuple):
    """Cells of one protocol as a table: a line per encoding and pool, a column per size."""

    sizes: list[Size]  # from small to large
    best: dict[Size, float]  # the highest mean of each size; NaN where fewer than two models can be ranked
    lines: dict[str, list[Cell | None]]  # label -> a cell per size; None if not measured


def tabulate(cells: Sequence[Cell], protocol: str) -> Table:
    """Arrange the cells of one protocol, in their order."""
    own = [cell for cell in cells if cell.protocol == protocol]
    sizes = sorted({cell.size for cell in own}, key=pixels)
    found = {(cell.label, cell.size): cell for cell in own}
    labels = dict.fromkeys(cell.label for cell in own)
    means = {size: [each.mean for each in own if each.size == size and not (each.refused or each.collapsed)]
             for size in sizes}  # fmt: skip
    best = {size: max(each) if len(each) > 1 else math.nan for size, each in means.items()}
    return Table(sizes, best, {label: [found.get((label, size)) for size in sizes] for label in labels})


def as_markdown(cells: Sequence[Cell], protocol: str) -> str:
    """Accuracy under one protocol as a Markdown table: mean and standard deviation over seeds, the best in bold."""
    sizes, best, lines = tabulate(cells, protocol)
    texts = {label: [markdown_box(cell, best) for cell in line] for label, line in lines.items()}
    if majority := majority_shares(cells, protocol):
        texts["*majority class*"] = [majority.get(size, "–") for size in sizes]
    return lay_out(protocol, [size_label(size) for size in sizes], texts)


def markdown_box(cell: Cell | None, best: dict[Size, float]) -> str:
    """Mean and standard deviation over seeds, in bold if it is the best of its size."""
    if cell is None:
        return "–"
    if cell.refused:
        return "refused"
    mean_text = f"**{cell.mean:.1f}**" if cell.mean == best[cell.size] else f"{cell.mean:.1f}"
    return mean_text if cell.deviation is None else f"{mean_text} ± {cell.deviation:.1f}"
