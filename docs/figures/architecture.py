"""Draws architecture.svg: from an image to logits, with the hooks. Run python docs/figures/architecture.py."""

from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "cpvt"
matplotlib.rcParams["font.size"] = 9
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

STAGE, HOOK, PREFIX = "#e8eef7", "#d9efe3", "#f7ead9"


def box(axes: plt.Axes, left: float, bottom: float, width: float, text: str, colour: str, height: float = 0.9) -> None:
    """A rounded box with text in its middle."""
    shape = FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0.02,rounding_size=0.1")
    shape.set(facecolor=colour, edgecolor="#333333", linewidth=1)
    axes.add_patch(shape)
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", color="#111111")


def arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow from one point to another."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#333333", "linewidth": 1.2})


def draw(file: Path) -> None:
    """Draw the figure and save it without a date, so that the same script gives the same file."""
    figure, axes = plt.subplots(figsize=(13, 4.2))
    axes.set(xlim=(0, 15.4), ylim=(-0.2, 4.9))
    axes.axis("off")
    stages = (
        (0.1, 1.7, "image\n(B, C, H, W)"),
        (2.3, 1.9, "patch embedding\n(B, h·w, D)"),
        (4.7, 2.0, "block 1"),
        (7.2, 2.0, "block 2"),
        (9.7, 2.0, "... block L"),
        (12.2, 1.1, "norm"),
        (13.8, 1.5, "head\nlogits"),
    )
    for left, width, text in stages:
        box(axes, left, 2.0, width, text, STAGE)
    for (left, width, _), (following, _, _) in pairwise(stages):
        arrow(axes, (left + width + 0.02, 2.45), (following - 0.02, 2.45))
    for middle, depth in ((4.45, "0"), (6.95, "1"), (9.45, "2")):
        box(axes, middle - 1.0, 3.75, 2.0, f"tokens(x, grid, {depth})", HOOK, 0.6)
        arrow(axes, (middle, 3.73), (middle, 2.5))
    axes.text(10.8, 4.05, "called at the depths in at=(...):\nPEG, learned, sincos", va="center", color="#111111")
    box(axes, 4.7, 0.3, 7.0, "rotation(grid), applied to queries and keys: rope, rope_mixed\n"
        "bias(grid) or query_bias(query), added to the logits: alibi, irpe\n"
        "value_encoding(value), added to the output of attention: lepe, glpe", HOOK, 1.15)  # fmt: skip
    for middle in (5.7, 8.2, 10.7):
        arrow(axes, (middle, 1.48), (middle, 1.97))
    box(axes, 0.1, 0.55, 4.1, "prefix tokens\n(class, distillation)", PREFIX)
    arrow(axes, (4.0, 1.48), (4.75, 1.97))
    note = "Blocks attend to prefix tokens. Encodings never see them: no hook is called for them."
    axes.text(0.1, 0.0, note, va="center", color="#111111")
    figure.savefig(file, facecolor="white", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".svg"))
