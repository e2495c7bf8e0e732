"""The report of a comparison: one self-contained HTML file, and its figures and tables as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from cpvt.config import Size, size_label
from cpvt.config.legacy import current
from cpvt.data.protocols import TABLE, describe
from cpvt.reporting.classes import by_class
from cpvt.reporting.curves import curves_figure, gather_curves, store_curves
from cpvt.reporting.figures import MANY, accuracy_figure, as_bytes, attention_figure, choose, multiples_figure
from cpvt.reporting.labels import head_label, protocol_notes
from cpvt.reporting.pairs import paired_differences
from cpvt.reporting.probes import report_probes
from cpvt.reporting.scales import scale_note, shared_scales
from cpvt.reporting.summary import (
    BASELINE,
    Cell,
    as_csv,
    majority_shares,
    pixels,
    summarise,
    tabulate,
    warnings_of,
)
from cpvt.reporting.templates import as_data, inline, render
from cpvt.results.folders import (
    ACCURACY_PNG,
    ACCURACY_SVG,
    ARRAYS,
    ATTENTION_PNG,
    CHECKPOINT,
    COMPARISON,
    CURVES,
    CURVES_SVG,
    MULTIPLES_SVG,
    PROBE_RESULTS,
    REPORT,
    RETROFIT,
    ROWS,
    RUNS,
    SAMPLE,
    SUMMARY,
    attention_file,
    read_profile,
)
from cpvt.results.rows import Row, read_rows
from cpvt.runtime.files import read_json, write_bytes


@dataclass(frozen=True)
class Content:
    """The content of a report."""

    rows: list[Row]
    cells: list[Cell]
    record: dict[str, Any] | None  # configuration and provenance
    profiles: list[dict[str, Any]]  # of profile.json: parameters, speed, attention of each model
    curves: bytes | None  # figure of the trainings, svg
    multiples: bytes | None  # figure with a panel per encoding, svg, where there are many


def report(*folders: str | Path, out: str | Path | None = None) -> Path:
    """Write the report on the rows of one or several folders; returns the path of report.html.

    Writes to `out`, by default the first folder: report.html, summary.csv, accuracy.svg and .png; multiples.svg if
    there are many encodings; attention.png if attention was saved; curves.svg if there are trainings, and for a single
    folder curves.jsonl, which stays when runs are deleted. Probe results go to probes.html, whose path is returned if
    there are no rows.
    Raises ValueError for a folder with neither rows nor probe results.
    """
    rows, single = gather(folders), Path((*folders, ".")[0])
    probes = report_probes(*folders, out=out)
    if not rows and probes is not None:
        return probes
    folder = Path(out or single)
    record: dict[str, Any] | None = None
    profiles: list[dict[str, Any]] = []
    if len(folders) == 1:
        record = _record(single)
        profiles = read_profile(single)
    cells = summarise(rows)
    curves, multiples = _curves(folders, folder, choose(cells)), _multiples(cells, _train_sizes(rows), folder)
    content = Content(rows, cells, record, profiles, curves, multiples)
    accuracy = accuracy_figure(content.cells, _train_sizes(rows))
    svg = as_bytes(accuracy, "svg")
    write_bytes(folder / ACCURACY_SVG, svg)
    write_bytes(folder / ACCURACY_PNG, as_bytes(accuracy, "png"))
    attention = _attention(single, folder, profiles)
    write_bytes(folder / SUMMARY, as_csv(content.cells).encode(errors="replace"))
    write_bytes(folder / REPORT, _page(content, svg, attention).encode(errors="replace"))
    return folder / REPORT


def _record(folder: Path) -> dict[str, Any] | None:
    """Configuration and provenance of a comparison, a retrofit or a run; None in a folder of other rows."""
    found = next((folder / name for name in (COMPARISON, RETROFIT, CHECKPOINT) if (folder / name).exists()), None)
    if found is None:
        return None
    record, runs = read_json(found), [folder / CHECKPOINT, *sorted(folder.glob(f"{RUNS}/*/{CHECKPOINT}"))]
    resolved: dict[str, Any] = next((read_json(run).get("resolved", {}) for run in runs if run.exists()), {})
    return {"config": record.get("training"), "resolved": resolved, **record}


def gather(folders: Sequence[str | Path]) -> list[Row]:
    """The rows of all folders, repetitions with the same answers once; those with others stay, for a warning.

    Raises ValueError for a folder with neither rows nor probe results.
    """
    if not folders:
        raise ValueError("report needs at least one folder")
    rows: list[Row] = []
    for folder in map(Path, folders):
        found = read_rows(folder / ROWS)
        if not found and not (folder / PROBE_RESULTS).exists():
            raise ValueError(f"'{folder}' holds no rows: expected {ROWS}, as `cpvt compare` or `cpvt sweep` writes it")
        rows += found
    return list({(row.key, row.settings, row.correct, row.hits): row for row in rows}.values())


def _curves(folders: Sequence[str | Path], out: Path, chosen: Sequence[str]) -> bytes | None:
    epochs = gather_curves(folders)
    if not epochs:
        return None
    if len(folders) == 1:
        store_curves(out / CURVES, epochs)
    svg = as_bytes(curves_figure(epochs, chosen), "svg")
    write_bytes(out / CURVES_SVG, svg)
    return svg


def _multiples(cells: Sequence[Cell], train_sizes: Sequence[Size], out: Path) -> bytes | None:
    if len({cell.encoding for cell in cells}) <= MANY:
        return None
    svg = as_bytes(multiples_figure(cells, train_sizes), "svg")
    write_bytes(out / MULTIPLES_SVG, svg)
    return svg


def _attention(folder: Path, out: Path, profiles: Sequence[dict[str, Any]]) -> bytes | None:
    if not profiles:
        return None
    maps = [np.load(folder / ARRAYS / attention_file(profile["name"])) for profile in profiles]
    sample = np.load(folder / ARRAYS / SAMPLE)
    png = as_bytes(attention_figure(profiles, maps, sample), "png")
    write_bytes(out / ATTENTION_PNG, png)
    return png


def _page(content: Content, accuracy_svg: bytes, attention_png: bytes | None) -> str:
    rows, cells = content.rows, content.cells
    costs = _costs(content)
    accuracies = [_accuracies(cells, protocol, costs) for protocol in dict.fromkeys(cell.protocol for cell in cells)]
    pairs = paired_differences(rows)
    return render(
        "page.html",
        ours=all(row.pool for row in rows),
        labels=list(dict.fromkeys(head_label(cell.encoding, cell.pool) for cell in cells)),
        variants=any(cell.variant for cell in cells),
        warnings=warnings_of(rows),
        unseen=any(row.size not in _train_sizes(rows) for row in rows),
        ranked=any(best == best for table in accuracies for best in table["best"].values()),
        one_seed=any(len(cell.seeds) == 1 and cell.accuracy_interval for cell in cells),
        majority=any(cell.majority is not None for cell in cells),
        balanced=any(cell.balanced is not None and abs(cell.balanced - cell.mean) >= 0.05 for cell in cells),
        rectangles=[cell.size for cell in cells if not isinstance(cell.size, int)],
        classes=by_class(rows),
        baseline=BASELINE,
        compared=any(cell.difference is not None for cell in cells),
        subtitle=_subtitle(rows),
        accuracy=inline(accuracy_svg),
        multiples=inline(content.multiples) if content.multiples else None,
        chosen=choose(cells),
        accuracies=accuracies,
        pairs=pairs,
        references=sorted(dict.fromkeys(each.reference for each in pairs), key=len),
        measured=[cell for cell in cells if cell.rate is not None],
        curves=inline(content.curves) if content.curves else None,
        profiles=content.profiles,
        relative=_reference(content),
        costs=costs,
        attention=as_data(attention_png) if attention_png else None,
        facts=_facts(content),
    )


def _train_sizes(rows: Sequence[Row]) -> list[Size]:
    """Every size that a training used."""
    used = {size for row in rows for size in row.train_sizes or (row.train_size,) if size}
    return sorted(used, key=pixels)


def _subtitle(rows: Sequence[Row]) -> str:
    seeds, models = sorted({row.seed for row in rows}), list(dict.fromkeys(row.model for row in rows))
    trained = _train_sizes(rows)
    start = f" trained at {_listed(trained)} pixels and" if trained else ""
    return (
        f"{', '.join(models)},{start} tested on {max(row.total for row in rows)} images of "
        f"{', '.join(dict.fromkeys(row.data for row in rows))} {_tested(rows, trained)}; "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})."
    )


def _tested(rows: Sequence[Row], trained: Sequence[Size]) -> str:
    """The test sizes in words, those used in training apart."""
    limits = {row.protocol for row in rows if row.protocol in TABLE and TABLE[row.protocol].size_is_limit}
    whole = sorted({row.size for row in rows if row.protocol in limits}, key=pixels)
    sizes = sorted({row.size for row in rows if row.protocol not in limits}, key=pixels)
    new, known = [size for size in sizes if size not in trained], [size for size in sizes if size in trained]
    parts = [f"at {_listed(new)} pixels{', not used in training' if trained else ''}"] if new else []
    parts += [f"at {_listed(known)} pixels, as in training"] if known else []
    parts += [f"as a whole, up to {_listed(whole)} pixels"] if whole else []
    return "; ".join(parts)


def _listed(sizes: Sequence[Size]) -> str:
    return ", ".join(map(size_label, sizes))


def _accuracies(cells: Sequence[Cell], protocol: str, costs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A table of accuracies, the padding fraction of each size, which model does not support what, means and costs."""
    sizes, best, lines = tabulate(cells, protocol)
    fractions = {cell.size: cell.padding_fraction for line in lines.values() for cell in line if cell is not None}
    texts = [f"{size_label(size)}: {fractions[size]:.0%}" for size in sizes if any(fractions.values())]
    refusals = dict.fromkeys((cell.label, cell.refused) for cell in cells if cell.refused and cell.protocol == protocol)
    by_head = {cost["label"]: cost for cost in costs}
    return {"title": describe(protocol), "sizes": sizes, "best": best, "lines": lines, "padding": ", ".join(texts),
            "refusals": list(refusals), "majority": majority_shares(cells, protocol),
            "scales": shared_scales(cells, protocol),
            "means": {label: _mean(line) for label, line in lines.items()},
            "costs": {cell.label: by_head[head_label(cell.encoding, cell.pool)] for cell in cells}}  # fmt: skip


def _mean(line: Sequence[Cell | None]) -> float | None:
    """The mean over sizes; None where one was not measured."""
    means = [cell.mean for cell in line if cell is not None and not cell.refused]
    return fmean(means) if len(means) == len(line) else None


def _rates(content: Content) -> dict[str, list[float]]:
    """Images per second in each round, by label."""
    return {head_label(each["encoding"], each["pool"]): each["images_per_second"] for each in content.profiles}


def _reference(content: Content) -> str:
    """The label that speeds are relative to: the baseline, with the class token if measured; empty without one."""
    return next((label for label in (BASELINE, head_label(BASELINE, "gap")) if label in _rates(content)), "")


def _costs(content: Content) -> list[dict[str, Any]]:
    """Depths and parameters of each model, and its speed, if measured, also relative to the reference."""
    rates, costs = _rates(content), []
    baseline = rates.get(_reference(content))
    for key, cell in {(cell.encoding, cell.pool): cell for cell in content.cells}.items():
        depths = ", ".join(map(str, cell.at)) or ("–" if cell.encoding == "none" or not cell.pool else "in attention")
        own = rates.get(head_label(*key))
        ratios = [mine / theirs for mine, theirs in zip(own, baseline)] if own and baseline else None
        costs.append(
            {"label": head_label(*key), "depths": depths, "parameters": cell.parameters, "rates": own, "ratios": ratios}
        )
    return costs


def _facts(content: Content) -> dict[str, str]:
    facts = {
        row.protocol.capitalize(): TABLE[row.protocol].details for row in content.rows if row.protocol in TABLE
    } | {
        "Skipped": f"{max(row.skipped for row in content.rows)} images could not be used; "
        f"{max(row.shrunk for row in content.rows)} were shrunk to the longest side",
    }
    notes = [scale_note(content.cells, protocol) for protocol in dict.fromkeys(cell.protocol for cell in content.cells)]
    facts |= {"Object scale": "\n".join(filter(None, notes))} if any(notes) else {}
    facts |= protocol_notes(content.rows)
    if content.record:
        facts |= _origin(content.record)
    return facts


def _origin(record: dict[str, Any]) -> dict[str, str]:
    """Recipe, initial weights and provenance of a comparison, a retrofit or a run."""
    config, origin = current(record["config"]), record["provenance"]
    start = config.get("initial_checkpoint") or config.get("checkpoint")
    if "control" in config:  # of a retrofit
        start = start or f"those of {config['model']}"
    recipe = {name: _plain(name, value) for name, value in (config["optim"] | record["resolved"]).items()}
    machine = origin["machine"] + (f", {origin['gpu']}" if origin["gpu"] else "")
    if origin.get("trainings_at_once", 1) > 1:
        machine += f"; {origin['trainings_at_once']} trainings at once, {origin['threads_each']} threads each"
    return {
        "Initial weights": start or "random",
        "Recipe": "; ".join(f"{name} {text}" for name, text in recipe.items()),
        "Commands": "\n".join(record.get("commands") or [origin["command"]]),
        "Versions": ", ".join(f"{name} {number}" for name, number in origin["versions"].items()),
        "Commit": origin["commit"] or "not run from a checkout",
        "Machine": machine,
    }


UNSET = {  # what an option of the recipe means that is None
    "warmup_lr": "as min_lr", "layer_decay": "1", "clip_grad": "unlimited", "augment": "the data set's", "aa": "off",
    "hflip": "the augmentation's", "model_ema_decay": "off",
}  # fmt: skip


def _plain(name: str, value: Any) -> str:
    if value is None:
        return UNSET.get(name, "default")
    return " to ".join(map(str, value)) if isinstance(value, list) else str(value)
