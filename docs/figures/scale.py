"""Draw scale.svg, the idea of docs/scale.md: python docs/figures/scale.py."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpvt.reporting.figures import as_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OBJECT = ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1))  # a cross, in tokens of the training size
TITLES = (
    "training: a cross of 3 x 3 tokens",
    "twice as large, PEG as published: it sees a part",
    "given scale 2: it sees the cross",
)


def draw() -> "Figure":
    """Three grids of tokens, an object on each, and the nine tokens that a PEG reads around one of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    for panel, title, size, step in zip(figure.subplots(1, 3), TITLES, (1, 2, 2), (1, 1, 2)):
        grid(panel, 5 * size, size, step)
        panel.set_title(title, fontsize=10)
    return figure


def grid(panel: Any, side: int, size: int, step: int) -> None:
    """Tokens as squares: those of the object dark; the places that PEG reads for one token as circles."""
    from matplotlib.patches import Circle, Rectangle

    filled = {(size * (row + 1) + down, size * (column + 1) + across)
              for row, column in OBJECT for down in range(size) for across in range(size)}  # fmt: skip
    for row in range(side):
        for column in range(side):
            colour = "#0072b2" if (row, column) in filled else "#eef2f5"
            panel.add_patch(Rectangle((column, row), 0.94, 0.94, color=colour, lw=0))
    middle = 2 * size
    for down in (-step, 0, step):
        for across in (-step, 0, step):
            own = (down, across) == (0, 0)
            at = (middle + across + 0.47, middle + down + 0.47)
            panel.add_patch(Circle(at, 0.3, fill=own, color="#d55e00", lw=1.8))
    panel.set_xlim(-0.1, side), panel.set_ylim(side, -0.1)
    panel.set_aspect("equal")
    panel.set_axis_off()


if __name__ == "__main__":
    (Path(__file__).parent / "scale.svg").write_bytes(as_bytes(draw(), "svg"))
