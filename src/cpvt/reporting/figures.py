"""Figures of a report: accuracy by test size, and attention maps of one sample."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations, cycle, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpvt.config import Size, size_label
from cpvt.data.protocols import describe
from cpvt.encodings import TABLE
from cpvt.reporting.labels import head_label
from cpvt.reporting.summary import BASELINE, Cell, pixels

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

DOTS: tuple[Any, ...] = (":", "-.", (0, (1, 3)), (0, (3, 1, 1, 1, 1, 1)), (0, (6, 2, 1, 2)))
SPARE = ("#e69f00", "#000000", "#6a3d9a", "#0b775e", "#b15928", "#f0e442")
GREY, SLATE = "#c9c9ce", "#5b6472"
MANY = 8  # most encodings that are distinguished by colour
CHOSEN = 6  # of more, so many are coloured
REFERENCES = (BASELINE, "peg", "peg5")  # always among them


def colours(encodings: Sequence[str], chosen: Sequence[str] = ()) -> dict[str, str]:
    """One colour per encoding; where the TABLE gives one, it is the same on every page.

    Of more than MANY encodings those that are not chosen are grey.
    """
    shown = list(dict.fromkeys(encodings))
    names = [name for name in shown if name in chosen or not chosen or len(shown) <= MANY]
    own = {name: TABLE[name].colour for name in names if name in TABLE and TABLE[name].colour}
    unused = [entry.colour for entry in TABLE.values() if entry.colour and entry.colour not in own.values()]
    spare = cycle((*SPARE, *unused))
    bright = {name: own.get(name) or next(spare) for name in names}
    return {name: bright.get(name, GREY) for name in shown}


def choose(cells: Sequence[Cell]) -> list[str]:
    """The encodings to draw in colour, in order: all, or of more than MANY the references and those best on average.

    An encoding is as good as its best line: the mean over every protocol and size of the page, a missing one being 0.
    """
    totals: dict[str, dict[str, float]] = {}
    for cell in cells:
        lines = totals.setdefault(cell.encoding, {})
        lines[cell.label] = lines.get(cell.label, 0.0) + (0.0 if cell.refused or cell.collapsed else cell.mean)
    if len(totals) <= MANY:
        return list(totals)
    ranked = sorted(totals, key=lambda name: max(totals[name].values()), reverse=True)
    chosen = [*(name for name in REFERENCES if name in totals), *(name for name in ranked if name not in REFERENCES)]
    return [name for name in totals if name in chosen[:CHOSEN]]


def accuracy_figure(cells: Sequence[Cell], train_sizes: Sequence[Size]) -> Figure:
    """Accuracy by test size: a panel per protocol, a line per encoding or model, the largest class.

    Of many encodings those of `choose` are coloured and named, and the others grey.
    """
    from matplotlib.figure import Figure

    protocols = list(dict.fromkeys(cell.protocol for cell in cells))
    palette = colours([cell.encoding for cell in cells], choose(cells))
    figure = Figure(figsize=(max(10.0, 6.2 * len(protocols)), 4.6), layout="constrained")
    panels = figure.subplots(1, len(protocols), sharey=True, squeeze=False)[0]
    entries: dict[str, Artist] = {}  # of the legend: a line may be in one panel only
    for panel, protocol in zip(panels, protocols):
        own = [cell for cell in cells if cell.protocol == protocol and not cell.refused]
        entries = _draw_lines(panel, own, palette, _variants(cells)) | entries
        for share in sorted({round(cell.majority, 1) for cell in own if cell.majority is not None}):
            drawn = panel.axhline(share, color="#777777", lw=1, ls="-.", zorder=0)
            entries.setdefault(f"largest class of the test, {share:.1f} %", drawn)
        _dress(panel, own, train_sizes)
        panel.set_title(describe(protocol), fontsize=10, loc="left")
        dotted = f" (dotted: training size, {', '.join(map(size_label, train_sizes))})" if train_sizes else ""
        panel.set_xlabel(textwrap.fill(f"test size, pixels{dotted}", 72))
    panels[0].set_ylabel("accuracy, %")
    panels[0].set_ylim(0, 102)
    add_legend(figure, entries | others(panels[0], palette), len(protocols))
    return figure


def multiples_figure(cells: Sequence[Cell], train_sizes: Sequence[Size]) -> Figure:
    """Accuracy by test size: for each protocol a small panel per encoding, its lines in front of all others in grey."""
    from matplotlib.figure import Figure

    protocols, names = (list(dict.fromkeys(getattr(cell, each) for cell in cells)) for each in ("protocol", "encoding"))
    palette = {name: SLATE if colour == GREY else colour for name, colour in colours(names, choose(cells)).items()}
    columns = 5 if len(names) <= 20 else 6
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(12, (1.6 * rows + 0.7) * len(protocols)), layout="constrained")
    for block, protocol in zip(figure.subfigures(len(protocols), 1, squeeze=False)[:, 0], protocols):
        block.suptitle(describe(protocol), fontsize=11, x=0.01, ha="left")
        panels = block.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        measured = [cell for cell in cells if cell.protocol == protocol and not cell.refused]
        for panel, name in zip_longest(panels.ravel(), names):
            if name is None:
                panel.set_axis_off()
                continue
            _draw_lines(panel, measured, {**dict.fromkeys(names, GREY), name: palette[name]}, _variants(cells))
            _dress(panel, measured, train_sizes)
            panel.set_title("\n".join(textwrap.wrap(name, 24)), fontsize=9, loc="left")
            panel.tick_params(labelsize=8, labelbottom=True if names.index(name) + columns >= len(names) else None)
        panels[0][0].set_ylim(0, 102)
        block.supylabel("accuracy, %", fontsize=9)
        block.supxlabel("test size, pixels", fontsize=9)
    return figure


def others(panel: Any, palette: Mapping[str, str]) -> dict[str, Artist]:
    """The entry of a legend for all encodings in grey; empty without any."""
    count = list(palette.values()).count(GREY)
    return {f"{count} other{'s' if count > 1 else ''}": panel.plot([], [], color=GREY)[0]} if count else {}


def _variants(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.variant for cell in cells if cell.variant))


def _draw_lines(
    panel: Any, cells: Sequence[Cell], palette: Mapping[str, str], variants: Sequence[str]
) -> dict[str, Artist]:
    """Draw a line per model, with its band unless it is grey; label -> line of the coloured ones."""
    lines: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: pixels(cell.size)):
        lines.setdefault((cell.encoding, cell.pool, cell.variant), []).append(cell)
    entries: dict[str, Artist] = {}
    grey: list[tuple[float, float]] = []  # one path for all: a figure of many panels is drawn and read faster
    for (encoding, pool, variant), line in lines.items():
        colour, label = palette[encoding], textwrap.fill(head_label(encoding, pool, variant), 44)
        x, y = [pixels(cell.size) for cell in line], [cell.mean for cell in line]
        if colour == GREY:
            grey += [*zip(x, y), (np.nan, np.nan)]
            continue
        (entries[label],) = panel.plot(x, y, color=colour, label=label, **line_style(pool, variant, variants))
        low, high = zip(*map(_band, line))
        panel.fill_between(x, low, high, color=colour, alpha=0.13, lw=0)
    if grey:
        panel.plot(*zip(*grey), color=GREY, lw=0.8, zorder=1.8)  # behind the others, in front of the grid
    return entries


def _dress(panel: Any, cells: Sequence[Cell], train_sizes: Sequence[Size]) -> None:
    """The axis of sizes, and the training sizes as dotted lines."""
    for train_size in train_sizes:
        panel.axvline(pixels(train_size), color="#bbbbbb", lw=1, ls=":", zorder=0)
    panel.set_xscale("log")
    mark_sizes(panel, sorted({cell.size for cell in cells}, key=pixels))
    panel.minorticks_off()
    panel.grid(axis="y", color="#eeeeee")
    panel.spines[["top", "right"]].set_visible(False)


def line_style(pool: str, variant: str = "", variants: Sequence[str] = ()) -> dict[str, Any]:
    """How the line of a model is drawn: gap dashed; those of marked variants thin, each variant with its own dots."""
    if not variant:
        return {"ls": "--" if pool == "gap" else "-", "marker": "o", "ms": 4, "lw": 1.8}
    style = DOTS[variants.index(variant) % len(DOTS)]
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

    columns, side = (5, 2.2) if len(profiles) > 2 * MANY else (min(3, len(profiles) + 1), 3.6)
    rows = -(-(len(profiles) + 1) // columns)
    figure = Figure(figsize=(side * columns, (side + 0.2) * rows), layout="constrained")
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
