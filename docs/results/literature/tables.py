"""Write the tables of docs/literature.md: python docs/results/literature/tables.py, after rows or curves have changed.

Reads the published curves (curves.json, next to this file) and our rows (../imagenette/rows.jsonl): what each model
keeps of its accuracy at the training size. tables.md, next to this file, gets all curves at all ratios.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from cpvt.config import size_label
from cpvt.reporting.labels import head_label
from cpvt.reporting.markdown import NOT_MEASURED, fill, lay_out, wrap
from cpvt.reporting.summary import BASELINE, pixels, summarise
from cpvt.results.rows import Row, read_rows

HERE = Path(__file__).parent
PAGE, CURVES, ROWS = HERE.parents[1] / "literature.md", HERE / "curves.json", HERE.parent / "imagenette" / "rows.jsonl"
COLUMNS = (0.75, 1.0, 1.3, 1.5, 1.7, 2.0, 2.3, 3.0, 3.5, 4.6)  # test size in training sizes
NEAR = 0.06  # how far a ratio may be from a column to stand in it
SCALED, PAPER = "ours, with scale", "ours, as published"
RULES = {"protocol": SCALED, "paper": PAPER}  # of the scale
CLEAR = 2.0  # points of share that are more than "level": our images alone leave a share so uncertain


class Curve(NamedTuple):
    """What one model keeps of its accuracy at the training size."""

    group: str  # what is trained and tested alike: paper and data, or how ours were given the scale
    model: str
    accuracy: float  # at the training size, percent
    shares: dict[float, float]  # test size in training sizes -> percent of that accuracy
    marks: Mapping[float, str] = MappingProxyType({})  # the same -> "~" read off a figure, "~?" where partly hidden
    baseline: str = ""  # the model with a learned table in its group
    note: str = ""
    one_size: bool = True  # trained at one size and not fine-tuned at another
    main: bool = True  # on the page, and not in tables.md alone

    @property
    def is_ours(self) -> bool:
        return self.group in RULES.values()

    @property
    def name(self) -> str:
        """In a sentence."""
        return f"{self.model} ({self.group})"

    @property
    def label(self) -> str:
        """In a table."""
        return f"{self.group}: {self.model}" + f" ({self.note})" * bool(self.note)


Measure = Callable[[Sequence[Curve], float], dict[str, float]]  # name -> value at one ratio


def shares_of(sizes: Sequence[int], accuracies: Sequence[float], trained: int) -> dict[float, float]:
    """Test size in training sizes -> percent of the accuracy at the training size; empty if that was not tested."""
    if trained not in sizes:
        return {}
    whole = accuracies[sizes.index(trained)]
    return {size / trained: 100 * accuracy / whole for size, accuracy in zip(sizes, accuracies)}


def column_of(ratio: float) -> float:
    """The column in which a ratio stands: the nearest of COLUMNS if that is near, else one of its own."""
    nearest = min(COLUMNS, key=lambda column: abs(ratio / column - 1))
    return nearest if abs(ratio / nearest - 1) <= NEAR else round(ratio, 2)


def in_columns(values: Mapping[float, Any]) -> dict[float, Any]:
    """Ratio -> value as column -> value; of two ratios in one column the nearer one counts."""
    far_first = sorted(values, key=lambda ratio: -abs(ratio / column_of(ratio) - 1))
    return {column_of(ratio): values[ratio] for ratio in far_first}


def published(groups: Sequence[dict[str, Any]]) -> list[Curve]:
    """The curves of curves.json whose training size was tested. Of several training sizes the largest counts."""
    return [made for group in groups for each in group["curves"] if (made := _curve({**group, **each})).shares]


def _curve(entry: Mapping[str, Any]) -> Curve:
    """One curve; what its entry does not say is that of its group."""
    trained, tuned = max(entry["train_sizes"]), entry.get("fine_tuned", False)
    shares = shares_of(entry["sizes"], entry["accuracy"], trained)
    marks = dict.fromkeys(entry.get("approximate", ()), "~") | dict.fromkeys(entry.get("uncertain", ()), "~?")
    return Curve(
        group=f"{entry['paper']}, {entry['data']}" + ", fine-tuned" * tuned,
        model=entry["model"],
        accuracy=entry["accuracy"][entry["sizes"].index(trained)] if shares else float("nan"),
        shares=shares,
        marks={size / trained: mark for size, mark in marks.items()},
        baseline=entry.get("baseline", ""),
        note=entry.get("note", ""),
        one_size=len(entry["train_sizes"]) == 1 and not tuned,
        main=entry.get("main", False),
    )


def of_one_size(rows: Sequence[Row]) -> list[Row]:
    """The rows that are compared: resize, trained at the one size of the first row, with the true scale or as published."""
    trained = rows[0].train_size if rows else None
    return [row for row in rows if row.protocol == "resize" and row.scale_rule in RULES
            and row.train_size == trained and len(set(row.train_sizes)) < 2]  # fmt: skip


def ours(rows: Sequence[Row]) -> list[Curve]:
    """A curve for each encoding, given the scale and as published, mean over seeds."""
    cells, curves = summarise(rows) if rows else [], dict[tuple[str, str], Curve]()
    trained = [cell for cell in cells if cell.size == rows[0].train_size]
    at_training = {(cell.encoding, cell.pool, cell.scale_rule): cell.mean for cell in trained}
    for cell in sorted(cells, key=lambda cell: cell.scale_rule != "protocol"):
        if cell.retained is not None:
            model, baseline = (f"`{head_label(name, cell.pool)}`" for name in (cell.encoding, BASELINE))
            scaled = ((cell.encoding, cell.pool, rule) for rule in (cell.scale_rule, *RULES))
            accuracy = at_training[next(each for each in scaled if each in at_training)]  # either way the scale is 1
            empty = Curve(RULES[cell.scale_rule], model, accuracy, {1.0: 100.0}, baseline=baseline)
            curve = curves.setdefault((cell.scale_rule, model), empty)
            curve.shares[pixels(cell.size) / pixels(rows[0].train_size or 0)] = cell.retained
    return list(curves.values())


def share_table(curves: Sequence[Curve], columns: Sequence[float]) -> str:
    """Retained share, percent, and the accuracy at the training size: a line for each curve."""
    heads = [f"{column:g}" if column != 1 else "1 (accuracy)" for column in columns]
    return lay_out("retained share, %", heads, {curve.label: _boxes(curve, columns) for curve in curves})


def _boxes(curve: Curve, columns: Sequence[float]) -> list[str]:
    shares, marks = in_columns(curve.shares), in_columns(dict.fromkeys(curve.shares, "") | dict(curve.marks))
    texts = {column: f"{marks[column][:1]}{share:.1f}{marks[column][1:]}" for column, share in shares.items()}
    return [texts.get(column, "–") if column != 1 else f"{curve.accuracy:.1f}" for column in columns]


def gains(curve: Curve, curves: Sequence[Curve]) -> dict[float, float]:
    """Column -> points of share above the learned table of the same source; empty without one.

    Ours as published are compared with the table with scale, which was trained the same: it spreads over the grid either way.
    """
    group = SCALED if curve.is_ours else curve.group
    table = next((each for each in curves if (each.group, each.model) == (group, curve.baseline)), curve)
    own, other = in_columns(curve.shares), in_columns(table.shares)
    return {column: own[column] - other[column] for column in own if table is not curve and column in other}


def gain_table(curves: Sequence[Curve]) -> str:
    """Points of share above the learned table of the same source: all curves that have one."""
    columns, lines = [column for column in COLUMNS if column != 1], {}
    for curve in curves:
        if found := gains(curve, curves):
            lines[curve.label] = [f"{found[column]:+.1f}" if column in found else "–" for column in columns]
    return lay_out("points of share above", [f"{column:g}" for column in columns], lines)


def best(curves: Sequence[Curve]) -> Curve | None:
    """Our model with a PEG and the scale that is most accurate over the larger sizes, among those tested at all of our sizes."""
    most = max((len(curve.shares) for curve in curves if curve.is_ours), default=0)
    whole = [curve for curve in curves if curve.group == SCALED and "peg" in curve.model and len(curve.shares) == most]
    return max(whole, default=None, key=lambda curve: curve.accuracy * sum(
        share for ratio, share in curve.shares.items() if ratio > 1))  # fmt: skip


def where(curves: Sequence[Curve]) -> str:
    """Where our best holds more, where less: in a sentence each, then a point of a list for each of our test sizes."""
    first = best(curves)
    if first is None:
        return NOT_MEASURED
    columns = [column for column in sorted(in_columns(first.shares)) if column != 1]
    text = f"In share, {first.model}, with scale, is {_standing(first, curves, columns, kept)}."
    if any(first.name in gained(curves, column) for column in columns):
        text += (
            f" In points above the learned table of its own source it is {_standing(first, curves, columns, gained)}."
        )
    return wrap(text) + "\n\n" + as_list([_at(column, first, curves) for column in columns])


def kept(curves: Sequence[Curve], column: float) -> dict[str, float]:
    """Name -> retained share at one ratio."""
    return {each.name: share for each in curves if (share := in_columns(each.shares).get(column)) is not None}


def gained(curves: Sequence[Curve], column: float) -> dict[str, float]:
    """Name -> points of share above the learned table of the same source at one ratio."""
    return {each.name: points for each in curves if (points := gains(each, curves).get(column)) is not None}


def rivals(curves: Sequence[Curve], values: Mapping[str, float]) -> list[str]:
    """The published curves that count: trained at one size, not fine-tuned, measured at this ratio; highest first."""
    names = [curve.name for curve in curves if not curve.is_ours and curve.one_size and curve.name in values]
    return sorted(names, key=lambda name: -values[name])


def _standing(first: Curve, curves: Sequence[Curve], columns: Sequence[float], measure: Measure) -> str:
    """At which ratios ours is ahead of the highest published value, level with it, or behind."""
    found: dict[str, list[str]] = {"ahead of all published": [], "level with the highest": [], "behind the highest": []}
    for column in columns:
        values = measure(curves, column)
        names = rivals(curves, values)
        if names and first.name in values:
            ahead = values[first.name] - values[names[0]]
            found[list(found)[0 if ahead >= CLEAR else 1 if ahead > -CLEAR else 2]].append(f"{column:g}")
    return ", ".join(f"{words} at {_and(sizes)} times" for words, sizes in found.items() if sizes)


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _at(column: float, first: Curve, curves: Sequence[Curve]) -> str:
    """Our share at one ratio and how many published are higher, then the same above each source's learned table."""
    shares, points = kept(curves, column), gained(curves, column)
    unscaled = f"{first.model} ({PAPER})"
    notes = [f"as published {shares[unscaled]:.1f}"] if unscaled in shares else []
    without = [each for each in curves if each.group == SCALED and "peg" not in each.model and each.name in shares]
    if without:
        highest = max(without, key=lambda curve: shares[curve.name])
        notes.append(f"without a PEG {highest.model} {shares[highest.name]:.1f}")
    text = f"**{column:g} times**: {shares[first.name]:.1f} %" + f" ({', '.join(notes)})" * bool(notes)
    text += f"; {_higher(shares[first.name], shares, rivals(curves, shares))}."
    if first.name in points:
        text += f" Above its learned table {points[first.name]:+.1f}; "
        text += f"{_higher(points[first.name], points, rivals(curves, points), '+')}."
    return text


def _higher(own: float, values: Mapping[str, float], names: Sequence[str], sign: str = "") -> str:
    """How many published values are higher than ours, and which; if none is, the highest."""
    if not names:
        return "nothing is published there"
    higher = sum(values[name] > own for name in names)
    counted = f"{higher or 'none'} of {len(names)} published {'is' if higher < 2 else 'are'} higher"
    return f"{counted}, {'first' if higher else 'next is'} {names[0]} with {values[names[0]]:{sign}.1f}"


def caption(rows: Sequence[Row]) -> str:
    """What our rows are of."""
    if not rows:
        return NOT_MEASURED
    row, counts = rows[0], sorted({len(cell.seeds) for cell in summarise(rows)})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) + " seed" + "s" * (counts[-1] > 1)
    text = (f"Ours: {row.data.capitalize()}, `{row.model}` ({row.parameters / 1e6:.1f} million parameters), trained at "
            f"{size_label(row.train_size or 0)} pixels, {row.total:,} test images, {seeds} a model.")  # fmt: skip
    return wrap(text)


def protocols(groups: Sequence[dict[str, Any]]) -> str:
    """A point of a list for each paper: its tables, their data, training sizes and protocols."""
    points = dict[str, list[str]]()
    for group in groups:
        trained = " to ".join(map(str, dict.fromkeys((min(group["train_sizes"]), max(group["train_sizes"])))))
        text = f"{group['table']} ({group['data']}, trained at {trained}): {group['protocol']}"
        points.setdefault(f"[{group['paper']}](https://arxiv.org/abs/{group['arxiv']})", []).append(text)
    return as_list([f"{paper}, {'; '.join(texts)}" for paper, texts in points.items()])


def as_list(points: Sequence[str]) -> str:
    """A Markdown list."""
    return "\n".join(wrap(f"- {point}", "  ") for point in points)


def main() -> None:
    groups, rows = json.loads(CURVES.read_text()), of_one_size(read_rows(ROWS))
    curves = [*ours(rows), *published(groups)]
    every = sorted({column for curve in curves for column in in_columns(curve.shares)})
    main_lines = share_table([curve for curve in curves if curve.main], COLUMNS)
    texts = {"caption": caption(rows), "where": where(curves), "shares": main_lines, "protocols": protocols(groups)}
    PAGE.write_text(fill(PAGE.read_text(), texts))
    (HERE / "tables.md").write_text(f"{share_table(curves, every)}\n\n{gain_table(curves)}\n")


if __name__ == "__main__":
    main()
