"""What must be known of a model before it is probed: read from the model, or found by running it."""

from __future__ import annotations

import numpy as np
import torch

from cpvt.adapters import ModelAdapter, UnsupportedError, UnsupportedSizeError
from cpvt.config import Size, sides
from cpvt.data import DataSet, Transform
from cpvt.evaluation.probes.context import ProbeContext, Sides, logits_of
from cpvt.grids import Grid

LARGEST = 224  # pixels per side, for models that do not state their training size


def fit_transform(adapter: ModelAdapter, data: DataSet) -> Transform:
    """The model's own transform, else one for the data set, with the channels of the model's first layer."""
    if adapter.transform is not None:
        return adapter.transform
    mean, std = data.mean, data.std
    channels = adapter.channels or len(mean)
    if channels in (1, 3) and channels != len(mean):
        mean, std = ((sum(values) / len(values),) * channels for values in (mean, std))
    return Transform(mean, std, data.crop_ratio)


def training_sides(adapter: ModelAdapter, data: DataSet, train_size: Size | None = None) -> Sides:
    """Height and width of the training images, pixels, in whole patches.

    A model that does not state them gets those of the data set's first image, in multiples of 32 (or its patch) from
    32 to 224.
    """
    known = train_size if train_size is not None else adapter.train_size
    patch = adapter.patch_size
    if known is not None:
        height, width = sides(known)
        return (height, width) if patch is None else (max(1, height // patch) * patch, max(1, width // patch) * patch)
    split = data.test if data.test is not None else data.train
    if split is None or not len(split):
        raise ValueError(f"'{data.name}' holds no images to probe with")
    image, _ = split.read(0, np.random.default_rng((0, 0, 0)))
    unit = patch or 32
    height, width = (max(unit, min(side, LARGEST) // unit * unit) for side in (image.height, image.width))
    return height, width


def read_grids(adapter: ModelAdapter, training: Sides, transform: Transform) -> tuple[dict[int, Grid], str]:
    """The grid of tokens at each depth, and ''; for a model without spatial tokens {} and the reason."""
    image = torch.zeros(2, len(transform.mean), *training, device=adapter.device)
    try:
        maps = adapter.at_size(training).token_maps(image)
    except (UnsupportedError, UnsupportedSizeError) as error:
        return {}, str(error)
    grids = {depth: (tokens.shape[1], tokens.shape[2]) for depth, tokens in maps.items()}
    if all(grid == (1, 1) for grid in grids.values()):
        return {}, f"'{adapter.name}' keeps one token for a whole image, so it has no spatial tokens"
    return grids, ""


def patch_of(adapter: ModelAdapter, training: Sides, grids: dict[int, Grid]) -> int | None:
    """Side of a patch, pixels: the model's, else that of its smallest token; None where neither is known."""
    if adapter.patch_size is not None or not grids:
        return adapter.patch_size
    return max(1, min(training[0] // h for h, _ in grids.values()))


def check_labels(context: ProbeContext) -> str | None:
    """Why accuracy cannot be measured, or None: it needs logits, and data with the model's classes."""
    data, adapter = context.dataset.data, context.adapter
    images, labels = next(context.dataset.batches("natural", context.sides))
    if not data.class_names or bool((labels < 0).any()):
        return f"'{data.name}' has no labels, so accuracy is left out"
    try:
        classes = logits_of(context.at(context.sides), images[:1]).shape[1]
    except (UnsupportedError, UnsupportedSizeError) as error:
        return str(error)
    names = adapter.class_names
    if classes != len(data.class_names) or (names is not None and names != data.class_names):
        count = len(data.class_names)
        return f"the {count} classes of '{data.name}' are not the model's {classes}, so accuracy is left out"
    return None
