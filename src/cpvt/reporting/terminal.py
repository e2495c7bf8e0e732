"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cpvt.config import Size, size_label
from cpvt.data.protocols import describe
from cpvt.reporting.labels import protocol_notes
from cpvt.reporting.probe_index import BASELINE_LABELS, HEADLINES, ProbeIndex, headline
from cpvt.reporting.scales import scale_note
from cpvt.reporting.summary import Cell, majority_shares, summarise, tabulate, warnings_of
from cpvt.results.probe_results import ProbeResult
from cpvt.results.rows import Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = ((" ± ", True), ("±", True), ("±", False))  # of a table, from wide to narrow
BALANCED = 1.0  # points by which balanced accuracy differs from accuracy where it is printed
LABEL = 40  # longest label on one line; nothing is cut of a longer one


def print_probe_results(probe_results: Sequence[ProbeResult]) -> None:
    """Print the headline of each probe, a table per model with its baselines, and what could not be measured."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    probed = ProbeIndex(probe_results)
    console = Console(highlight=False, emoji=False)
    for model, label in probed.labels.items():
        lines = [line for line in probed.lines if line.model == model]
        table = Table(title=escape(label), title_justify="left", box=None, pad_edge=False)
        table.add_column("")
        for line in lines:
            table.add_column(BASELINE_LABELS[line.baseline] or "as it is", justify="right")
        for wanted in HEADLINES:
            table.add_row(wanted.title, *(headline(probed, line, wanted) for line in lines))
        console.print(table)
    for refusal in probed.refusals():
        console.print(f"not measured: {refusal}", markup=False)


def print_tables(rows: Sequence[Row]) -> None:
    """Print accuracy in percent, a table per protocol with the best of each size in bold, and notes on each test.

    Then balanced accuracy, where it differs by a point or more (the page has it below that too), and a warning for each
    model that is not above the largest class. A table that is wider than the terminal is set closer, then split by
    sizes: no number is cut or wrapped.
    """
    from rich.console import Console

    cells = summarise(rows)
    console = Console(emoji=False)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    for protocol in dict.fromkeys(cell.protocol for cell in cells):
        own = [cell for cell in cells if cell.protocol == protocol]
        say(f"accuracy, %, {describe(protocol)}")
        console.print(*_fitting(console, own, protocol, _box))
        if any(len(cell.seeds) == 1 and cell.accuracy_interval for cell in own):
            say("in brackets: 95 % interval over images by Wilson (binomial), for a single seed")
        if any(cell.balanced is not None and abs(cell.balanced - cell.mean) >= BALANCED for cell in own):
            say("balanced accuracy, % (mean over classes)")
            console.print(*_fitting(console, own, protocol, _balanced))
        for warning in warnings_of(rows, protocol):
            say(f"warning: {warning}")
        for label, note in protocol_notes([row for row in rows if row.protocol == protocol]).items():
            say(f"{label}: {note}")
        if note := scale_note(own, protocol):
            say(f"object scale: {note}")
        console.print()


def _fitting(console: Console, cells: Sequence[Cell], protocol: str, text: Callable[[Cell, float], str]) -> list[Table]:
    """The table, or as few parts of it as fit the terminal, each with as many sizes."""
    sizes = tabulate(cells, protocol).sizes
    free = console.options.update(width=10_000)
    for parts in range(1, len(sizes) + 1):
        step = -(-len(sizes) // parts)
        for style in STYLES:
            tables = [_table(cells, protocol, text, sizes[i : i + step], *style) for i in range(0, len(sizes), step)]
            if all(console.measure(table, options=free).maximum <= console.width for table in tables):
                return tables
    return tables  # a terminal that is narrower than a single size


def _table(
    cells: Sequence[Cell],
    protocol: str,
    text: Callable[[Cell, float], str],
    sizes: Sequence[Size],
    plus_minus: str,
    ruled: bool,
) -> Table:
    """A line per label and a column for each of these sizes, and the largest class where it is known.

    text: of a cell, given the best mean of its size. ruled: with lines between columns.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    found = tabulate(cells, protocol)
    style: dict[str, Any] = {} if ruled else {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    table = Table(show_edge=False, **style)
    table.add_column("encoding", overflow="fold", max_width=LABEL)
    for size in sizes:
        table.add_column(size_label(size), justify="right", no_wrap=True)
    for label, line in found.lines.items():
        line = [cell for cell, size in zip(line, found.sizes) if size in sizes]
        boxes = ["–" if cell is None else text(cell, found.best[cell.size]) for cell in line]
        table.add_row(escape(label), *(box.replace(" ± ", plus_minus) for box in boxes))
    if majority := majority_shares(cells, protocol):
        table.add_row("largest class", *(majority.get(size, "–") for size in sizes), style="dim")
    return table


def _box(cell: Cell, best: float) -> str:
    if cell.refused:
        return "refused"
    text = f"{cell.mean:.1f}"
    if cell.deviation is not None:
        text += f" ± {cell.deviation:.1f}"
    elif cell.accuracy_interval is not None:
        text += " \\[{:.1f}, {:.1f}]".format(*cell.accuracy_interval)
    return f"[bold]{text}[/bold]" if cell.mean == best else text


def _balanced(cell: Cell, best: float) -> str:
    return "–" if cell.balanced is None else f"{cell.balanced:.1f}"
