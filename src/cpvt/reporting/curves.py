"""Training curves: loss and accuracy of each epoch, gathered from runs and stored next to the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from cpvt.config import POOL_NAMES
from cpvt.encodings import TABLE
from cpvt.reporting.figures import GREY, add_legend, colours, others
from cpvt.reporting.labels import head_label
from cpvt.results.folders import CHECKPOINT, CURVES, HISTORY, RUNS
from cpvt.runtime.files import read_json, read_lines, write_lines

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

# of an epoch; None if the run did not write it
MEASURES = ("loss", "accuracy", "test_accuracy", "lr", "validation_accuracy")
PANELS = {
    "loss": "loss in training",
    "accuracy": "accuracy in training, %",
    "validation_accuracy": "accuracy in validation, %",
    "test_accuracy": "accuracy in tests, %",
}


@dataclass(frozen=True)
class Epoch:
    """One training at the end of one epoch. Accuracies from 0 to 1."""

    label: str
    pool: str  # cls or gap; empty for external models
    seed: int
    epoch: int  # from 1
    loss: float | None
    accuracy: float | None  # on the augmented training images
    test_accuracy: float | None = None  # at the training size, if the run was tested
    lr: float | None = None
    validation_accuracy: float | None = None  # instead of the other, where the data has a validation part


def gather_curves(folders: Sequence[str | Path]) -> list[Epoch]:
    """The epochs of all trainings in these folders: from curves.jsonl, runs/*/ and the folder's own run.

    A run replaces its stored curve. A folder may have none.
    """
    found: dict[tuple[str, str, int], list[Epoch]] = {}
    for folder in map(Path, folders):
        trainings = [_read_stored(folder / CURVES)]
        trainings += [_read_run(history.parent) for history in sorted(folder.glob(f"{RUNS}/*/{HISTORY}"))]
        trainings += [_read_run(folder)] if (folder / HISTORY).exists() else []
        for epochs in trainings:
            read: dict[tuple[str, str, int], list[Epoch]] = {}
            for epoch in epochs:
                read.setdefault((epoch.label, epoch.pool, epoch.seed), []).append(epoch)
            found |= read
    names = list(dict.fromkeys((*TABLE, *(label for label, _, _ in found))))
    order = sorted(found, key=lambda key: (names.index(key[0]), key[1], key[2]))
    return [epoch for key in order for epoch in found[key]]


def store_curves(path: Path, epochs: Sequence[Epoch]) -> None:
    """Write the epochs as JSON lines, which stay when runs are deleted."""
    write_lines(path, map(asdict, epochs))


def _read_stored(path: Path) -> list[Epoch]:
    return [Epoch(**values) for _, values in read_lines(path)]


def _read_run(folder: Path) -> list[Epoch]:
    """The epochs of one run; none if it has no record yet."""
    if not (folder / CHECKPOINT).exists():
        return []
    record = read_json(folder / CHECKPOINT)
    model, training = record["model"], record["training"]
    label = model.get("encoding") or model["name"] + (" with PEG" if model.get("retrofit") else "")
    pool = POOL_NAMES.get(model.get("global_pool"), "")
    return [
        Epoch(label, pool, training["seed"], line["epoch"], *(line.get(name) for name in MEASURES))
        for _, line in read_lines(folder / HISTORY)
    ]


def curves_figure(epochs: Sequence[Epoch], chosen: Sequence[str] = ()) -> Figure:
    """Loss and accuracy by epoch, a line per encoding and pool: mean over seeds, band of one standard deviation.

    Of many encodings those that are not chosen are thin and grey.
    """
    from matplotlib.figure import Figure

    shown = [name for name in PANELS if any(getattr(epoch, name) is not None for epoch in epochs)]
    figure = Figure(figsize=(max(10.0, 5.2 * len(shown)), 4.6), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    palette = colours([epoch.label for epoch in epochs], chosen)
    entries: dict[str, Artist] = {}
    for panel, name in zip(panels, shown):
        for label, pool in dict.fromkeys((epoch.label, epoch.pool) for epoch in epochs):
            x, y, spread = mean_curve([each for each in epochs if (each.label, each.pool) == (label, pool)], name)
            if palette[label] == GREY:
                panel.plot(x, y, color=GREY, lw=0.8, zorder=1.8)
                continue
            style, name_in_legend = "--" if pool == "gap" else "-", head_label(label, pool)
            (line,) = panel.plot(x, y, style, color=palette[label], label=name_in_legend, marker="o", ms=3, lw=1.6)
            entries.setdefault(name_in_legend, line)
            low, high = [m - d for m, d in zip(y, spread)], [m + d for m, d in zip(y, spread)]
            panel.fill_between(x, low, high, color=palette[label], alpha=0.13, lw=0)
        panel.set_title(PANELS[name], fontsize=10, loc="left")
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(axis="y", color="#eeeeee")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    add_legend(figure, entries | others(panels[0], palette), len(shown))
    return figure


def mean_curve(epochs: Sequence[Epoch], name: str) -> tuple[list[int], list[float], list[float]]:
    """Epochs, means and standard deviations (0 for one) over the seeds that reached them; accuracies in percent."""
    scale = 100 if "accuracy" in name else 1
    values: dict[int, list[float]] = {}
    for each in epochs:
        if getattr(each, name) is not None:
            values.setdefault(each.epoch, []).append(scale * getattr(each, name))
    x = sorted(values)
    return x, [fmean(values[each]) for each in x], [stdev(values[each]) if len(values[each]) > 1 else 0.0 for each in x]
