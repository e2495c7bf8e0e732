"""The tables of docs/positions.md: python docs/results/positions/tables.py RUNS, after run.sh has measured all.

Keeps the probe_results that the tables are made of in findings.json beside this file; without RUNS the tables are made from it.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from cpvt.reporting.markdown import lay_out
from cpvt.results.probe_results import read_probe_results
from cpvt.results.rows import read_rows

HERE = Path(__file__).parent
SIX = ("none", "learned", "sincos", "relative", "rope", "peg")
PADDINGS = (
    "none",
    "peg",
    "peg_padding_mode=_reflect",
    "peg_padding_mode=_replicate",
    "peg_padding_mode=_circular",
    "valid",
)
PLACES = ("none", "peg_at=_0", "peg", "peg_at=_1_2", "peg5", "peg_kernel_size=7")
WORDS = {
    "peg_padding_mode=_reflect": "reflect", "peg_padding_mode=_replicate": "replicate", "peg_padding_mode=_circular": "circular",
    "valid": "none: valid, cropped", "peg_at=_0": "before block 1", "peg_at=_1_2": "after 1, 2", "peg_kernel_size=7": "after 1, 7x7",
}  # fmt: skip
ROW_NAMES = {"valid": "peg, valid"}  # of a run -> how rows call it


class Measure(NamedTuple):
    """A number of one probe."""

    words: str
    probe: str
    measure: str
    case: str = ""
    images: str = "noise"
    depth: int | None = None  # None: the last
    size: int | None = None


PROBES = (
    Measure("order: logits move by", "order", "logit change"),
    Measure("order: predictions that change, digits", "order", "predictions changed", "", "natural"),
    Measure("shift by a patch, circular: tokens off by", "translation", "token error", "circular, 1 patch"),
    Measure("shift by a patch, on a canvas: tokens off by", "translation", "token error", "canvas, 1 patch"),
    Measure(
        "shift by a patch, on a canvas: same prediction", "translation", "same prediction", "canvas, 1 patch", "natural"
    ),
    Measure(
        "shift by a pixel, on a canvas: same prediction", "translation", "same prediction", "canvas, 1 pixel", "natural"
    ),
    Measure("accuracy on that canvas, not shifted", "translation", "accuracy", "canvas, not shifted", "natural"),
    Measure("row and column, R²", "position", "r2"),
    Measure("row and column, R², after block 1", "position", "r2", depth=1),
    Measure("row and column, R², readout moved to 64 pixels", "longer", "r2", "scaled", size=64),
    Measure("left to right (Islam et al.), SPC", "islam", "spearman", "H, fitted on noise"),
    Measure("left to right (Islam et al.), MAE", "islam", "mae", "H, fitted on noise"),
    Measure("attention: mean distance / uniform", "attention", "relative distance", "", "natural"),
)
DEPTHS = tuple(Measure(f"R², depth {depth}", "position", "r2", depth=depth) for depth in range(5))
TESTS = (("canvas", 32), ("canvas", 64), ("canvas", 96), ("resize", 24), ("resize", 48))


def collect(runs: Path) -> dict[str, Any]:
    """Model -> baseline -> words of a measure -> a value for each seed."""
    found: dict[str, Any] = {}
    for folder in sorted((runs / "probes").glob("*-seed?")):
        for probe_result in read_probe_results(folder / "findings.jsonl"):
            name, seed = re.fullmatch(r"(.*?)(?:-cls)?-seed(\d)", Path(probe_result.model).name).groups()
            for each in (*PROBES, *DEPTHS):
                what = (each.probe, each.measure, each.case, each.images)
                if (
                    probe_result.probe,
                    probe_result.measure,
                    probe_result.case,
                    probe_result.images,
                ) != what or probe_result.value is None:
                    continue
                if each.depth not in (None, probe_result.depth) or each.size not in (None, probe_result.size):
                    continue  # of several depths the last one is kept
                found.setdefault(name, {}).setdefault(probe_result.baseline, {}).setdefault(each.words, {})[seed] = (
                    probe_result.value
                )
    return found


def box(values: list[float], digits: int = 2) -> str:
    """Mean and standard deviation over seeds."""
    if not values:
        return "–"
    text = f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")
    return text.replace("-0.00", "0.00") if mean(values) > -0.005 else text


def table(title: str, columns: tuple[str, ...], lines: dict[str, Callable[[str], str]], **called: str) -> str:
    """A line for each entry of `lines`, which says what stands in each column."""
    heads = [{**WORDS, **called}.get(name, name) for name in columns]
    return lay_out(title, heads, {words: [say(name) for name in columns] for words, say in lines.items()})


def draw(found: dict[str, Any], rows: list[Any], run_of: Callable[[str], str]) -> None:
    """Accuracy against canvas size beside R² by depth, for each padding."""
    from matplotlib.figure import Figure

    from cpvt.reporting.figures import as_bytes

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in zip(PADDINGS, ("#8c8c8c", "#d55e00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7")):
        label = {"none": "no PEG", "peg": "zeros"}.get(name, WORDS.get(name, name))
        sizes = (32, 48, 64, 96)
        accuracies = [[100 * row.accuracy for row in rows if (row.protocol, row.size) == ("canvas", size) and run_of(row.encoding) == name]
                      for size in sizes]  # fmt: skip
        readings = [list(found[name]["model"][each.words].values()) for each in DEPTHS]
        for panel, x, values in ((left, sizes, accuracies), (right, range(5), readings)):
            panel.plot(x, [mean(each) for each in values], "o-", color=colour, label=label, ms=4)
            panel.fill_between(
                x, [min(each) for each in values], [max(each) for each in values], color=colour, alpha=0.12, lw=0
            )
    left.set(xlabel="canvas, pixels (trained at 32)", ylabel="accuracy, %", xticks=sizes, ylim=(0, 102))
    right.set(
        xlabel="depth (1: after block 1 and its PEG)", ylabel="R² of row and column, noise images", xticks=range(5)
    )
    left.legend(title="padding of the PEG", frameon=False, fontsize=9)
    for panel in (left, right):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#eeeeee")
    (HERE / "padding.svg").write_bytes(as_bytes(figure, "svg"))


def main(runs: Path | None) -> None:
    if runs is not None:
        (HERE / "findings.json").write_text(json.dumps(collect(runs), indent=1) + "\n")
    found, rows = json.loads((HERE / "findings.json").read_text()), read_rows(HERE / "rows.jsonl")

    def probed(words: str, baseline: str = "model") -> Callable[[str], str]:
        return lambda name: box(list(found.get(name, {}).get(baseline, {}).get(words, {}).values()))

    def tested(protocol: str, size: int) -> Callable[[str], str]:
        def say(name: str) -> str:
            mine = [
                100 * row.accuracy
                for row in rows
                if (row.protocol, row.size) == (protocol, size) and run_of(row.encoding) == name
            ]
            return box(mine, 1)

        return say

    def run_of(encoding: str) -> str:
        named = {row_name: run for run, row_name in ROW_NAMES.items()}
        return named.get(encoding, re.sub(r"[^A-Za-z0-9.+=-]+", "_", encoding).strip("_"))

    accuracy = {f"accuracy, {protocol} {size}, %": tested(protocol, size) for protocol, size in TESTS}
    depths = {each.words: probed(each.words) for each in DEPTHS}
    nulls = {f"{each.words}, untrained": probed(each.words, "untrained") for each in DEPTHS[1::3]}
    six: dict[str, Callable[[str], str]] = {}
    for each in PROBES:
        six[each.words] = probed(each.words)
        if each.measure not in ("accuracy", "same prediction", "predictions changed"):
            six[f"– {each.words}, untrained"] = probed(each.words, "untrained")
    draw(found, rows, run_of)
    tables = [
        table("probe", SIX, {**six, **accuracy}),
        table(
            "padding of one PEG after block 1", PADDINGS, {**accuracy, **depths, **nulls}, none="no PEG", peg="zeros"
        ),
        table("where, how many, how large", PLACES, {**accuracy, **depths}),
    ]
    (HERE / "tables.md").write_text("\n\n".join(tables) + "\n")
    print((HERE / "tables.md").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
