"""Classify images, each at its own size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from cpvt.config import PredictConfig, options_from, sides, takes_options
from cpvt.data import BadImageError, Transform, check_on_bad_image, check_usable, decode, pixel_limit, with_hint
from cpvt.data.protocols import find_protocol
from cpvt.grids import patch_count, within_budget
from cpvt.models.pretrained import DEFAULT, shipped_names
from cpvt.results.checkpoints import Checkpoint, is_run, load


class Prediction(NamedTuple):
    """The top classes of one image."""

    image: str
    size: tuple[int, int]  # height and width of the model's input, pixels
    shrunk_from: tuple[int, int] | None  # height and width of the file, if it was shrunk
    classes: tuple[tuple[str, float], ...]  # name and probability, best first
    error: str | None = None  # why the image was skipped, if it was


@takes_options(PredictConfig)
def predict(run: str | Path | Checkpoint | None, images: Sequence[str | Path], **options: Any) -> Iterator[Prediction]:
    """Yield the top classes of each image, whole and at its own size and aspect ratio.

    run: a run's folder, what `load` returned, or the name of a model that comes with weights. None: cpvt_mini_peg5_gap,
    trained on the ten classes of CIFAR-10. Options are those of `cpvt.config.PredictConfig`. An image with a side
    longer than `longest_side` is shrunk to it, and the prediction says so. Batches hold `token_budget` patches; each
    image gets the answer it would get alone.

    Raises TypeError for an unknown option, ValueError for an image that does not decode or is smaller than a patch.
    With `on_bad_image="skip"` the prediction of such an image says why instead.
    """
    return _predict(run, options_from(PredictConfig, options, images=images))


def _predict(run: str | Path | Checkpoint | None, config: PredictConfig) -> Iterator[Prediction]:
    if not config.images:
        raise ValueError("predict needs at least one image; got none")
    check_on_bad_image(config.on_bad_image)
    checkpoint = run if isinstance(run, Checkpoint) else load(DEFAULT if run is None else run, config.device)
    for path in config.images:
        if not Path(path).is_file():
            raise ValueError(f"no such image: '{path}'")
    transform = checkpoint.transform
    if config.longest_side is not None:
        transform = replace(transform, longest_side=config.longest_side)
    adapter = checkpoint.adapter
    patch_size = adapter.patch_size or 1
    read = (_read(path, transform, patch_size, config.max_image_pixels) for path in config.images)
    for pack in within_budget(read, lambda each: patch_count(each.size, patch_size), config.token_budget):
        images = [each.tensor.to(adapter.device) for each in pack if each.tensor is not None]
        logits = list(adapter.logits_of_list(images)) if images else []
        for each in pack:
            if each.tensor is not None:
                classes = _best(logits.pop(0), checkpoint.class_names, config.top)
                yield Prediction(each.name, each.size, each.shrunk_from, classes)
            elif config.on_bad_image == "skip":
                yield Prediction(each.name, each.size, None, (), each.error)
            else:
                raise with_hint(each.error or "")


def split_names(names: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The model and the images of a command: the first name is a model, or an image for the default model.

    Raises ValueError where the first name is neither.
    """
    first, *rest = names
    if Path(first).is_file():
        return DEFAULT, (first, *rest)
    if is_run(first):
        return first, tuple(rest)
    known = ", ".join(shipped_names()) or "none"
    raise ValueError(
        f"'{first}' is no image, no run's folder and no model that comes with weights ({known}); "
        "pass images, with the model before them if it is another"
    )


class _Read(NamedTuple):
    name: str
    size: tuple[int, int]
    shrunk_from: tuple[int, int] | None
    tensor: Tensor | None
    error: str | None


def _read(path: str | Path, transform: Transform, patch_size: int, max_image_pixels: int) -> _Read:
    try:
        with pixel_limit(max_image_pixels):
            whole = decode(path, str(path), transform.mode)
        preprocessing = find_protocol("native")(transform, sides(transform.longest_side or max(whole.size)))
        tensor = preprocessing(whole, np.random.default_rng(0))
        check_usable(tensor.shape, patch_size, f"image '{path}'")
    except BadImageError as error:
        return _Read(str(path), (0, 0), None, None, str(error))
    height, width = tensor.shape[1:]
    shrunk_from = (whole.height, whole.width) if preprocessing.shrinks(whole) else None
    return _Read(str(path), (height, width), shrunk_from, tensor, None)


def _best(logits: Tensor, names: Sequence[str], top: int) -> tuple[tuple[str, float], ...]:
    best = logits.float().softmax(0).topk(min(top, len(names)))
    return tuple((names[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist()))
