"""Measure examples/dense_prediction.py: python docs/figures/dense.py writes dense.jsonl and dense.png in an hour."""

import json
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "examples"))
import dense_prediction as dense  # noqa: E402

ENCODINGS, SEEDS = ("peg5", "peg", "rope", "learned", "none"), (0, 1, 2)
SIDES, PICTURES = (64, 96, 128, 192), (64, 192)
TESTS = {  # column: canvas side, zoom, object scale
    **{f"canvas {side}": (side, 1, "pixels") for side in SIDES},
    "64 shown in 128, no scale": (64, 2, "pixels"),
    "64 shown in 128, scale=2": (64, 2, 2.0),
}
COLOURS = dict(zip(ENCODINGS, ("#d55e00", "#e69f00", "#0072b2", "#009e73", "#777777")))


def measure(job: tuple[str, int]) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Train one model; its scores, and what it says of a canvas of each side in PICTURES."""
    torch.set_num_threads(1)
    encoding, seed = job
    model = dense.train(encoding, seed)
    scores = {name: dense.mean_iou(model, *test) for name, test in TESTS.items()}
    with torch.inference_mode():
        found = [model(example(side)[0]).argmax(1)[0] for side in PICTURES]
    return {"encoding": encoding, "seed": seed, **scores}, found


def example(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The canvas that the figure shows."""
    return dense.draw(1, side, dense.TEST, torch.Generator().manual_seed(1))


def table(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds with the smallest and the largest, as Markdown."""
    lines = [f"| mean IoU, % | {' | '.join(TESTS)} | seeds |", "|---" + "|---:" * (len(TESTS) + 1) + "|"]
    for encoding in ENCODINGS:
        mine = [row for row in rows if row["encoding"] == encoding]
        values = [[100 * row[name] for row in mine] for name in TESTS]
        cells = [f"{statistics.mean(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in values]
        lines.append(f"| `{encoding}` | {' | '.join(cells)} | {len(mine)} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], found: dict[str, list[torch.Tensor]]) -> Any:
    """Canvas, truth and predictions at the training size and at three times, and mean IoU by size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.4), layout="constrained")
    panels = figure.subplot_mosaic([["0a", "0b", "0c", "0d", "."], ["1a", "1b", "1c", "1d", "."]],
                                   width_ratios=(1, 1, 1, 1, 2.1))  # fmt: skip
    curve = figure.add_subplot(panels["0a"].get_subplotspec().get_gridspec()[:, 4])
    for line, side in enumerate(PICTURES):
        image, truth = example(side)
        shown = {"canvas": image[0, 0], "truth": truth[0], **{name: each[line] for name, each in found.items()}}
        for (name, pixels), letter in zip(shown.items(), "abcd"):
            panel = panels[f"{line}{letter}"]
            style: dict[str, Any] = dict(cmap="gray") if name == "canvas" else dict(cmap="tab20", vmin=0, vmax=19)
            coloured = pixels.float() if name == "canvas" else torch.where(pixels > 0, pixels.float(), torch.nan)
            panel.imshow(coloured, interpolation="nearest", **style)
            panel.set_facecolor("black")
            panel.set_xticks([]), panel.set_yticks([])
            panel.set_title(name if name in ("canvas", "truth") else f"{name}, predicted", fontsize=10)
        panels[f"{line}a"].set_ylabel(f"{side} pixels" + (", as in training" if line == 0 else ""))
    for encoding in ENCODINGS:
        values = [[row[f"canvas {side}"] for row in rows if row["encoding"] == encoding] for side in SIDES]
        curve.plot(SIDES, [statistics.mean(each) for each in values], "o-", color=COLOURS[encoding], label=encoding)
        low, high = [min(each) for each in values], [max(each) for each in values]
        curve.fill_between(SIDES, low, high, color=COLOURS[encoding], alpha=0.15, lw=0)
    curve.set(xlabel="side of the canvas, pixels (trained at 64)", ylabel="mean IoU", xticks=SIDES, ylim=(0, 1))
    curve.legend(frameon=False), curve.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Train all, write the numbers and the figure, print the table."""
    jobs = [(encoding, seed) for seed in SEEDS for encoding in ENCODINGS]
    with ProcessPoolExecutor(2) as pool:
        results = dict(zip(jobs, pool.map(measure, jobs)))
    rows = [row for row, _ in results.values()]
    (HERE / "dense.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figure = draw(rows, {name: results[name, 0][1] for name in ("peg5", "learned")})
    figure.savefig(HERE / "dense.png", dpi=90)
    print(table(rows))


if __name__ == "__main__":
    main()
