"""Write the tables of docs/photographs.md and docs/results.md from rows: python docs/results/tables.py, after a run.sh.

Reads rows.jsonl of cifar10, scenes and ablations, next to this file, with whatever seeds they hold.
Writes every table between its markers. Models that were given no scale, as published, are in all tables but
those of 'with scale'.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cpvt.config import Size, size_label
from cpvt.reporting.contrasts import Contrast, Contrasts, Terms
from cpvt.reporting.labels import head_label
from cpvt.reporting.markdown import NOT_MEASURED, fill, lay_out
from cpvt.reporting.scale_tables import before_after
from cpvt.reporting.summary import BASELINE, as_markdown, markdown_box, pixels, summarise, tabulate
from cpvt.results.rows import Row, read_rows

HERE = Path(__file__).parent
PAGE, OVERVIEW = HERE.parent / "photographs.md", HERE.parent / "results.md"
PROTOCOLS = ("canvas", "resize")
SETS = {"cifar10": "CIFAR-10", "scenes": "scenes"}
ALIKE = 1.0  # points that 'alike' allows
GAP, ONE_BY_ONE = "peg5 · gap", "peg5(kernel_size=1)"
PAIRS = (  # beside those against `learned`
    ("peg", "none"), ("relative", "none"), ("peg5", "peg"), ("learned+peg", "peg"), ("rope", "peg"), (GAP, "peg5"), (GAP, "learned · gap"),
)  # fmt: skip
WORDS = {
    "peg(at=(0,))": "one, before block 1 (-1)", "peg": "one, after block 1 (0)", "peg(at=(4,))": "one, after block 4 (3)",
    "peg(at=(5,))": "one, after block 5 (last)", "peg(at=(1, 2))": "two", "peg(at=(1, 2, 3))": "three",
    "peg(at=(1, 2, 3, 4))": "four", "peg5": "five", "peg(kernel_size=5)": "kernel 5x5", "peg(kernel_size=7)": "kernel 7x7",
    "peg(padding_mode='reflect')": "padding: reflect", "peg(padding_mode='replicate')": "padding: replicate",
    "peg(padding_mode='circular')": "padding: circular", "peg(frozen=True)": "one, frozen as drawn",
    ONE_BY_ONE: "five, 1x1",
}  # fmt: skip


class Claim(NamedTuple):
    """An ordering of the paper: a sum of accuracies that should be above zero, or alike: within a point of it."""

    words: str
    paper: str  # by how many points there
    terms: tuple[tuple[str, float, int], ...]  # label, size in training sizes, sign
    alike: bool = False


def above(better: str, worse: str, paper: str, times: float = 1, words: str = "", alike: bool = False) -> Claim:
    """One encoding above another, or alike, at so many times the training size."""
    called = words or f"`{better}` {'like' if alike else 'above'} `{worse}`"
    return Claim(f"{called}{at(times)}", paper, ((better, times, 1), (worse, times, -1)), alike)


def at(times: float) -> str:
    """Where, if not at the training size."""
    return {1: "", 1.5: ", 1.3 to 1.5 times as large", 2: ", twice as large", 3: ", 2.7 to 3 times as large"}[times]


def keeps(times: float, paper: str) -> Claim:
    """PEG loses less than the learned table from the training size on."""
    terms = (("peg", times, 1), ("peg", 1, -1), (BASELINE, times, -1), (BASELINE, 1, 1))
    return Claim(f"`peg` loses less than `learned`{at(times)}", paper, terms)


CLAIMS = (
    above("peg", "none", "+4.2"),
    above("relative", "none", "+2.3"),
    above("learned", "relative", "+1.7"),
    above("sincos", "learned", "+0.1", alike=True),
    above("peg", "learned", "+0.2"),
    above("peg", "learned", "+2.0", 1.5),
    above("peg", "learned", "+3.0", 2),
    above("peg", "learned", "+4.4 (2.3 times)", 3),
    Claim("`learned` falls" + at(2), "3.4", (("learned", 1, 1), ("learned", 2, -1))),
    Claim("`peg` gains" + at(1.5), "+0.8", (("peg", 1.5, 1), ("peg", 1, -1))),
    keeps(2, "+2.8"),
    keeps(3, "+4.2 (2.3 times)"),
    above("peg5", "peg", "+1.0"),
    above("peg5", "peg", "+0.8", 2),
    above("learned+peg", "learned", "+0.7"),
    above("learned+peg", "peg", "+0.5"),
    above(GAP, "peg5", "+1.5"),
)
ABLATIONS = (
    above("peg", "none", "+4.2"),
    above("peg", "peg(at=(0,))", "+1.8", words="at 0 above at -1"),
    above("peg(at=(4,))", "peg", "0", words="at 3 like at 0", alike=True),
    above("peg", "peg(at=(5,))", "above", words="at 0 above last"),
    above("peg(at=(0,))", "peg(at=(5,))", "above", words="at -1 above last"),
    above("peg5", "peg", "+1.0", words="five above one"),
    above("peg(at=(1, 2))", "peg", "–", words="two above one"),
    above("peg(at=(1, 2, 3))", "peg(at=(1, 2))", "–", words="three above two"),
    above("peg(at=(1, 2, 3, 4))", "peg(at=(1, 2, 3))", "–", words="four above three"),
    above("peg5", "peg(at=(1, 2, 3, 4))", "–", words="five above four"),
    above("peg(frozen=True)", "none", "+3.1", words="a frozen random PEG above none"),
    above("peg", "peg(frozen=True)", "+1.1", words="a PEG that learns above a frozen one"),
    above(ONE_BY_ONE, "none", "+0.4 (twelve)", words="1x1 like none", alike=True),
    above("peg(kernel_size=5)", "peg", "–", words="5x5 above 3x3"),
    above("peg(kernel_size=7)", "peg", "+1.9 (27x27, at -1)", words="7x7 above 3x3"),
    above("peg", "peg(padding_mode='reflect')", "+1.9 (none)", words="zeros above reflect"),
    above("peg", "peg(padding_mode='replicate')", "+1.9 (none)", words="zeros above replicate"),
    above("peg", "peg(padding_mode='circular')", "+1.9 (none)", words="zeros above circular"),
)


def verdict(found: Contrast | None, alike: bool) -> str:
    """What an interval says of a claim, and the interval."""
    if found is None:
        return "–"
    if alike:
        words = "holds" if max(-found.low, found.high) <= ALIKE else "does not" if found.low > ALIKE or found.high < -ALIKE else "undecided"  # fmt: skip
    else:
        words = "holds" if found.low > 0 else "does not" if found.high < 0 else "undecided"
    return f"{words}{', one seed' if found.seeds == 1 else ''}<br>{found}"


def nearest(rows: Sequence[Row], times: float) -> Size:
    """The test size that is nearest to so many training sizes."""
    trained = pixels(rows[0].train_size or 0)
    return min({row.size for row in rows}, key=lambda size: abs(pixels(size) / trained - times))


def orderings(claims: Sequence[Claim], sets: dict[str, list[Row]]) -> str:
    """A line for each claim, a column for each set and protocol."""
    columns: dict[str, Callable[[Claim], str]] = {"the paper, points": lambda claim: claim.paper}
    for name, rows in sets.items():
        for protocol in PROTOCOLS:
            contrast = Contrasts(rows, protocol)

            def judge(claim: Claim, rows: list[Row] = rows, contrast: Contrasts = contrast) -> str:
                terms = {(label, nearest(rows, times)): sign for label, times, sign in claim.terms}
                return verdict(contrast(terms), claim.alike)

            columns[f"{name}, {protocol}"] = judge
    return lay_out(
        "ordering", list(columns), {claim.words: [say(claim) for say in columns.values()] for claim in claims}
    )


def differences(rows: Sequence[Row], protocol: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A line for each pair, a column for each size."""
    contrast = Contrasts(rows, protocol)
    sizes = sorted({row.size for row in rows if row.protocol == protocol}, key=pixels)
    lines = {}
    for better, worse in pairs:
        terms: list[Terms] = [{(better, size): 1, (worse, size): -1} for size in sizes]
        lines[f"{better} − {worse}"] = [str(contrast(each) or "–") for each in terms]
    return lay_out(f"{protocol}, points", [size_label(size) for size in sizes], lines)


def caption(rows: Sequence[Row]) -> str:
    """How many trainings stand behind the numbers."""
    counts = [len(cell.seeds) for cell in summarise(rows)]
    least, most = min(counts), max(counts)
    seeds = f"{most} seed{'s' if most > 1 else ''}" if least == most else f"{least} to {most} seeds"
    return f"{seeds} a model, {rows[0].total:,} test images, trained at {size_label(rows[0].train_size or 0)} pixels."


def tables(all_rows: dict[str, list[Row]]) -> dict[str, str]:
    """Name of a marker -> what stands there."""
    rows_of = as_published(all_rows)
    made = {"orderings": orderings(CLAIMS, {words: rows_of[name] for name, words in SETS.items() if rows_of[name]})}
    for name in SETS:
        labels = {cell.label: head_label(BASELINE, "cls", cell.variant) for cell in summarise(rows_of[name])}
        pairs = [(label, baseline) for label, baseline in labels.items() if label != baseline]
        pairs += [pair for pair in PAIRS if set(pair) <= set(labels)]
        made[f"{name} caption"] = caption(rows_of[name]) if rows_of[name] else NOT_MEASURED
        for protocol in PROTOCOLS:
            made[f"{name} {protocol}"] = accuracy(rows_of[name], protocol) or NOT_MEASURED
            made[f"{name} {protocol} with scale"] = scaled(all_rows[name], protocol) or NOT_MEASURED
            made[f"{name} {protocol} differences"] = (
                differences(rows_of[name], protocol, pairs) if pairs else NOT_MEASURED
            )
    rows = rows_of["ablations"]
    made["ablations caption"] = caption(rows) if rows else NOT_MEASURED
    made["ablation orderings"] = orderings(ABLATIONS, {"CIFAR-10": rows}) if rows else NOT_MEASURED
    for protocol in PROTOCOLS:
        made[f"ablations {protocol}"] = accuracy(rows, protocol, WORDS) or NOT_MEASURED
    return made


def as_published(rows_of: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The rows of models that were without scale; those of before there was a scale say nothing of it, and give way."""
    unscaled = {name: [row for row in rows if row.scale_rule in ("", "paper")] for name, rows in rows_of.items()}
    return {name: list(_newest(rows).values()) for name, rows in unscaled.items()}


def _newest(rows: Sequence[Row]) -> dict[tuple[object, ...], Row]:
    """What was tested -> its row, the one that says the scale where there are two."""
    old_first = sorted(rows, key=lambda row: row.scale_rule)
    return {
        (row.encoding, row.pool, row.seed, row.protocol, row.size): replace(row, scale_rule="paper")
        for row in old_first
    }


def scaled(rows: Sequence[Row], protocol: str) -> str:
    """Accuracy as published -> given the scale, from the training size on; nothing where none was."""
    sizes = sorted({row.size for row in rows if row.scale_rule == "protocol" and row.protocol == protocol}, key=pixels)
    trained = pixels(rows[0].train_size or 0) if rows else 0.0
    return before_after(rows, protocol, [size for size in sizes if pixels(size) >= trained]) if sizes else ""


def brief(rows_of: dict[str, list[Row]]) -> str:
    """Accuracy under resize at one, two and about three times the training size, of both sets side by side."""
    columns, boxes = [], dict[str, list[str]]()
    for name, words in SETS.items():
        sizes = {nearest(rows_of[name], times) for times in (1, 2, 3)}
        table = tabulate([cell for cell in summarise(rows_of[name]) if cell.size in sizes], "resize")
        for label, cells in table.lines.items():
            line = boxes.setdefault(label, ["–"] * len(columns))
            line += [markdown_box(cell, table.best) for cell in cells]
        columns += [f"{words}, {size_label(size)}" for size in table.sizes]
    return lay_out(
        "resize", columns, {label: line + ["–"] * (len(columns) - len(line)) for label, line in boxes.items()}
    )


def accuracy(rows: Sequence[Row], protocol: str, words: dict[str, str] | None = None) -> str:
    """Accuracy in percent; nothing where there are no rows."""
    table = as_markdown(summarise(rows), protocol)
    for label, called in (words or {}).items():
        table = table.replace(f"| {label} |", f"| {called} |")
    return table if rows else ""


if __name__ == "__main__":
    rows_of = {name: read_rows(HERE / name / "rows.jsonl") for name in (*SETS, "ablations")}
    PAGE.write_text(fill(PAGE.read_text(), tables(rows_of)))
    OVERVIEW.write_text(fill(OVERVIEW.read_text(), {"photographs": brief(as_published(rows_of))}))
