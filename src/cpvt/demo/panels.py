"""The panels of the demo: curves in the colours of the page, heat maps over the image, and what is said of them."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpvt.adapters.classify import Prediction
from cpvt.config import Size, size_label
from cpvt.config.scale import scale_label
from cpvt.data.protocols import TABLE
from cpvt.demo.views import Curves, PegMap
from cpvt.reporting.figures import SPARE, as_bytes, mark_sizes
from cpvt.reporting.summary import pixels
from cpvt.reporting.templates import as_data, inline

INK = "#5b6472"  # of axes and words, replaced by the page's own text colour
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", *SPARE[2:5])
SIDE = 384  # pixels that an image shown has at least along its longer side
TITLES = {"true": "true scale", "estimated": "estimated scale", "off": "no scale"}


def curve_panels(curves: Curves, train_size: Size) -> str:
    """HTML: a legend of the classes, and for each protocol a panel for each mode."""
    names = "".join(
        f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>'
        for name, colour in zip(curves.classes, COLOURS)
    )
    parts = [f'<p class="legend">{names}</p>']
    for protocol in dict.fromkeys(protocol for protocol, _ in curves.lines):
        parts.append(f"<h4><b>{protocol}</b>: {TABLE[protocol].title}</h4><div class='panels'>")
        modes = [each for name, each in curves.lines if name == protocol]
        for mode in modes:
            values = curves.lines[protocol, mode]
            svg = inline(as_bytes(_curve_figure(values, curves.sizes, train_size), "svg")).replace(INK, "currentColor")
            title = TITLES[mode] + _at_largest(curves.sizes, curves.scales[protocol, mode])
            caption = f"<figcaption>{title}</figcaption>" if len(modes) > 1 else ""  # else it takes no scale
            about = f"Probability of {curves.classes[0]} and others over test sizes, {protocol}, {title}"
            parts.append(f'<figure role="img" aria-label="{html.escape(about)}">{caption}{svg}</figure>')
        parts.append("</div>")
    return "".join(parts)


def _at_largest(sizes: Sequence[Size], scales: Sequence[tuple[float, float] | None]) -> str:
    """The scale that was given at the largest size."""
    return "" if scales[-1] is None else f": {scale_label(scales[-1])} at {size_label(sizes[-1])}"


def _curve_figure(values: NDArray[np.float64], sizes: Sequence[Size], train_size: Size) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 2.3), layout="constrained")
    figure.patch.set_alpha(0)
    panel: Any = figure.subplots()
    panel.patch.set_alpha(0)
    for line, colour in zip(values.T, COLOURS):
        panel.plot([pixels(size) for size in sizes], 100 * line, color=colour, lw=2, marker="o", ms=4)
    panel.axvline(pixels(train_size), color=INK, lw=1, ls=":", zorder=0)
    panel.set_xscale("log")
    mark_sizes(panel, sizes)
    panel.minorticks_off()
    panel.set_ylim(-3, 103)
    panel.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])
    panel.grid(axis="y", color=INK, alpha=0.2)
    panel.tick_params(colors=INK, labelsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(INK)
    panel.set_xlabel("test size, pixels (dotted: training)", color=INK, fontsize=9)
    return figure


def overlay(
    seen: NDArray[np.uint8], heat: NDArray[np.float32], patch_size: int, chosen: Sequence[int] | None = None
) -> NDArray[np.uint8]:
    """A heat map (h, w) over the image (H, W, 3) that the model saw, bright where it is large.

    It is enlarged to be looked at; patches keep their edges. chosen: row and column of a patch that gets a frame.
    """
    from matplotlib import colormaps

    (height, width), (rows, columns) = seen.shape[:2], heat.shape
    glow = np.kron(heat / max(float(heat.max()), 1e-12), np.ones((patch_size, patch_size)))[:height, :width, None]
    grey = seen.mean(axis=2, keepdims=True)
    mixed = 0.4 * grey + 0.6 * 255 * colormaps["inferno"](glow[..., 0])[..., :3]
    shown = enlarge(mixed.round().astype(np.uint8))
    if chosen is not None:
        unit = patch_size * enlargement(seen)
        top, left = min(chosen[0], rows - 1) * unit, min(chosen[1], columns - 1) * unit
        box, thick = shown[top : top + unit, left : left + unit], max(2, unit // 10)
        inside = box[thick:-thick, thick:-thick].copy()
        box[:] = (90, 220, 255)
        box[thick:-thick, thick:-thick] = inside
    return shown


def enlargement(image: NDArray[np.uint8]) -> int:
    """How many pixels along an axis stand for each pixel of an image that is shown."""
    return max(1, -(-SIDE // max(image.shape[:2])))


def enlarge(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (H, W, 3) with whole pixels for each of its own, so that it can be looked at."""
    factor = enlargement(image)
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def peg_panels(maps: Sequence[PegMap], seen: NDArray[np.uint8], patch_size: int) -> str:
    """HTML: a map for each PEG, the norm of what it added to each token over the image."""
    if not maps:
        return "<p>This model has no PEG, so there is nothing to show.</p>"
    figures = []
    for each in maps:
        where = "before block 1" if each.depth == 0 else f"after block {each.depth}"
        shown = as_data(_png(overlay(seen, each.norms - each.norms.min(), patch_size)))
        mean, low, high = (float(how(each.norms)) / each.token_norm for how in (np.mean, np.min, np.max))
        figures.append(
            f'<figure><img src="{shown}" alt="What the PEG {where} added to each patch">'
            f"<figcaption>{where}: {mean:.0%} ({low:.0%} to {high:.0%})</figcaption></figure>"
        )
    return f"<div class='panels maps'>{''.join(figures)}</div>"


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def read_note(prediction: Prediction, takes_scale: bool) -> str:
    """How the image was read for a prediction, in one sentence."""
    (width, height), (input_width, input_height) = prediction.original_size, prediction.size
    words = "given no scale" if prediction.scale is None else f"given scale {scale_label(prediction.scale)}"
    read = f"The image of {width}x{height} pixels was read at {input_width}x{input_height}"
    return f"{read}, and the model was {words}." if takes_scale else f"{read}."
