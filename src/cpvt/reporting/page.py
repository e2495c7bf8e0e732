"""The page of a comparison: one self-contained HTML file, with its figures and tables beside it as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cpvt.config import Size
from cpvt.config.legacy import current
from cpvt.data.protocols import TABLE, describe
from cpvt.reporting.curves import curves_figure, gather_curves, keep_curves
from cpvt.reporting.figures import accuracy_figure, as_bytes, attention_figure
from cpvt.reporting.pairs import paired_differences
from cpvt.reporting.probes import report_probes
from cpvt.reporting.summary import BASELINE, Cell, as_csv, pixels, protocol_words, size_label, summarise, tabulate
from cpvt.reporting.templates import as_data, inline, render
from cpvt.results.folders import (
    ACCURACY_PNG,
    ACCURACY_SVG,
    ARRAYS,
    ATTENTION_PNG,
    COMPARISON,
    CURVES,
    CURVES_SVG,
    PROBE_RESULTS,
    REPORT,
    ROWS,
    SAMPLE,
    SUMMARY,
    attention_file,
    read_profile,
)
from cpvt.results.rows import Row, read_rows
from cpvt.runtime.files import read_json, replacing


@dataclass(frozen=True)
class Material:
    """All that a page is made of."""

    rows: list[Row]
    cells: list[Cell]
    record: dict[str, Any] | None  # compare.json: configuration and provenance
    profiles: list[dict[str, Any]]  # profile.json: parameters, speed, attention of each model
    curves: bytes | None  # the figure of the trainings, as svg


def report(*folders: str | Path, out: str | Path | None = None) -> Path:
    """Draw the page of a comparison, or of the rows in one or several folders; returns the path of the HTML file.

    Writes report.html, summary.csv, accuracy.svg and .png, attention.png where attention was saved, and curves.svg where
    there are trainings, into `out`, by default the first folder; of one folder also curves.jsonl, the curves of its
    trainings, which outlive runs/. Where models were probed it writes probes.html there too, and returns that where
    there is nothing else. Raises ValueError where a folder holds neither rows nor probe_results.
    """
    rows, single = gather(folders), Path((*folders, ".")[0])
    probes = report_probes(*folders, out=out)
    if not rows and probes is not None:
        return probes
    folder = Path(out or single)
    record: dict[str, Any] | None = None
    profiles: list[dict[str, Any]] = []
    if len(folders) == 1:
        record = read_json(single / COMPARISON) if (single / COMPARISON).exists() else None
        profiles = read_profile(single)
    material = Material(rows, summarise(rows), record, profiles, _curves(folders, folder))
    accuracy = accuracy_figure(material.cells, _train_sizes(rows))
    svg = as_bytes(accuracy, "svg")
    _write(folder / ACCURACY_SVG, svg)
    _write(folder / ACCURACY_PNG, as_bytes(accuracy, "png"))
    attention = _attention(single, folder, profiles)
    _write(folder / SUMMARY, as_csv(material.cells).encode())
    _write(folder / REPORT, _page(material, svg, attention).encode())
    return folder / REPORT


def gather(folders: Sequence[str | Path]) -> list[Row]:
    """The rows of all folders; ValueError for a folder with neither rows nor probe_results."""
    if not folders:
        raise ValueError("say which folders' rows to report on")
    rows: list[Row] = []
    for folder in map(Path, folders):
        found = read_rows(folder / ROWS)
        if not found and not (folder / PROBE_RESULTS).exists():
            raise ValueError(f"'{folder}' holds no rows: expected {ROWS}, as `cpvt compare` or `cpvt sweep` writes it")
        rows += found
    return list({(row.key, row.settings): row for row in rows}.values())


def _curves(folders: Sequence[str | Path], out: Path) -> bytes | None:
    epochs = gather_curves(folders)
    if not epochs:
        return None
    if len(folders) == 1:
        keep_curves(out / CURVES, epochs)
    svg = as_bytes(curves_figure(epochs), "svg")
    _write(out / CURVES_SVG, svg)
    return svg


def _attention(folder: Path, out: Path, profiles: Sequence[dict[str, Any]]) -> bytes | None:
    if not profiles:
        return None
    maps = [np.load(folder / ARRAYS / attention_file(profile["name"])) for profile in profiles]
    sample = np.load(folder / ARRAYS / SAMPLE)
    png = as_bytes(attention_figure(profiles, maps, sample), "png")
    _write(out / ATTENTION_PNG, png)
    return png


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def _page(material: Material, accuracy_svg: bytes, attention_png: bytes | None) -> str:
    rows, cells = material.rows, material.cells
    return render(
        "page.html",
        ours=all(row.pool for row in rows),
        baseline=BASELINE,
        compared=any(cell.difference is not None for cell in cells),
        subtitle=_subtitle(rows),
        accuracy=inline(accuracy_svg),
        accuracies=[_accuracies(cells, protocol) for protocol in dict.fromkeys(cell.protocol for cell in cells)],
        pairs=paired_differences(rows),
        measured=[cell for cell in cells if cell.rate is not None],
        curves=inline(material.curves) if material.curves else None,
        profiles=material.profiles,
        costs=_costs(material),
        attention=as_data(attention_png) if attention_png else None,
        facts=_facts(material),
    )


def _train_sizes(rows: Sequence[Row]) -> list[Size]:
    return sorted({row.train_size for row in rows if row.train_size}, key=pixels)


def _subtitle(rows: Sequence[Row]) -> str:
    seeds, models = sorted({row.seed for row in rows}), list(dict.fromkeys(row.model for row in rows))
    sizes = ", ".join(map(size_label, _train_sizes(rows)))
    trained = f" trained at {sizes} pixels and" if sizes else ""
    return (
        f"{', '.join(models)},{trained} tested on {max(row.total for row in rows)} images of "
        f"{', '.join(dict.fromkeys(row.data for row in rows))} at sizes never seen in training; "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})."
    )


def _accuracies(cells: Sequence[Cell], protocol: str) -> dict[str, Any]:
    """A table of accuracies, the share of the canvas that is fill at each size, and which model refused what."""
    sizes, best, lines = tabulate(cells, protocol)
    fill = {cell.size: cell.fill for line in lines.values() for cell in line if cell is not None}
    fills = ", ".join(f"{size_label(size)}: {fill[size]:.0%}" for size in sizes) if any(fill.values()) else ""
    refusals = dict.fromkeys((cell.label, cell.refused) for cell in cells if cell.refused and cell.protocol == protocol)
    title = describe(protocol)
    return {"title": title, "sizes": sizes, "best": best, "lines": lines, "fills": fills, "refusals": list(refusals)}


def _costs(material: Material) -> list[dict[str, Any]]:
    """Depths and parameters of each model, and where speeds were taken, those, also relative to the baseline's."""
    rates = {(profile["encoding"], profile["pool"]): profile["images_per_second"] for profile in material.profiles}
    baseline, costs = rates.get((BASELINE, "cls")), []
    for key, cell in {(cell.encoding, cell.pool): cell for cell in material.cells}.items():
        depths = ", ".join(map(str, cell.at)) or ("–" if cell.encoding == "none" or not cell.pool else "in attention")
        own = rates.get(key)
        ratios = [mine / theirs for mine, theirs in zip(own, baseline)] if own and baseline else None
        costs.append(
            {"label": cell.label, "depths": depths, "parameters": cell.parameters, "rates": own, "ratios": ratios}
        )
    return costs


def _facts(material: Material) -> dict[str, str]:
    facts = {
        row.protocol.capitalize(): TABLE[row.protocol].details for row in material.rows if row.protocol in TABLE
    } | {
        "Skipped": f"{max(row.skipped for row in material.rows)} images did not decode; "
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
    return facts


def _plain(value: Any) -> str:
    if value is None:
        return "as fits the data"
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value)
