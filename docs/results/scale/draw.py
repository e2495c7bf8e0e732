"""Draw before-after.svg, the figure of docs/scale.md, from digits/rows.jsonl: python docs/results/scale/draw.py.

The rows are those of `cpvt compare --scale protocol paper`: each trained model, given the scale that is true under the
protocol, and without scale, as published. Other rows and another figure may be named: draw.py ROWS SVG.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpvt.reporting.figures import add_legend, as_bytes, colours, mark_sizes
from cpvt.reporting.summary import Cell, pixels, summarise
from cpvt.results.rows import read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
SHOWN = ("peg", "peg5", "rope+peg", "rope", "learned")
PROTOCOLS = {"resize": "resize: objects grow", "canvas": "canvas: the field of view grows"}
STYLES: dict[str, dict[str, Any]] = {
    "protocol": {"ls": "-", "lw": 2.0, "ms": 4, "label": "given the object scale"},
    "paper": {"ls": ":", "lw": 1.4, "ms": 3.5, "mfc": "white", "label": "as published: no scale"},
}


def draw(cells: Sequence[Cell], train_side: float) -> "Figure":
    """Accuracy by test size, from the training size on: panels by protocol (rows) and encoding (columns)."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(11, 5.4), layout="constrained")
    panels, palette = figure.subplots(2, len(SHOWN), sharex=True, sharey=True), colours(SHOWN)
    larger = [cell for cell in cells if cell.pool == "cls" and pixels(cell.size) >= train_side]
    for across, (protocol, title) in zip(panels, PROTOCOLS.items()):
        across[0].set_ylabel(f"{title}\naccuracy, %", fontsize=10)
        for panel, encoding in zip(across, SHOWN):
            own = [cell for cell in larger if (cell.protocol, cell.encoding) == (protocol, encoding)]
            draw_lines(panel, own, palette[encoding])
            panel.set_title(encoding if protocol == next(iter(PROTOCOLS)) else "", fontsize=11)
    panels[0, 0].set_ylim(0, 103)
    mark_sizes(panels[0, 0], sorted({cell.size for cell in larger}, key=pixels))
    panels[1, len(SHOWN) // 2].set_xlabel(f"test size, pixels (trained at {train_side:g})", fontsize=10)
    lines = [Line2D([], [], color="#444444", marker="o", **style) for style in STYLES.values()]
    add_legend(figure, {str(line.get_label()): line for line in lines}, 2)
    return figure


def draw_lines(panel: Any, cells: Sequence[Cell], colour: str) -> None:
    """One encoding, with scale and without, with the accuracy at the largest size. ValueError where one was not measured."""
    ends = []
    for rule, style in STYLES.items():
        line = sorted((cell for cell in cells if cell.scale_rule == rule), key=lambda cell: pixels(cell.size))
        if not line:
            raise ValueError(
                f"every encoding drawn needs rows of `cpvt compare --scale protocol paper`; none is '{rule}'"
            )
        x, y = [pixels(cell.size) for cell in line], [cell.mean for cell in line]
        panel.plot(x, y, marker="o", color=colour, **style)
        ends.append((x[-1], y[-1]))
    near = abs(ends[0][1] - ends[1][1]) < 9  # their numbers would overlap
    for end, other in zip(ends, reversed(ends)):
        shift = (5 if end[1] >= other[1] else -5) * near
        panel.annotate(f"{end[1]:.0f}", end, (5, shift), textcoords="offset points", va="center", fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color="#eeeeee")


def main(rows_file: Path = HERE / "digits" / "rows.jsonl", svg: Path = HERE / "before-after.svg") -> None:
    rows = read_rows(rows_file)
    if not rows:
        raise SystemExit(f"{rows_file} holds no rows: run `cpvt compare --scale protocol paper` first")
    svg.write_bytes(as_bytes(draw(summarise(rows), pixels(rows[0].train_size or 0)), "svg"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
