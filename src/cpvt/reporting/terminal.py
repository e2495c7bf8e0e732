"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from cpvt.data.protocols import describe
from cpvt.reporting.probe_index import BASELINE_LABELS, HEADLINES, ProbeIndex, headline
from cpvt.reporting.summary import Cell, protocol_notes, size_label, summarise, tabulate
from cpvt.results.probe_results import ProbeResult
from cpvt.results.rows import Row


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
    """Print accuracy in percent, a table per protocol with the best of each size in bold, and notes on each test."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    cells = summarise(rows)
    console = Console(emoji=False)
    for protocol in dict.fromkeys(cell.protocol for cell in cells):
        sizes, best, lines = tabulate(cells, protocol)
        console.print(f"accuracy, %, {describe(protocol)}", highlight=False)
        table = Table(show_edge=False)
        table.add_column("encoding", overflow="fold")
        for size in sizes:
            table.add_column(size_label(size), justify="right")
        for label, line in lines.items():
            table.add_row(escape(label), *("–" if cell is None else _box(cell, best[cell.size]) for cell in line))
        console.print(table)
        for label, note in protocol_notes([row for row in rows if row.protocol == protocol]).items():
            console.print(f"{label}: {note}", highlight=False, markup=False, soft_wrap=True)
        console.print()


def _box(cell: Cell, best: float) -> str:
    if cell.refused:
        return "refused"
    text = f"{cell.mean:.1f}" + (f" ± {cell.deviation:.1f}" if cell.deviation is not None else "")
    return f"[bold]{text}[/bold]" if cell.mean == best else text
