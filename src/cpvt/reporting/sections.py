"""Sections of the page that not every page has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from cpvt.config import Size
from cpvt.reporting.pairs import Difference
from cpvt.reporting.summary import Cell, pixels, size_label


def pairs_section(differences: Sequence[Difference]) -> str:
    """Every model against one, picture by picture; nothing where only one was tested."""
    if not differences:
        return ""
    first = differences[0]
    tables = []
    for protocol in dict.fromkeys(each.protocol for each in differences):
        mine = [each for each in differences if each.protocol == protocol]
        boxes = {(each.label, each.size): _difference(each) for each in mine}
        tables.append(f"<h3>{escape(protocol)}</h3>" + _table(boxes))
    return (
        "<h2>The same pictures, model against model</h2>"
        f"<p>Difference to <i>{escape(first.reference)}</i> in points, on the same {first.pictures} pictures, with the middle "
        "95 % of a bootstrap over pictures (10,000 draws): how far it would move with other pictures, not with other "
        f"trainings.</p>{''.join(tables)}"
    )


def _difference(each: Difference) -> str:
    return f"<b>{each.points:+.1f}</b><br><small>[{each.low:+.1f}, {each.high:+.1f}]</small>"


def sizes_section(cells: Sequence[Cell]) -> str:
    """Top-5, speed and memory at each size; nothing where rows do not hold them."""
    measured = [cell for cell in cells if cell.rate is not None]
    if not measured:
        return ""
    columns: dict[str, Callable[[Cell], float | None]] = {
        "top-5 accuracy, %": lambda cell: cell.top5,
        "pictures a second through the model": lambda cell: cell.rate,
        "peak memory of the test, MiB (on a GPU: of the device)": lambda cell: (cell.peak_memory or 0) / 2**20,
    }
    parts = []
    for protocol in dict.fromkeys(cell.protocol for cell in measured):
        for words, read in columns.items():
            boxes = {(cell.label, cell.size): _number(read(cell)) for cell in measured if cell.protocol == protocol}
            parts.append(f"<h3>{escape(protocol)}: {words}</h3>{_table(boxes)}")
    return (
        "<details><summary><b>Top-5, speed and memory at each size</b></summary><p class=note>Taken one after another in "
        f"the tests themselves, so good to the size of the effect, not to the last tenth.</p>{''.join(parts)}</details>"
    )


def curves_section(svg: bytes | None) -> str:
    """How the trainings went; nothing where no run was found."""
    if svg is None:
        return ""
    return (
        "<h2>How training went</h2><p>After each epoch, mean over seeds, bands of one standard deviation. Accuracy in training "
        f"is on pictures as they were shown, varied, while the model learned.</p>{inline(svg)}"
    )


def inline(svg: bytes) -> str:
    """A figure as part of a page."""
    return svg[svg.index(b"<svg") :].decode()


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _table(boxes: dict[tuple[str, Size], str]) -> str:
    """A line per label, a column per size."""
    sizes = sorted({size for _, size in boxes}, key=pixels)
    head = "".join(f"<th scope=col>{size_label(size)}</th>" for size in sizes)
    lines = [
        f"<tr><th scope=row>{escape(label)}</th>"
        + "".join(f"<td>{boxes.get((label, size), '–')}</td>" for size in sizes)
        + "</tr>"
        for label in dict.fromkeys(label for label, _ in boxes)
    ]
    return (
        f"<div class=scroll><table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
