"""Write the tables of docs/retrofit.md from rows: python docs/results/retrofit/tables.py, after run.sh or imagenette.sh.

rows.jsonl: photographs of scenes. imagenette/WAY.jsonl: a way to train on, with PEGs and without, on Imagenette.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cpvt.config import size_label
from cpvt.experiments.finetune import BEFORE, CONTROL
from cpvt.reporting.contrasts import Contrasts
from cpvt.reporting.markdown import NOT_MEASURED, fill, lay_out
from cpvt.reporting.summary import as_markdown, pixels, summarise
from cpvt.results.rows import Row, read_rows

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "retrofit.md"
WAYS = {  # file in imagenette/ -> words
    "one": "at 64, 6 epochs",
    "several": "at 64, 96, 128, 6 epochs",
    "longer": "at 64, 96, 128, 12 epochs",
}


def named(rows_of: Mapping[str, Sequence[Row]]) -> list[Row]:
    """The rows of all ways to train on; the words of its way follow the name of each model that was trained on."""
    return [
        replace(row, encoding=row.encoding if row.encoding == BEFORE else f"{row.encoding}, {words}")
        for words, rows in rows_of.items()
        for row in rows
    ]


def accuracy(rows_of: Mapping[str, Sequence[Row]]) -> str:
    """Accuracy in percent: mean and standard deviation over seeds, the best of each size in bold."""
    rows = named(rows_of)
    return as_markdown(summarise(rows), "resize") if rows else NOT_MEASURED


def gains(rows_of: Mapping[str, Sequence[Row]]) -> str:
    """With PEGs minus without, trained on in the same way: points on the same images, with 95 % intervals."""
    rows = named(rows_of)
    sizes = sorted({row.size for row in rows}, key=pixels)
    contrast, lines = Contrasts(rows, "resize"), {}
    for words, own in rows_of.items():
        for encoding in dict.fromkeys(row.encoding for row in own if row.encoding not in (BEFORE, CONTROL)):
            pairs = [(f"{encoding}, {words}", f"{CONTROL}, {words}", size) for size in sizes]
            found = [contrast({(peg, size): 1, (control, size): -1}) for peg, control, size in pairs]
            lines[f"{encoding}, {words}"] = ["–" if each is None else str(each) for each in found]
    return lay_out("PEG − control, points", [size_label(size) for size in sizes], lines) if lines else NOT_MEASURED


def tables() -> dict[str, str]:
    """Name of a marker -> what stands there."""
    ways = {
        words: read_rows(path) for name, words in WAYS.items() if (path := HERE / f"imagenette/{name}.jsonl").exists()
    }
    return {
        "scenes": as_markdown(summarise(read_rows(HERE / "rows.jsonl")), "resize"),
        "imagenette": accuracy(ways),
        "gains": gains(ways),
    }


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(), tables()))
