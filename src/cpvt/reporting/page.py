"""The page of a comparison: one self-contained HTML file, with its figures and tables beside it as files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import median
from string import Template
from typing import Any

import numpy as np

from cpvt.config import Size
from cpvt.config.legacy import current
from cpvt.findings import RECORD
from cpvt.reporting.curves import CURVES, curves_figure, gather_curves, keep_curves
from cpvt.reporting.figures import PROTOCOL_WORDS, accuracy_figure, as_bytes, attention_figure
from cpvt.reporting.pairs import paired_differences
from cpvt.reporting.probes import report_probes
from cpvt.reporting.sections import curves_section, inline, pairs_section, sizes_section
from cpvt.reporting.summary import BASELINE, Cell, as_csv, pixels, protocol_words, size_label, summarise, tabulate
from cpvt.results import Row, read_json, read_rows, replacing

DIFFERENCE = (
    f", then the paired difference to <i>{BASELINE}</i> in points with its 95 % interval (Student's t over seeds; none for a "
    "single seed)"
)
PAGE, SUMMARY = "report.html", "summary.csv"


@dataclass(frozen=True)
class Material:
    """All that a page is made of."""

    rows: list[Row]
    cells: list[Cell]
    record: dict[str, Any] | None  # compare.json: configuration and provenance
    looks: list[dict[str, Any]]  # looks.json: parameters, speed, attention of each model
    curves: bytes | None  # the figure of the trainings, as svg


def report(*folders: str | Path, out: str | Path | None = None) -> Path:
    """Draw the page of a comparison, or of the rows in one or several folders; returns the path of the HTML file.

    Writes report.html, summary.csv, accuracy.svg and .png, attention.png where attention was saved, and curves.svg where
    there are trainings, into `out`, by default the first folder; of one folder also curves.jsonl, the curves of its
    trainings, which outlive runs/. Where models were probed it writes probes.html there too, and returns that where
    there is nothing else. Raises ValueError where a folder holds neither rows nor findings.
    """
    rows, single = gather(folders), Path((*folders, ".")[0])
    probes = report_probes(*folders, out=out)
    if not rows and probes is not None:
        return probes
    folder = Path(out or single)
    record: dict[str, Any] | None = None
    looks: list[dict[str, Any]] = []
    if len(folders) == 1:
        record = read_json(single / "compare.json") if (single / "compare.json").exists() else None
        looks = read_json(single / "looks.json") if (single / "looks.json").exists() else []
    material = Material(rows, summarise(rows), record, looks, _curves(folders, folder))
    accuracy = accuracy_figure(material.cells, _train_sizes(rows))
    svg = as_bytes(accuracy, "svg")
    _write(folder / "accuracy.svg", svg)
    _write(folder / "accuracy.png", as_bytes(accuracy, "png"))
    attention = _attention(single, folder, looks)
    _write(folder / SUMMARY, as_csv(material.cells).encode())
    _write(folder / PAGE, _page(material, svg, attention).encode())
    return folder / PAGE


def gather(folders: Sequence[str | Path]) -> list[Row]:
    """The rows of all folders; ValueError for a folder with neither rows nor findings."""
    if not folders:
        raise ValueError("say which folders' rows to report on")
    rows: list[Row] = []
    for folder in map(Path, folders):
        found = read_rows(folder / "rows.jsonl")
        if not found and not (folder / RECORD).exists():
            raise ValueError(
                f"'{folder}' holds no rows: expected rows.jsonl, as `cpvt compare` or `cpvt sweep` writes it"
            )
        rows += found
    return list({(row.key, row.way): row for row in rows}.values())


def _curves(folders: Sequence[str | Path], out: Path) -> bytes | None:
    epochs = gather_curves(folders)
    if not epochs:
        return None
    if len(folders) == 1:
        keep_curves(out / CURVES, epochs)
    svg = as_bytes(curves_figure(epochs), "svg")
    _write(out / "curves.svg", svg)
    return svg


def _attention(folder: Path, out: Path, looks: Sequence[dict[str, Any]]) -> bytes | None:
    if not looks:
        return None
    maps = [np.load(folder / "arrays" / f"attention-{look['name']}.npy") for look in looks]
    sample = np.load(folder / "arrays" / "sample.npy")
    png = as_bytes(attention_figure(looks, maps, sample), "png")
    _write(out / "attention.png", png)
    return png


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def _page(material: Material, accuracy_svg: bytes, attention_png: bytes | None) -> str:
    template = Template(files("cpvt.reporting").joinpath("page.html").read_text())
    protocols = list(dict.fromkeys(cell.protocol for cell in material.cells))
    ours = all(row.pool for row in material.rows)
    return template.substitute(
        what="positional encoding" if ours else "model",
        styles="Solid: class token. Dashed: global average pooling (gap). " if ours else "",
        difference=DIFFERENCE if any(cell.difference is not None for cell in material.cells) else "",
        subtitle=escape(_subtitle(material.rows)),
        accuracy=inline(accuracy_svg),
        tables="\n".join(_accuracy_table(material.cells, protocol) for protocol in protocols),
        pairs=pairs_section(paired_differences(material.rows)),
        sizes=sizes_section(material.cells),
        curves=curves_section(material.curves),
        cost=_cost_table(material),
        attention=_attention_section(material.looks, attention_png),
        how=_how(material),
    )


def _train_sizes(rows: Sequence[Row]) -> list[Size]:
    return sorted({row.train_size for row in rows if row.train_size}, key=pixels)


def _subtitle(rows: Sequence[Row]) -> str:
    seeds, models = sorted({row.seed for row in rows}), list(dict.fromkeys(row.model for row in rows))
    sizes = ", ".join(map(size_label, _train_sizes(rows)))
    trained = f" trained at {sizes} pixels and" if sizes else ""
    return (
        f"{', '.join(models)},{trained} tested on {max(row.total for row in rows)} pictures of "
        f"{', '.join(dict.fromkeys(row.data for row in rows))} at sizes never seen in training; "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})."
    )


def _accuracy_table(cells: Sequence[Cell], protocol: str) -> str:
    sizes, best, table = tabulate(cells, protocol)
    lines = [
        f"<tr><th scope=row>{escape(label)}</th>{''.join(_box(cell, best) for cell in line)}</tr>"
        for label, line in table.items()
    ]
    head = "".join(f"<th scope=col>{size_label(size)}</th>" for size in sizes)
    fill = {cell.size: cell.fill for line in table.values() for cell in line if cell is not None}
    fills = ", ".join(f"{size_label(size)}: {fill[size]:.0%}" for size in sizes)
    refusals = dict.fromkeys((cell.label, cell.refused) for cell in cells if cell.refused and cell.protocol == protocol)
    refused = "".join(
        f"<p class=note>{escape(label)} refused, in its own words: {escape(words)}</p>" for label, words in refusals
    )
    note = f"<p class=note>Share of the canvas that is fill — {fills}.</p>" if any(fill.values()) else ""
    return (
        f"<h3>{escape(PROTOCOL_WORDS.get(protocol, protocol))}</h3>"
        f"<div class=scroll><table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>{note}{refused}"
    )


def _box(cell: Cell | None, best: dict[Size, float]) -> str:
    if cell is None:
        return "<td>–</td>"
    spread = f"<span class=sd> ± {cell.deviation:.1f}</span>" if cell.deviation is not None else ""
    small = [f"keeps {cell.kept:.0f} %"] if cell.kept is not None else []
    if cell.difference is not None:
        interval = f" [{cell.interval[0]:+.1f}, {cell.interval[1]:+.1f}]" if cell.interval else ""
        small.append(f"{cell.difference:+.1f}{interval}")
    if cell.refused:
        return f"<td title='{escape(cell.refused, quote=True)}'><i>refused</i></td>"
    mark = " class=best" if cell.mean == best[cell.size] else ""
    return f"<td{mark}><b>{cell.mean:.1f}</b>{spread}<br><small>{'<br>'.join(small)}</small></td>"


def _cost_table(material: Material) -> str:
    """Depths and parameters, and where speeds were taken, those."""
    looks = {(look["encoding"], look["pool"]): look for look in material.looks}
    baseline = looks.get((BASELINE, "cls"))
    lines = []
    for cell in {(cell.encoding, cell.pool): cell for cell in material.cells}.values():
        depths = ", ".join(map(str, cell.at)) or ("–" if cell.encoding == "none" or not cell.pool else "in attention")
        cells = f"<td>{depths}</td><td>{cell.parameters:,}</td>"
        if looks:
            cells += _speed_cells(looks.get((cell.encoding, cell.pool)), baseline)
        lines.append(f"<tr><th scope=row>{escape(cell.label)}</th>{cells}</tr>")
    speeds = f"<th>pictures a second, forward</th><th>relative to {BASELINE}</th>" if looks else ""
    note = (
        "<p>Speeds were taken in turn, so that every model met the same machine; the range is over the turns.</p>"
        if looks
        else ""
    )
    return (
        f"{note}<div class=scroll><table><thead><tr><th></th><th>depths that touch tokens</th><th>parameters</th>{speeds}"
        f"</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _speed_cells(look: dict[str, Any] | None, baseline: dict[str, Any] | None) -> str:
    speed = ratio = "–"
    if look:
        rates = look["pictures_per_second"]
        speed = f"{median(rates):.0f} <small>({min(rates):.0f} to {max(rates):.0f})</small>"
        if baseline:
            ratios = [mine / theirs for mine, theirs in zip(rates, baseline["pictures_per_second"])]
            ratio = f"{median(ratios):.2f} <small>({min(ratios):.2f} to {max(ratios):.2f})</small>"
    return f"<td>{speed}</td><td>{ratio}</td>"


def _attention_section(looks: Sequence[dict[str, Any]], png: bytes | None) -> str:
    if png is None:
        return ""
    data = base64.b64encode(png).decode()
    return (
        f"<h2>What each encoding makes of one sample</h2><p>Attention of block {looks[0]['block']}, averaged over heads: "
        "every small map shows where the token standing there looks (a row of the N × N matrix, bright is much). "
        "A bright spot that moves with the tile is locality; identical tiles mean that the token does not know where "
        f'it stands.</p><img alt="attention maps" src="data:image/png;base64,{data}">'
    )


def _how(material: Material) -> str:
    row = material.rows[0]
    facts = {
        "Resize": f"crop ratio {row.crop_ratio:g}, {row.interpolation}; zero-shot, nothing is fine-tuned at a test size",
        "Canvas": "own scale; cut from the middle when larger, else at a seeded place on zeros (after normalisation)",
        "Skipped": f"{max(row.skipped for row in material.rows)} pictures did not decode; "
        f"{max(row.shrunk for row in material.rows)} were shrunk to the longest side allowed",
    }
    facts |= protocol_words(material.rows)
    if material.record:
        config, origin = current(material.record["config"]), material.record["provenance"]
        facts["Recipe"] = ", ".join(f"{name} {_plain(value)}" for name, value in config["optim"].items())
        facts["Commands"] = "\n".join(material.record["commands"])
        facts["Versions"] = ", ".join(f"{name} {number}" for name, number in origin["versions"].items())
        facts["Commit"] = origin["commit"] or "not run from a checkout"
        facts["Machine"] = origin["machine"] + (f", {origin['gpu']}" if origin["gpu"] else "")
        if origin["trainings_at_once"] > 1:
            facts["Machine"] += (
                f"; {origin['trainings_at_once']} trainings at once, {origin['threads_each']} threads each"
            )
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(words))}</dd>" for name, words in facts.items())


def _plain(value: Any) -> str:
    if value is None:
        return "as fits the data"
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value)
