"""Figures of a report: accuracy by test size, and attention maps of one sample."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations, cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpvt.config import Size, size_label
from cpvt.data.protocols import describe
from cpvt.encodings import TABLE
from cpvt.reporting.labels import head_label
from cpvt.reporting.summary import Cell, pixels

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

DOTS: tuple[Any, ...] = (":", "-.", (0, (1, 3)), (0, (3, 1, 1, 1, 1, 1)), (0, (6, 2, 1, 2)))
SPARE = ("#e69f00", "#000000", "#6a3d9a", "#0b775e", "#b15928", "#f0e442")


def colours(encodings: Sequence[str]) -> dict[str, str]:
    """One colour per encoding; where the TABLE gives one, it is the same on every page."""
    own = {name: TABLE[name].colour for name in encodings if name in TABLE and TABLE[name].colour}
    unused = [entry.colour for entry in TABLE.values() if entry.colour and entry.colour not in own.values()]
    spare = cycle((*SPARE, *unused))
    return {name: own.get(name) or next(spare) for name in dict.fromkeys(encodings)}


def accuracy_figure(cells: Sequence[Cell], train_sizes: Sequence[Size]) -> Figure:
    """Accuracy by test size: a panel per protocol, a line per encoding or model, the largest class."""
    from matplotlib.figure import Figure

    protocols = list(dict.fromkeys(cell.protocol for cell in cells))
    palette = colours([cell.encoding for cell in cells])
    tellings = list(dict.fromkeys(cell.telling for cell in cells if cell.telling))
    figure = Figure(figsize=(max(10.0, 6.2 * len(protocols)), 4.6), layout="constrained")
    panels = figure.subplots(1, len(protocols), sharey=True, squeeze=False)[0]
    entries: dict[str, Artist] = {}  # of the legend: a line may be in one panel only
    for panel, protocol in zip(panels, protocols):
        lines: dict[tuple[str, str, str], list[Cell]] = {}
        own = [cell for cell in cells if cell.protocol == protocol and not cell.refused]
        for cell in own:
            lines.setdefault((cell.encoding, cell.pool, cell.telling), []).append(cell)
        for (encoding, pool, telling), line in lines.items():
            line.sort(key=lambda cell: pixels(cell.size))
            x, y = [pixels(cell.size) for cell in line], np.array([cell.mean for cell in line])
            label = textwrap.fill(head_label(encoding, pool, telling), 44)
            (drawn,) = panel.plot(x, y, color=palette[encoding], label=label, **line_style(pool, telling, tellings))
            entries.setdefault(label, drawn)
            low, high = zip(*map(_band, line))
            panel.fill_between(x, low, high, color=palette[encoding], alpha=0.13, lw=0)
        sizes = sorted({cell.size for cell in own}, key=pixels)
        for share in sorted({round(cell.majority, 1) for cell in own if cell.majority is not None}):
            drawn = panel.axhline(share, color="#777777", lw=1, ls="-.", zorder=0)
            entries.setdefault(f"largest class of the test, {share:.1f} %", drawn)
        for train_size in train_sizes:
            panel.axvline(pixels(train_size), color="#bbbbbb", lw=1, ls=":", zorder=0)
        panel.set_xscale("log")
        mark_sizes(panel, sizes)
        panel.minorticks_off()
        panel.set_title(describe(protocol), fontsize=10, loc="left")
        dotted = f" (dotted: training size, {', '.join(map(size_label, train_sizes))})" if train_sizes else ""
        panel.set_xlabel(textwrap.fill(f"test size, pixels{dotted}", 72))
        panel.grid(axis="y", color="#eeeeee")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, %")
    panels[0].set_ylim(0, 102)
    add_legend(figure, entries, len(protocols))
    return figure


def line_style(pool: str, telling: str = "", tellings: Sequence[str] = ()) -> dict[str, Any]:
    """How the line of a model is drawn: gap dashed; those of marked tellings thin, each telling with its own dots."""
    if not telling:
        return {"ls": "--" if pool == "gap" else "-", "marker": "o", "ms": 4, "lw": 1.8}
    style = DOTS[tellings.index(telling) % len(DOTS)]
    return {"ls": style, "marker": "s" if pool == "gap" else "o", "ms": 2.5, "lw": 1.1}


def _band(cell: Cell) -> tuple[float, float]:
    """One standard deviation over seeds; of a single seed, the 95 % interval over images."""
    if cell.deviation is None and cell.accuracy_interval is not None:
        return cell.accuracy_interval
    return cell.mean - (cell.deviation or 0.0), cell.mean + (cell.deviation or 0.0)


def add_legend(figure: Figure, entries: Mapping[str, Artist], panels: int) -> None:
    """A legend below the panels, label -> line; its columns keep it within the figure."""
    widest = max((len(line) for label in entries for line in label.splitlines()), default=1)
    columns = max(1, min(len(entries), 95 * panels // (widest + 6)))
    numbers = list(map(str, range(len(entries))))  # matplotlib leaves out labels that begin with _
    legend = figure.legend(
        list(entries.values()), numbers, loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    for text, label in zip(legend.get_texts(), entries):
        text.set_text(label)


def mark_sizes(panel: Any, sizes: Sequence[Size]) -> None:
    """A tick for each size; sizes of equal area share one."""
    labels: dict[float, list[str]] = {}
    for size in sizes:
        labels.setdefault(pixels(size), []).append(size_label(size))
    panel.set_xticks(list(labels), ["\n".join(each) for each in labels.values()])


def space_ticks(figure: Figure) -> None:
    """Where labels of an x axis would overlap, turn them upright; then leave out those that still do, ends last."""
    figure.draw_without_rendering()
    for panel in figure.axes:
        if _crowded(panel.get_xticklabels()):
            panel.tick_params(axis="x", labelrotation=90)
            figure.draw_without_rendering()
        kept: list[Any] = []
        labels = [label for label in panel.get_xticklabels() if label.get_visible()]
        for label in [*labels[:1], *labels[:0:-1][:1], *labels[1:-1]]:
            label.set_visible(not _crowded([*kept, label]))
            kept += [label] * label.get_visible()


def _crowded(labels: Sequence[Any], gap: float = 4) -> bool:
    """Whether two labels are nearer than `gap` points of the screen to each other."""
    boxes = [label.get_window_extent() for label in labels if label.get_text() and label.get_visible()]
    return any(one.padded(gap / 2).overlaps(other.padded(gap / 2)) for one, other in combinations(boxes, 2))


def attention_figure(profiles: Sequence[dict[str, Any]], maps: Sequence[NDArray[Any]], sample: NDArray[Any]) -> Figure:
    """The paper's attention figure: each row of the N x N matrix as a small map, at the position of its token."""
    from matplotlib.figure import Figure

    columns = min(3, len(profiles) + 1)
    rows = -(-(len(profiles) + 1) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    shown = sample.transpose(1, 2, 0)
    low, high = shown.min(), shown.max()
    panels[0].imshow(np.squeeze((shown - low) / max(high - low, 1e-6)), cmap="gray")
    panels[0].set_title(f"the sample: {profiles[0]['sample_class']}", fontsize=10)
    for panel, profile, attention in zip(panels[1:], profiles, maps):
        panel.imshow(tile(attention, tuple(profile["grid"])), cmap="magma", interpolation="nearest")
        panel.set_title(head_label(profile["encoding"], profile["pool"]), fontsize=10)
    for panel in panels:
        panel.set_axis_off()
    return figure


def tile(attention: NDArray[Any], grid: tuple[int, int]) -> NDArray[Any]:
    """(N, N) -> an image of h x w tiles, each h x w pixels: tile (i, j) is the attention of token (i, j).

    Each tile is scaled to its own maximum. Tiles are separated by one pixel.
    """
    h, w = grid
    image = np.full((h * (h + 1) - 1, w * (w + 1) - 1), np.nan)
    for token, row in enumerate(attention):
        top, left = (token // w) * (h + 1), (token % w) * (w + 1)
        image[top : top + h, left : left + w] = row.reshape(h, w) / max(float(row.max()), 1e-12)
    return image


def as_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as 'svg' or 'png'; equal figures give equal bytes.

    Text is drawn as it is: names of models, classes and folders may hold `$`, which matplotlib would read as
    mathematics, and characters that its font lacks or that no file may hold.
    """
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set(parse_math=False, usetex=False, text=drawable(text.get_text()))
    file = io.BytesIO()
    settings: Any = {"svg.hashsalt": "cpvt", "svg.fonttype": "path", "text.parse_math": False, "text.usetex": False}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # drawn as an empty box
        space_ticks(figure)
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(file, format=kind, dpi=150, metadata=metadata)
    return file.getvalue()


def drawable(text: str) -> str:
    """The text with � for what XML cannot hold: control characters, and the bytes of names that are not UTF-8."""
    return re.sub(r"[^\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
