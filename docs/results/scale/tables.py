"""Write the tables of docs/scale.md from rows: python docs/results/scale/tables.py, after run.sh."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from cpvt.config import size_label
from cpvt.reporting.markdown import fill, lay_out
from cpvt.reporting.scale_tables import before_after, cells_of, number
from cpvt.reporting.summary import pixels
from cpvt.results.rows import Row, read_rows

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "scale.md"
OBJECT = "(coordinates='object')"
RULES = {
    "": "as published",
    "paper": "as published",
    "protocol": "with scale",
    "fit*0.91": "with scale, times 0.91",
    "fit*0.85": "times 0.85",
    "fit": "trained and tested with scale",
}


def places(rows: Sequence[Row], scaled: Sequence[Row]) -> str:
    """Accuracy on canvases of encodings with coordinates: spread over the training grid, and at s = 1."""
    spread = {(cell.encoding, cell.size): cell for cell in cells_of(rows, "protocol") if cell.protocol == "canvas"}
    lines, sizes = {}, (40, 48, 64, 96)
    for cell in cells_of(scaled, "protocol"):
        lines.setdefault(cell.encoding, {})[cell.size] = cell
    text = {
        f"`{name.replace(OBJECT, '')}`": [
            f"{number(spread.get((name.replace(OBJECT, ''), size)))} → {number(own.get(size))}" for size in sizes
        ]
        for name, own in lines.items()
    }
    return lay_out("canvas, spread → s = 1", [size_label(size) for size in sizes], text)


def by_rule(rows: Sequence[Row], protocol: str) -> str:
    """Accuracy of each encoding, a line for each way of telling."""
    lines, sizes = {}, sorted({row.size for row in rows}, key=pixels)
    for encoding in dict.fromkeys(row.encoding for row in rows):
        for rule, words in RULES.items():
            own = {
                cell.size: cell
                for cell in cells_of(rows, rule)
                if (cell.encoding, cell.protocol) == (encoding, protocol)
            }
            if own:
                lines[f"`{encoding}`, {words}"] = [number(own.get(size)) for size in sizes]
    return lay_out(protocol, [size_label(size) for size in sizes], lines)


def estimates(lines: Sequence[dict]) -> str:
    """How often the estimate over a set is true, and what single images give."""
    table = {}
    for encoding in dict.fromkeys(line["encoding"] for line in lines):
        own = [line for line in lines if line["encoding"] == encoding]
        true = sum(line["estimated"] == line["true"] for line in own)
        cells = [f"{true} of {len(own)}"]
        for protocol in ("resize", "canvas"):
            for what in ("correct_with_true", "correct_auto"):
                cells.append(
                    f"{mean(100 * each[what] / each['images'] for each in own if each['protocol'] == protocol):.1f}"
                )
        worst = min(100 * (each["correct_auto"] - each["correct_with_true"]) / each["images"] for each in own)
        times = [each["times_as_long"] for each in own]
        table[f"`{encoding}`"] = [*cells, f"{worst:+.1f}", f"{min(times):.1f} to {max(times):.1f}"]
    columns = [
        "set of 64: true",
        "resize, true scale",
        "each its own",
        "canvas, true scale",
        "each its own",
        "worst",
        "time",
    ]
    return lay_out("", columns, table)


def main() -> None:
    rows = {name: read_rows(HERE / name / "rows.jsonl") for name in ("digits", "scenes", "imagenette")}
    lines = [json.loads(line) for line in (HERE / "auto.jsonl").read_text().splitlines()]
    tables = {
        "digits resize": before_after(rows["digits"], "resize", (24, 40, 48, 64, 96)),
        "digits canvas": before_after(rows["digits"], "canvas", (40, 48, 64, 96)),
        "coordinates": places(rows["digits"], read_rows(HERE / "digits" / "object-coordinates.jsonl")),
        "scenes resize": by_rule(rows["scenes"], "resize"),
        "scenes canvas": by_rule(rows["scenes"], "canvas"),
        "imagenette": by_rule(rows["imagenette"], "resize"),
        "cifar10": by_rule(read_rows(HERE / "cifar10" / "rows.jsonl"), "resize"),
        "auto": estimates(lines),
    }
    PAGE.write_text(fill(PAGE.read_text(), tables))


if __name__ == "__main__":
    main()
