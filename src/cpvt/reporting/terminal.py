"""The tables of a comparison in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from cpvt.reporting.figures import PROTOCOL_WORDS
from cpvt.reporting.summary import Cell, head_label, pixels, size_label, summarise
from cpvt.results import Row


def print_tables(rows: Sequence[Row]) -> None:
    """Print accuracy in percent, a table per protocol, the best of each size in bold."""
    from rich.console import Console
    from rich.table import Table

    cells = summarise(rows)
    console = Console()
    for protocol in dict.fromkeys(cell.protocol for cell in cells):
        mine = [cell for cell in cells if cell.protocol == protocol]
        sizes = sorted({cell.size for cell in mine}, key=pixels)
        best = {size: max(cell.mean for cell in mine if cell.size == size) for size in sizes}
        console.print(f"accuracy, %, {PROTOCOL_WORDS[protocol]}", highlight=False)
        table = Table(show_edge=False)
        table.add_column("encoding", overflow="fold")
        for size in sizes:
            table.add_column(size_label(size), justify="right")
        for encoding, pool in dict.fromkeys((cell.encoding, cell.pool) for cell in mine):
            by_size = {cell.size: cell for cell in mine if (cell.encoding, cell.pool) == (encoding, pool)}
            boxes = [_box(by_size[size], best[size]) if size in by_size else "–" for size in sizes]
            table.add_row(head_label(encoding, pool), *boxes)
        console.print(table)
        console.print()


def _box(cell: Cell, best: float) -> str:
    words = f"{cell.mean:.1f}" + (f" ± {cell.deviation:.1f}" if cell.deviation is not None else "")
    return f"[bold]{words}[/bold]" if cell.mean == best else words
