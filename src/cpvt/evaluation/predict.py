"""Classify image files with a trained model, as it was tested."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpvt.adapters.classify import Prediction, classify, preprocessing_of
from cpvt.adapters.precision import in_precision
from cpvt.config import PredictConfig, ProgressCallback, ignore_progress, options_from, takes_options
from cpvt.config.base import some_names
from cpvt.config.scale import scale_label
from cpvt.data import check_on_bad_image
from cpvt.data.finding import find_images, is_image, is_plain
from cpvt.data.protocols import TABLE, check_read
from cpvt.models.pretrained import DEFAULT, shipped_names
from cpvt.results.checkpoints import Checkpoint, is_run, load
from cpvt.results.folders import CHECKPOINT, WEIGHTS, is_results, runs_below
from cpvt.runtime.hub import is_hub


@takes_options(PredictConfig, "json", "csv")
def predict(
    run: str | Path | Checkpoint | None,
    images: Sequence[Any],
    *,
    on_progress: ProgressCallback = ignore_progress,
    **options: Any,
) -> Iterator[Prediction]:
    """The top classes of each image, one by one, read as in the tests of the model: size, crop ratio, interpolation.

    run: a run's folder, what `load` returned, or the name of a model that comes with weights. None: the one for
    photographs, which knows Imagenette's ten classes. images: files, folders (walked), patterns such as
    "photos/*.jpg", PIL images or arrays. Options are those of `cpvt.config.PredictConfig`. Batches hold
    `token_budget` patches; each image gets the answer it would get alone.

    Raises TypeError for an unknown option, ValueError for an image that does not decode or is smaller than a patch.
    With `on_bad_image="skip"` the prediction of such an image says why instead.
    """
    config = options_from(PredictConfig, options, images=images, json=False, csv=None)
    check_on_bad_image(config.on_bad_image)
    return _predict(run, find_images(config.images)[: config.limit], config, on_progress)


def _predict(
    run: str | Path | Checkpoint | None, images: Sequence[Any], config: PredictConfig, on_progress: ProgressCallback
) -> Iterator[Prediction]:
    checkpoint = run if isinstance(run, Checkpoint) else load(DEFAULT if run is None else run, config.device)
    changes = {"crop_ratio": config.crop_pct, "interpolation": config.interpolation}
    known: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    if config.protocol in TABLE:  # others are refused below
        check_read(known, [config.protocol])
    if config.reduced_jpegs is not None:
        known["reduced_jpegs"] = config.reduced_jpegs
    adapter = replace(checkpoint.adapter, transform=replace(checkpoint.transform, **known))
    preprocessing = preprocessing_of(adapter, config.protocol, config.size)
    found = classify(
        in_precision(adapter, config.precision, (preprocessing.sides,)), images, preprocessing,
        top=config.top, scale=config.scale, token_budget=config.token_budget, on_bad_image=config.on_bad_image,
        max_image_pixels=config.max_image_pixels,
    )  # fmt: skip
    for done, prediction in enumerate(found, start=1):
        on_progress("predict", done, len(images), "")
        yield prediction


def summarise(predictions: Sequence[Prediction], class_names: Sequence[str]) -> dict[str, Any]:
    """How many images were classified and skipped, how often each class came first, and how often it was right.

    The last needs images in folders that are named like classes: it is there where all of them are.
    """
    good = [each for each in predictions if each.error is None]
    counts = Counter(each.label for each in good)
    summary = {"images": len(good), "skipped": len(predictions) - len(good), "classes": dict(counts.most_common())}
    folders = [Path(each.image).parent.name for each in good]
    if good and set(folders) <= set(class_names):
        correct = sum(each.label == folder for each, folder in zip(good, folders))
        summary["accuracy_by_folder"] = round(correct / len(good), 4)
    return summary


def as_table(predictions: Sequence[Prediction], top: int) -> str:
    """The predictions as CSV: a line per image with its sizes, classes and probabilities."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    ranks = [f"{what}_{rank + 1}" for rank in range(top) for what in ("class", "probability")]
    sizes = ["width", "height", "input_width", "input_height", "scale"]
    table.writerow(["image", *sizes, *ranks, "error"])
    for each in predictions:
        found = [value for pair in each.classes for value in pair]
        found += [""] * (2 * top - len(found))
        scale = "" if each.scale is None else scale_label(each.scale)
        table.writerow([each.image, *each.original_size, *each.size, scale, *found, each.error or ""])
    return text.getvalue()


def _refuse_results(folder: Path) -> None:
    """Raise ValueError for a folder of results: its figures are no images to classify."""
    below = runs_below(folder)
    if is_results(folder) or (below and not any(map(is_image, folder.iterdir()))):
        which = f"its runs are {some_names(list(map(str, below)))}" if below else "it has no trained model"
        raise ValueError(f"'{folder}' holds results of cpvt, not images, and is no run; {which}")


def split_names(names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The model and the images of a command: the first name is a model, or an image for the default model.

    Raises ValueError where the first name is neither.
    """
    first, *rest = names
    runs = [name for name in names if (Path(name) / CHECKPOINT).exists()]
    for name in names:
        if name not in runs and Path(name).is_dir():
            _refuse_results(Path(name))
    if first in shipped_names() or is_hub(first) or first in runs:
        return first, tuple(rest)
    if runs:
        raise ValueError(f"'{runs[0]}' is a run; the model comes first: cpvt predict {runs[0]} {first} ...")
    if Path(first).name in (WEIGHTS, CHECKPOINT) and is_run(Path(first).parent):
        raise ValueError(f"'{first}' is part of a run; name its folder: cpvt predict {Path(first).parent} IMAGE ...")
    if Path(first).exists() or not is_plain(first):
        return DEFAULT, (first, *rest)
    raise ValueError(
        f"'{first}' is no image, no run's folder and no model that comes with weights ({', '.join(shipped_names())}); "
        "pass images, with the model before them if it is another"
    )
