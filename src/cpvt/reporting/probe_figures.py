"""Figures of probes: a colour per model; solid: the model, dotted: untrained, dashed: encoding off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpvt.encodings import TABLE
from cpvt.reporting.figures import SPARE, add_legend, mark_sizes, tile
from cpvt.reporting.probe_index import Line, ProbeIndex, leading_word
from cpvt.reporting.summary import pixels
from cpvt.results.folders import ARRAYS, probe_attention_file
from cpvt.results.probe_results import ProbeResult

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

STYLES = {"model": "-", "untrained": ":", "none": "--"}


def palette(probed: ProbeIndex) -> dict[str, str]:
    """Model -> colour: that of the encoding its name begins with, unless already used; else a spare one."""
    used: dict[str, str] = {}
    for model in probed.models:
        own = TABLE[leading_word(model)].colour if leading_word(model) in TABLE else None
        if own and own not in used.values():
            used[model] = own
    known = (*SPARE, *filter(None, (entry.colour for entry in TABLE.values())))
    free = [each for each in known if each not in used.values()]
    spare = cycle(free or SPARE)
    return {model: used.get(model) or next(spare) for model in probed.models}


def depth_figure(probed: ProbeIndex) -> Figure:
    """R² of row and column by depth, on noise and natural images."""
    figure = _lines(
        probed,
        {f"{kind} images": ("position", "r2", "", kind) for kind in ("noise", "natural")},
        lambda each: float(each.depth or 0), "depth (0: input of block 1)", "R² of row and column", (-0.1, 1.03),
    )  # fmt: skip
    return _legend(figure, probed)


def border_figure(probed: ProbeIndex) -> Figure:
    """Error of the readout by distance from the border, next to that of guessing the centre (grey)."""
    figure = _lines(
        probed,
        {f"{kind} images": ("position", "border error", None, kind) for kind in ("noise", "natural")},
        lambda each: float(each.case.split()[-1]), "tokens from the nearest edge", "error, patches", (0, None),
        deepest=True,
    )  # fmt: skip
    for panel, kind in zip(figure.axes, ("noise", "natural")):
        guess = probed.select(probed.lines[0], "position", "border guess", None, kind, deepest=True)
        x, y = [float(each.case.split()[-1]) for each in guess], [each.value or 0.0 for each in guess]
        (drawn,) = panel.plot(x, y, color="#999999", lw=5, alpha=0.4, zorder=0)
    return _legend(figure, probed, drawn, "guessing the centre")


def longer_figure(probed: ProbeIndex) -> Figure:
    """R² at larger sizes of the readout fitted at the training size, in both coordinate conventions."""
    sizes = sorted({each.size for each in probed.select(None, "longer", "r2")}, key=pixels)
    figure = _lines(
        probed,
        {f"{case}, {kind} images": ("longer", "r2", case, kind) for case in ("scaled", "absolute")
         for kind in ("noise", "natural")},
        lambda each: pixels(each.size), "size, pixels", "R² (below −1 not shown)", (-1, 1.03), deepest=True,
    )  # fmt: skip
    for panel in figure.axes:
        mark_sizes(panel, sizes)
    return _legend(figure, probed)


def shift_figure(probed: ProbeIndex) -> Figure:
    """Token error after a shift by one patch, by depth."""
    cases = ("circular, 1 patch", "canvas, 1 patch", "crop, 1 patch")
    figure = _lines(
        probed, {f"{case}, noise": ("translation", "token error", case, "noise") for case in cases},
        lambda each: float(each.depth or 0), "depth", "token error", (-0.03, None),
    )  # fmt: skip
    return _legend(figure, probed)


def distance_figure(probed: ProbeIndex) -> Figure:
    """Mean attention distance by block, relative to that of uniform attention; dots are heads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panel, colours = figure.subplots(), palette(probed)
    for line in probed.lines:
        found = probed.select(line, "attention", "distance")
        uniform = {each.depth: each.value or 1.0 for each in found if each.case == "uniform"}
        heads = [each for each in found if each.case != "uniform"]
        blocks = sorted({each.depth or 0 for each in heads})
        relative = {b: [(each.value or 0.0) / uniform[b] for each in heads if each.depth == b] for b in blocks}
        style: dict[str, Any] = {"color": colours[line.model], "ls": STYLES[line.baseline]}
        panel.plot(blocks, [np.mean(relative[b]) for b in blocks], label=probed.label(line), **_weight(line), **style)
        if line.baseline == "model":
            x = [b for b in blocks for _ in relative[b]]
            panel.plot(x, [y for b in blocks for y in relative[b]], ".", color=colours[line.model], ms=4, alpha=0.5)
    uniform_line = panel.axhline(1, color="#bbbbbb", lw=1, zorder=0)
    _dress(panel, "block", "distance / uniform")
    return _legend(figure, probed, uniform_line, "uniform attention")


def tiles_figure(probed: ProbeIndex, folders: Sequence[Path]) -> Figure | None:
    """Attention maps of each model and its baselines, tiled by token; None if none was saved."""
    from matplotlib.figure import Figure

    found = []
    for line in probed.lines:
        paths = [folder / ARRAYS / probe_attention_file(*line) for folder in folders]
        found += [(line, np.load(path)) for path in paths if path.exists()][:1]
    if not found:
        return None
    models = list(dict.fromkeys(line.model for line, _ in found))
    figure = Figure(figsize=(3.6 * len(STYLES), 3.8 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), len(STYLES), squeeze=False)
    for panel in panels.ravel():
        panel.set_axis_off()
    for line, attention in found:
        panel = panels[models.index(line.model)][list(STYLES).index(line.baseline)]
        h, w = attention.shape[:2]
        panel.imshow(tile(attention.reshape(h * w, h * w), (h, w)), cmap="magma", interpolation="nearest")
        panel.set_title(probed.label(line), fontsize=9)
    return figure


def _lines(
    probed: ProbeIndex,
    wanted: dict[str, tuple[str, str, str | None, str]],
    place: Callable[[ProbeResult], float],
    x_label: str,
    y_label: str,
    limits: tuple[float, float | None],
    deepest: bool = False,
) -> Figure:
    """A panel for each selection of results, a line for each baseline of each model."""
    from matplotlib.figure import Figure

    columns = min(len(wanted), 3 if len(wanted) == 3 else 2)
    rows = -(-len(wanted) // columns)
    figure = Figure(figsize=(12, 4.3 * rows), layout="constrained")
    panels, colours = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel(), palette(probed)
    for panel, (title, (probe, measure, case, kind)) in zip(panels, wanted.items()):
        for line in probed.lines:
            found = sorted(probed.select(line, probe, measure, case, kind, deepest), key=place)
            x, y = [place(each) for each in found], [each.value for each in found]
            style = {"color": colours[line.model], "ls": STYLES[line.baseline]}
            panel.plot(x, y, label=probed.label(line), **style, **_weight(line))
        panel.set_title(title, fontsize=10, loc="left")
        panel.axhline(0, color="#bbbbbb", lw=1, zorder=0)
        _dress(panel, x_label, y_label)
    panels[0].set_ylim(*limits)
    return figure


def _weight(line: Line) -> dict[str, Any]:
    strong = line.baseline == "model"
    return {"lw": 1.9 if strong else 1.1, "marker": "o" if strong else "", "ms": 4, "alpha": 1.0 if strong else 0.75}


def _dress(panel: Any, x_label: str, y_label: str) -> None:
    panel.set_xlabel(x_label)
    panel.set_ylabel(y_label)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(axis="y", color="#eeeeee")
    panel.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, probed: ProbeIndex, reference: Artist | None = None, about: str = "") -> Figure:
    """An entry for each model, for each line style, and for a `reference` line, which `about` names."""
    from matplotlib.lines import Line2D

    own, colours = {line.model: None for line in probed.lines}, palette(probed)
    entries: dict[str, Artist] = {
        probed.labels[model]: Line2D([], [], color=colours[model], ls="-", **_weight(Line(model, "model")))
        for model in own
    }
    styles = {"untrained": "untrained baseline", "none": "encoding off"}
    entries |= {text: Line2D([], [], color="#666666", ls=STYLES[name], lw=1.1) for name, text in styles.items()}
    add_legend(figure, entries | ({about: reference} if reference else {}), 1)
    return figure
