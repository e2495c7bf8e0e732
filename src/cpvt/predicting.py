"""Naming what pictures show, each at its own size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from cpvt.checkpoint import Checkpoint, load
from cpvt.data import BadPictureError, decode


class Prediction(NamedTuple):
    """The top classes of one picture."""

    picture: str
    size: tuple[int, int]  # height and width the model saw, pixels
    shrunk_from: tuple[int, int] | None  # height and width of the file, where it was shrunk
    classes: tuple[tuple[str, float], ...]  # name and probability, best first
    error: str | None = None  # why the picture was skipped, where it was


def predict(
    run: str | Path | Checkpoint,
    pictures: Sequence[str | Path],
    *,
    top: int = 5,
    longest_side: int | None = None,
    on_bad_picture: str = "error",
    device: str = "auto",
) -> Iterator[Prediction]:
    """Yield the top classes of each picture, seen whole and at its own size.

    A picture with a side longer than `longest_side` (by default the run's, four times the training size) is shrunk to
    it, and the prediction says so. Raises ValueError for a picture that does not decode, or with `on_bad_picture='skip'`
    says why in the prediction.
    """
    if not pictures or top < 1:
        raise ValueError(f"predict needs at least one picture and one class; got {len(pictures)} pictures, top {top}")
    checkpoint = run if isinstance(run, Checkpoint) else load(run, device)
    transform = checkpoint.transform
    if longest_side is not None:
        transform = replace(transform, longest_side=longest_side)
    weights_device = next(checkpoint.model.parameters()).device
    for path in pictures:
        if not Path(path).is_file():
            raise ValueError(f"no such picture: '{path}'")
        try:
            whole = decode(path, str(path), transform.mode)
        except BadPictureError as error:
            if on_bad_picture != "skip":
                raise
            yield Prediction(str(path), (0, 0), None, (), str(error))
            continue
        picture = transform.limit(whole)
        with torch.inference_mode():
            logits = checkpoint.model(transform(picture)[None].to(weights_device))[0]
        best = logits.float().softmax(0).topk(min(top, len(checkpoint.class_names)))
        classes = tuple((checkpoint.class_names[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist()))
        shrunk = None if picture is whole else (whole.height, whole.width)
        yield Prediction(str(path), (picture.height, picture.width), shrunk, classes)
