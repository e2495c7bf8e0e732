"""Draw retained.svg, the figure of docs/literature.md: python docs/results/literature/draw.py.

Reads what tables.py, next to this file, reads; without rows of ours it draws the published curves alone.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tables import CURVES, HERE, PAPER, ROWS, SCALED, Curve, best, of_one_size, ours, published

from cpvt.reporting.figures import add_legend, as_bytes, colours
from cpvt.results.rows import read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = {  # paper -> colour
    "LookHere, HR": "#5b6472", "LookHere, Val": "#a9b2bc", "ResFormer, Val": "#b15928", "RoPE-ViT, Val": "#6a3d9a",
    "ViTAR, Val": "#0b775e", "CPVT, Val": "#c2185b",
}  # fmt: skip
DRAWN = (  # group, model
    ("LookHere, Val", "LH-45"), ("LookHere, HR", "LH-45"), ("LookHere, HR", "2D-ALiBi"), ("LookHere, HR", "2D-RoPE"),
    ("LookHere, HR", "1D-learn"), ("LookHere, HR", "twins_pcpvt_base"), ("ResFormer, Val", "DeiT-S"),
    ("ResFormer, Val", "RF-S-224"), ("ResFormer, Val", "RF-S-MR"), ("RoPE-ViT, Val", "ViT-B mixed"),
    ("CPVT, Val", "CPVT-Ti, one PEG"), ("ViTAR, Val", "ViTAR-S CPE"), ("ViTAR, Val", "ViTAR-B"),
)  # fmt: skip
TICKS = (0.7, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.6)
GAP = 1.7  # percent between names
MOVED = {"RF-S-MR": (-12, 13), "RF-S-224": (-46, -8)}  # names that would stand on our lines: points from the end


OURS: tuple[tuple[str, str, dict[str, Any]], ...] = (  # how ours was given the scale, encoding, style
    (SCALED, "peg", {"lw": 2.6, "ms": 5}),
    (PAPER, "peg", {"lw": 2.2, "ms": 5, "ls": ":", "mfc": "white"}),
    (SCALED, "learned", {"lw": 1.8, "ms": 4, "ls": "--"}),
)
BEST: dict[str, Any] = {"lw": 2.6, "ms": 5, "color": "black"}


def draw(curves: Sequence[Curve]) -> "Figure":
    """Retained share by ratio of sizes: ours in strong colours, published ones thin, with their names at their ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.2), layout="constrained")
    panel, ends, entries = figure.subplots(), [], dict[str, Any]()
    for curve, name, style in chosen(curves):
        (entries[name],) = panel.plot(*within(curve), marker="o", zorder=3, **style)
    for group, colour in PUBLISHED.items():
        models = [model for home, model in DRAWN if home == group]
        for model in models:
            curve = next(each for each in curves if (each.group, each.model) == (group, model))
            (line,) = panel.plot(*within(curve), color=colour, lw=1.0, ms=2.5, marker="o")
            ends += [(*(axis[-1] for axis in within(curve)), model, colour)] * (len(models) > 1)
        entries[f"{group}: {models[0]}" if len(models) == 1 else group] = line
    name_ends(panel, ends)
    dress(panel)
    add_legend(figure, entries, 1)
    return figure


def dress(panel: Any) -> None:
    """The axes: ratios on a logarithmic one with plain numbers, and a line where nothing is lost."""
    panel.axhline(100, color="#bbbbbb", lw=1, ls=":", zorder=0)
    panel.set_xscale("log")
    panel.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    panel.minorticks_off()
    panel.set_xlim(0.69, 5.7)
    panel.set_ylim(66, 104.5)
    panel.set_xlabel("test size / training size (the largest, where trained at several)")
    panel.set_ylabel("retained accuracy, % of that at the training size")
    panel.grid(axis="y", color="#eeeeee")
    panel.spines[["top", "right"]].set_visible(False)


def chosen(curves: Sequence[Curve]) -> list[tuple[Curve, str, dict[str, Any]]]:
    """Ours, those that are measured: with PEG the one with scale, the published and the best one, and the learned table."""
    found, drawn = {(curve.group, curve.model): curve for curve in curves}, []
    palette = colours([encoding for _, encoding, _ in OURS])
    for group, encoding, style in OURS:
        if curve := found.get((group, f"`{encoding} · gap`")):
            drawn.append((curve, f"{group}: {encoding} · gap", {"color": palette[encoding], **style}))
    first = best(curves)
    if first and first not in [curve for curve, _, _ in drawn]:
        drawn.insert(0, (first, f"{first.group}: {first.model.strip('`')}", BEST))
    return drawn


def within(curve: Curve) -> tuple[list[float], list[float]]:
    """Ratios and shares, from about three quarters of the training size to five times it."""
    points = sorted((ratio, share) for ratio, share in curve.shares.items() if 0.7 <= ratio <= 5)
    return [ratio for ratio, _ in points], [share for _, share in points]


def name_ends(panel: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names at the ends of lines, on white; of those at one ratio, the lower ones move down until they are apart."""
    lowest: dict[float, float] = {}
    for x, y, name, colour in sorted(ends, key=lambda end: -end[1]):
        lowest[x] = min(y, lowest.get(x, 200) - GAP)
        box = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.85}
        panel.annotate(name, (x, lowest[x]), MOVED.get(name, (5, 0)), textcoords="offset points", va="center",
                       fontsize=8, color=colour, bbox=box, zorder=2.5)  # fmt: skip


def main() -> None:
    curves = [*ours(of_one_size(read_rows(ROWS))), *published(json.loads(CURVES.read_text()))]
    (HERE / "retained.svg").write_bytes(as_bytes(draw(curves), "svg"))


if __name__ == "__main__":
    main()
