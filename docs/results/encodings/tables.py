"""Write the tables of docs/encodings.md from rows: python docs/results/encodings/tables.py, after run.sh."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cpvt.encodings import TABLE, describe_encodings
from cpvt.encodings.text import split_encoding
from cpvt.reporting.markdown import fill, lay_out
from cpvt.reporting.summary import Cell, summarise
from cpvt.results.rows import Row, read_rows

HERE = Path(__file__).parent
PAGE, COST = HERE.parents[1] / "encodings.md", HERE.parents[2] / "benchmarks" / "results" / "encodings.json"
COLUMNS = [("resize", 24), ("resize", 32), ("resize", 48), ("resize", 64), ("resize", 96),
           ("canvas", 48), ("canvas", 64), ("canvas", 96)]  # fmt: skip
Cells = Mapping[tuple[str, str, int], Cell]  # (encoding, protocol, size)


class About(NamedTuple):
    """What a reader wants to know of an encoding and no program can tell."""

    formula: str
    quoted: str  # what its paper, or another, says of larger sizes
    choose: str


LOOKHERE = "LookHere's table 1 (ViT-B/16, ImageNet, 224 / 384 / 512 / 1024)"
RESFORMER = "ResFormer's table 5 (S, trained at 128, 160 and 224, tested there)"
ABOUT = {
    "none": About("–", "–", "as the control"),
    "learned": About(
        "x + table[p]", f"{LOOKHERE}: 79.5 / 79.0 / 75.9 / 55.7", "at the training size; to take DeiT's weights"
    ),
    "factorized": About("x + e(row) + e(column)", f"{LOOKHERE}: 79.9 / 78.6 / 75.0 / 50.5", "to take NaViT's weights"),
    "fourier": About(
        "x + MLP([cos Wp, sin Wp] / √D)", f"{LOOKHERE}: 79.7 / 78.9 / 75.7 / 54.6", "for coordinates off a grid"
    ),
    "sincos": About("x + sines and cosines of p", f"{LOOKHERE}: 79.1 / 78.6 / 75.4 / 53.7", "beside a PEG"),
    "relative": About(
        "logit + table[p_j − p_i]",
        f"{LOOKHERE}, a table as BEiT's, interpolated: 79.9 / 78.0 / 72.6 / 36.8",
        "at the training size",
    ),
    "cpb": About(
        "logit + 16 σ(MLP(± log(1 + 8 abs(p_j − p_i) / (W − 1))))",
        f"{RESFORMER}: 77.6 / 79.8 / 81.7",
        "as a learned bias: the best of those here on canvases; to take Swin v2's",
    ),
    "fire": About(
        "logit + MLP(log(1 + c d) / log(1 + c max(L, d_max)))",
        "a submission under review (ViT-Ti, ImageNet-100, 224 → 1024): 63.1, where RoPE has 18.9",
        "not for a class token alone: distances show no directions",
    ),
    "irpe": About(
        "logit + q_i · r[bucket(p_i − p_j)]",
        "LookHere's table 7 (iRPE's weights, 224 / 384 / 512 / 1024): 80.5 / 81.5 / 79.9 / 60.3",
        "at the training size, where memory is no matter",
    ),
    "alibi": About(
        "logit − m_h ‖p_j − p_i‖",
        f"{LOOKHERE}, slopes tuned for each size: 79.5 / 80.4 / 78.9 / 63.6",
        "beside a PEG: `alibi+peg` lost least on canvases",
    ),
    "lookhere": About(
        "as `alibi`, −∞ outside each head's field of view",
        f"{LOOKHERE}, 180 and 45 degrees: 81.3 / 82.4 / 81.1 / 69.2 and 81.1 / 82.4 / 81.6 / 73.2",
        "with `view=45`: nothing learned, and the best here on canvases without a convolution",
    ),
    "rope": About(
        "q, k rotated by p · 100^(−i / (d / 4))",
        f"{LOOKHERE}, places 0, 1, 2, ... and the base tuned for each size: 80.4 / 81.2 / 79.2 / 51.4",
        "beside a PEG where the same image comes in more pixels",
    ),
    "rope_mixed": About(
        "q, k of each block and head rotated by θ_y y + θ_x x, θ learned",
        "RoPE-ViT's figure (B, ImageNet, 224 / 384 / 512): 83.4 / 84.4 / 82.9, axial 83.6 / 83.9 / 82.0",
        "instead of `rope` where the same image comes in more pixels",
    ),
    "rope_dino": About(
        "q, k rotated by 2π c / 100^(i / (d / 4)), c from −1 to 1, jittered",
        "–",
        "instead of `rope` where the view grows; to take DINOv3's",
    ),
    "lepe": About("attention + dw3×3(V) in each block", "–", "first, given the scale: it held here both ways"),
    "glpe": About(
        "x + dw3×3(sines, cosines); attention + dw3×3(V)",
        f"{RESFORMER}: 78.2 / 80.4 / 82.2",
        "where several sizes are trained",
    ),
    "peg": About(
        "x + dw3×3(x) after block 1",
        "LookHere's table 7 (Twins-PCPVT-S of timm, 224 / 384 / 512 / 1024): 80.9 / 80.9 / 78.5 / 58.7, without scale",
        "given the scale; one layer, in any model",
    ),
    "peg5": About(
        "the same after blocks 1 to 5",
        "CPVT's table 8: +1.0 at 224, +0.5 at 512 over one",
        "given the scale, where attention is to stay as it is",
    ),
}


def cells_of(rows: Sequence[Row], rule: str) -> Cells:
    """The cells of rows with a class token that were under one scale rule."""
    own = [row for row in rows if row.scale_rule == rule and row.pool == "cls"]
    return {(cell.encoding, cell.protocol, cell.size): cell for cell in (summarise(own) if own else [])}


def number(cell: Cell | None) -> str:
    """Mean and standard deviation over seeds."""
    if cell is None:
        return "–"
    return f"{cell.mean:.1f}" if cell.deviation is None else f"{cell.mean:.1f} ± {cell.deviation:.1f}"


def accuracy(cells: Cells, names: Sequence[str]) -> str:
    """A line for each encoding; the best of each column in bold."""
    best = {place: max(cells[(name, *place)].mean for name in names if (name, *place) in cells) for place in COLUMNS}
    lines = {}
    for name in names:
        own = [(cells.get((name, *place)), best[place]) for place in COLUMNS]
        lines[f"`{name}`"] = [f"**{number(cell)}**" if cell and cell.mean == top else number(cell) for cell, top in own]
    return lay_out("", [f"{protocol} {size}" for protocol, size in COLUMNS], lines)


def retained(cells: Cells, name: str) -> str:
    """What is left of the accuracy at 32 at two and three times the size, percent: resize, then canvas."""
    texts = []
    for protocol in ("resize", "canvas"):
        own = [cells.get((name, protocol, size)) for size in (32, 64, 96)]
        if None in own:
            return "–"
        first, *larger = (cell.mean for cell in own if cell is not None)
        texts.append(" / ".join(f"{100 * mean / first:.0f}" for mean in larger))
    return f"{cells[name, 'resize', 32].mean:.1f}; {texts[0]}; {texts[1]}"


def costs() -> dict[str, list[str]]:
    """Time of a forward relative to none at 224 and 1024 pixels, and what it adds to the peak memory at 1024."""
    if not COST.exists():
        return {}
    figures = {figure["what"]: figure for figure in json.loads(COST.read_text())["figures"]}
    memory = "peak memory of a forward with {}, one image of 1024x1024"
    base, found = figures[memory.format("none")]["value"], {}
    for name in (each for each in TABLE if memory.format(each) in figures):
        ratios = [figures.get(f"forward with {name} / none, {size}") for size in ("224, batch 8", "1024, batch 1")]
        times = ["1" if each is None else with_range(each) for each in ratios]
        found[name] = [*times, f"{figures[memory.format(name)]['value'] - base:+.0f} MiB"]
    return found


def with_range(figure: Mapping[str, Any]) -> str:
    """A ratio and the range of its rounds; of one round there is none."""
    spread = f" ({figure['low']:.2f} to {figure['high']:.2f})" if figure["rounds"] > 1 else ""
    return f"{figure['value']:.2f}{spread}"


def overview(rows: Sequence[Row], cells: Cells) -> str:
    """A line for each encoding of the package."""
    parameters = {row.encoding: row.parameters for row in rows if row.pool == "cls"}
    ideas, cost, lines = describe_encodings(), costs(), {}
    for name in (each for each in TABLE if each in parameters):
        about = ABOUT.get(name, About("–", "–", "–"))
        more = f"{parameters[name] - parameters['none']:+,}"
        time = " / ".join(each.split(" ")[0] for each in cost[name][:2]) if name in cost else "–"
        price = f"{more} parameters; time {time}; {cost[name][2] if name in cost else '–'}"
        lines[f"`{name}`"] = [ideas[name], about.formula, price, retained(cells, name), about.quoted, about.choose]
    columns = ["idea", "formula", "cost", "held here", "its paper, or another", "choose it"]
    return lay_out("", columns, lines).replace("---:", "---")


def options(rows: Sequence[Row], cells: Cells, scaled: Cells) -> str:
    """Each option below the encoding without it."""
    lines = {}
    for name in dict.fromkeys(row.encoding for row in rows):
        plain = split_encoding(name)[0][0]
        for each, found in ((plain, scaled), (name, cells)):
            lines.setdefault(f"`{each}`", [number(found.get((each, *place))) for place in COLUMNS])
    order = {name: place for place, name in enumerate(TABLE)}
    lines = dict(sorted(lines.items(), key=lambda line: (order[line[0].strip("`").split("(")[0]], "(" in line[0])))
    return lay_out("", [f"{protocol} {size}" for protocol, size in COLUMNS], lines)


def main() -> None:
    rows, more = (read_rows(HERE / name / "rows.jsonl") for name in ("digits", "options"))
    scaled, unscaled = cells_of(rows, "protocol"), cells_of(rows, "paper")
    names = list(dict.fromkeys(name for name, *_ in scaled))
    lines = {f"`{name}`": each for name, each in costs().items()}
    tables = {
        "encodings": overview(rows, scaled),
        "with scale": accuracy(scaled, names),
        "without scale": accuracy(unscaled, names),
        "options": options(more, cells_of(more, "protocol"), scaled),
        "cost": lay_out("", ["forward at 224 / none", "at 1024 / none", "peak memory at 1024"], lines),
    }
    PAGE.write_text(fill(PAGE.read_text(), tables))


if __name__ == "__main__":
    main()
