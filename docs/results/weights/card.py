"""The tables of the card of the weights that come with the package: python docs/results/weights/card.py, after run.sh.

The accuracies are those of rows.jsonl beside this file, the facts those that the package holds beside the weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cpvt.config import size_label
from cpvt.config.legacy import current
from cpvt.models import create_model, describe_models
from cpvt.models.pretrained import CARD, shipped_files, shipped_names
from cpvt.reporting.markdown import NOT_MEASURED, fill, lay_out
from cpvt.reporting.summary import pixels
from cpvt.results.hub import describe_training, describe_versions
from cpvt.results.rows import Row, read_rows
from cpvt.runtime.files import read_json

ROWS = Path(__file__).parent / "rows.jsonl"
MODES = {
    "": "",
    "protocol": ", given the scale",
    "paper": ", without scale",
}  # rule of the scale -> words; "" in rows of before it


def facts(name: str, record: dict[str, Any], size: int) -> str:
    """What the weights are and where they came from, a line each."""
    rounding = current(record["rounding"])
    with torch.device("meta"):
        parameters = sum(each.numel() for each in create_model(name).parameters())
    return lay_out(
        f"`{name}`",
        [""],
        {
            "model": [describe_models()[name].split(";")[0]],
            "parameters": [f"{parameters:,}"],
            "file": [f"{size:,} bytes, float16; in memory float32"],
            "rounding": [
                f"moves logits by up to {rounding['logit']:.1g}, probabilities by up to {rounding['probability']:.1g}, and the "
                f"first class of {rounding['classes']} of {rounding['images']} random images"
            ],
            "classes": [", ".join(record["class_names"])],
            **origin(record),
        },
    )


def origin(record: dict[str, Any]) -> dict[str, list[str]]:
    """How the weights were trained, from the first training on."""
    lines, trainings = {}, [record]
    while earlier := trainings[0].get("started_from"):
        trainings.insert(0, earlier)
    for each, then in zip(trainings, ["", *[", then"] * len(trainings)]):
        came = each["provenance"]
        lines |= {
            f"trained{then}": [describe_training({**each, "training": current(each["training"])})],
            f"command{then} (as recorded)": [f"`{came['command']}`"],
            f"versions{then}": [f"{describe_versions(came)}; {came['machine']}"],
            f"commit{then}": [came["commit"] or "not known"],
        }
    return lines


def accuracy(rows: Sequence[Row]) -> str:
    """Accuracy in percent, a line for each protocol and way to tell the scale, a column for each size."""
    if not rows:
        return NOT_MEASURED
    sizes = sorted({row.size for row in rows}, key=pixels)
    found = {(row.protocol + MODES[row.scale_rule], row.size): f"{100 * row.accuracy:.1f}" for row in rows}
    lines = {
        words: [found.get((words, size), "–") for size in sizes] for words in dict.fromkeys(key[0] for key in found)
    }
    return lay_out(f"of {rows[0].total:,} test images, percent", [size_label(size) for size in sizes], lines)


def tables() -> dict[str, str]:
    """Name of a marker -> what stands there."""
    rows, texts = read_rows(ROWS), {}
    for name in shipped_names():
        files = shipped_files(name)
        texts[f"facts {name}"] = facts(name, read_json(files.record), files.weights.stat().st_size)
        texts[f"accuracy {name}"] = accuracy([row for row in rows if row.model == name])
    return texts


if __name__ == "__main__":
    CARD.write_text(fill(CARD.read_text(), tables()))
