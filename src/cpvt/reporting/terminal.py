"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cpvt.config import size_label
from cpvt.data.protocols import describe
from cpvt.reporting.labels import protocol_notes
from cpvt.reporting.probe_index import BASELINE_LABELS, HEADLINES, ProbeIndex, headline
from cpvt.reporting.scales import scale_note
from cpvt.reporting.summary import Cell, majority_shares, majority_warnings, summarise, tabulate
from cpvt.results.probe_results import ProbeResult
from cpvt.results.rows import Row

if TYPE_CHECKING:
    from rich.table import Table


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

    Then balanced accuracy, where it differs, and a warning for each model that is not above the largest class.
    """
    from rich.console import Console

    cells = summarise(rows)
    console = Console(emoji=False)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    for protocol in dict.fromkeys(cell.protocol for cell in cells):
        own = [cell for cell in cells if cell.protocol == protocol]
        say(f"accuracy, %, {describe(protocol)}")
        console.print(_table(own, protocol, _box))
        if any(len(cell.seeds) == 1 and cell.accuracy_interval for cell in own):
            say("in brackets: 95 % interval over images by Wilson (binomial), for a single seed")
        if any(cell.balanced is not None and abs(cell.balanced - cell.mean) >= 0.05 for cell in own):
            say("balanced accuracy, % (mean over classes)")
            console.print(_table(own, protocol, _balanced))
        for warning in majority_warnings(own):
            say(f"warning: {warning}")
        for label, note in protocol_notes([row for row in rows if row.protocol == protocol]).items():
            say(f"{label}: {note}")
        if told := scale_note(own, protocol):
            say(f"scale told: {told}")
        console.print()


def _table(cells: Sequence[Cell], protocol: str, text: Callable[[Cell, float], str]) -> Table:
    """A line per label and a column per size, and the largest class where it is known.

    text: of a cell, given the best mean of its size.
    """
    from rich.markup import escape
    from rich.table import Table

    sizes, best, lines = tabulate(cells, protocol)
    table = Table(show_edge=False)
    table.add_column("encoding", overflow="fold")
    for size in sizes:
        table.add_column(size_label(size), justify="right")
    for label, line in lines.items():
        table.add_row(escape(label), *("–" if cell is None else text(cell, best[cell.size]) for cell in line))
    if majority := majority_shares(cells, protocol):
        table.add_row("always the largest class", *(majority.get(size, "–") for size in sizes), style="dim")
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
