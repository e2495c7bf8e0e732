"""Draw accuracy.svg, the figure of README.md, from rows.jsonl: python docs/results/imagenette/draw.py, after run.sh."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpvt.reporting.figures import GREY, add_legend, as_bytes, colours, mark_sizes
from cpvt.reporting.scale_tables import cells_of, tested_both_ways
from cpvt.reporting.summary import Cell, pixels, summarise
from cpvt.results.rows import Row, read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
NAMED = ("rope+peg", "peg", "learned", "rope", "sincos", "lookhere")  # coloured; all others are grey
OTHERS, FURTHER = "other encodings", "rope+peg"
TRAINED = 64
PANELS = {"mean": "accuracy, %", "retained": f"% of the accuracy at {TRAINED} pixels"}
UNSCALED: dict[str, Any] = {"ls": ":", "lw": 1.8, "marker": "o", "ms": 3.5, "mfc": "white"}
OBJECT: dict[str, Any] = {"ls": "-", "lw": 2.0, "marker": "o", "ms": 4}
LONGER: dict[str, Any] = {"ls": "-", "lw": 2.0, "marker": "D", "ms": 5, "mfc": "white"}
PLAIN: dict[str, Any] = {"ls": "--", "lw": 1.6, "marker": "s", "ms": 3}


def draw(rows: Sequence[Row], then: Sequence[Row]) -> "Figure":
    """Accuracy and retained share by test size: with PEG solid, without dashed, PEG as published dotted.

    The dotted line is of the seeds that were tested both ways. then: rows of models trained on at several sizes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    palette = colours(NAMED)
    scaled, both = cells_of(rows, "protocol"), summarise(tested_both_ways(rows, "resize"))
    unscaled = [cell for cell in both if cell.scale_rule == "paper" or cell.size == TRAINED]  # the same there
    names = sorted({cell.encoding for cell in scaled}, key=lambda name: (name in NAMED, name))
    for panel, (value, title) in zip(figure.subplots(1, 2), PANELS.items()):
        entries: dict[str, Any] = {}
        for name in names:
            if name not in NAMED:
                (line,) = panel.plot(*points(scaled, name, value), color=GREY, lw=1, zorder=1)
                entries[OTHERS] = line
        for name in NAMED:
            style = OBJECT if "peg" in name else PLAIN
            (line,) = panel.plot(*points(scaled, name, value), color=palette[name], zorder=3, **style)
            entries[f"{name}, given the scale" if "peg" in name else name] = line
        (line,) = panel.plot(*points(unscaled, "peg", value), color=palette["peg"], zorder=3, **UNSCALED)
        entries["peg, as published"] = line
        if further := cells_of(then, "protocol"):
            (line,) = panel.plot(*points(further, FURTHER, value), color=palette[FURTHER], zorder=3, **LONGER)
            entries[f"{FURTHER}, then 10 epochs at 64, 96, 128"] = line
        panel.set_ylabel(title)
        panel.set_xlabel(f"test size, pixels (trained at {TRAINED})")
        panel.axvline(TRAINED, color="#777777", lw=1, ls=":", zorder=0)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#eeeeee")
        mark_sizes(panel, sorted({cell.size for cell in scaled}, key=pixels))
    figure.axes[1].axhline(100, color="#777777", lw=1, zorder=0)
    add_legend(figure, {name: entries[name] for name in sorted(entries, key=lambda name: name == OTHERS)}, 2)
    return figure


def points(cells: Sequence[Cell], encoding: str, value: str) -> tuple[list[float], list[float]]:
    """Sizes and values of one encoding, from small to large."""
    own = sorted((cell for cell in cells if cell.encoding == encoding), key=lambda cell: pixels(cell.size))
    known = [(pixels(cell.size), getattr(cell, value)) for cell in own if getattr(cell, value) is not None]
    return [size for size, _ in known], [number for _, number in known]


if __name__ == "__main__":
    rows_of = [read_rows(HERE / name) for name in ("rows.jsonl", "recipes/then.jsonl")]
    (HERE / "accuracy.svg").write_bytes(as_bytes(draw(*rows_of), "svg"))
