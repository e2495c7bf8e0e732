"""One checkpoint, tested at many sizes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from cpvt.checkpoint import Checkpoint, load
from cpvt.config import POOLS, SWEEP_PROTOCOLS, TOKEN_BUDGET, Size, Watch, ignore_progress, parse_size, sides
from cpvt.data import Batch, DataSet, Split, Transform, View, load_batches, load_packs, open_data
from cpvt.results import Row

POOL_NAMES = {timm_name: name for name, timm_name in POOLS.items()}


class Score(NamedTuple):
    """What testing a model on one split at one size gives."""

    correct: int
    total: int
    seconds: float
    fill: float
    shrunk: int
    skipped: int


def sweep(
    run: str | Path | Checkpoint,
    sizes: Sequence[Size | str] = (),
    *,
    protocol: str = "resize",
    data: str | DataSet | None = None,
    data_root: str | None = None,
    crop_ratio: float | None = None,
    longest_side: int | None = None,
    on_bad_picture: str = "error",
    batch_size: int = 64,
    token_budget: int = TOKEN_BUDGET,
    device: str = "auto",
    watch: Watch = ignore_progress,
) -> Iterator[Row]:
    """Test a trained model at sizes it was not trained at; yields a row per size as it is measured.

    run: a folder that `train` wrote, or what `load` returned. sizes: sides or (height, width) in pixels, by default
    from half to three times the training size. protocol: 'resize', 'canvas' or 'native' (see `cpvt.data.views`); under
    'native' a size is the longest side allowed, a larger one than any picture's shows all at their own sizes, and
    `token_budget` patches go through the model at a time. data: by default the run's own. longest_side: larger pictures
    are shrunk to it before they are laid on a canvas, by default to the run's, as in training (four times the training
    size); how many were is in the row. Raises ValueError for a size below a patch, or classes that are not the model's.
    """
    checkpoint = run if isinstance(run, Checkpoint) else load(run, device)
    if protocol not in SWEEP_PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(SWEEP_PROTOCOLS)}; got '{protocol}'")
    source = checkpoint.record["training"]["source"]
    transform = checkpoint.transform
    if not isinstance(data, DataSet):
        own = data is None or data == source["data"]
        data = open_data(data or source["data"], data_root or (source["data_root"] if own else None), transform.mode)
    split = _test_split(data, checkpoint.class_names)
    if crop_ratio is not None:
        transform = replace(transform, crop_ratio=crop_ratio)
    if longest_side is not None:
        transform = replace(transform, longest_side=longest_side)
    wanted = [parse_size(size) if isinstance(size, str) else size for size in sizes] or default_sizes(checkpoint)
    check_sizes(wanted, checkpoint.model.config.patch_size)
    if protocol == "native" and not all(isinstance(size, int) for size in wanted):
        raise ValueError(f"under native a size is the longest side allowed, such as 224; got {wanted}")
    if protocol == "native" and (longest_side is not None or crop_ratio is not None):
        raise ValueError(
            "under native the sizes are the longest sides and nothing is cropped: leave longest_side and crop_ratio out"
        )
    for size in wanted:
        view = View(transform, protocol, sides(size))
        if protocol == "native":
            patch_size = checkpoint.model.config.patch_size
            batches = load_packs(split, view, patch_size, token_budget, on_bad_picture=on_bad_picture)
        else:
            batches = load_batches(split, view, batch_size, on_bad_picture=on_bad_picture)
        score = measure(checkpoint.model, batches, len(split), f"{protocol} {size}", watch)
        yield _row(checkpoint, data.name, protocol, size, transform, score)


def measure(
    model: nn.Module, batches: Iterable[Batch], count: int, name: str = "test", watch: Watch = ignore_progress
) -> Score:
    """Count how many of `count` pictures a model names right, batch by batch. The model must be in eval mode."""
    correct = total = shrunk = skipped = 0
    filled, start = 0.0, time.perf_counter()
    device = next(model.parameters()).device
    for batch in batches:
        read = len(batch.labels)
        skipped += len(batch.skipped)
        if read:
            with torch.inference_mode():
                correct += int((model(batch.pictures_on(device)).argmax(1).cpu() == batch.labels).sum())
        total, shrunk, filled = total + read, shrunk + batch.shrunk, filled + batch.filled * read
        watch(name, total + skipped, count, f"accuracy {correct / max(1, total):.1%}")
    if not total:
        raise ValueError(f"none of the {count} test pictures can be used")
    return Score(correct, total, round(time.perf_counter() - start, 3), round(filled / total, 4), shrunk, skipped)


def check_sizes(wanted: Sequence[Size], patch_size: int) -> None:
    """Raise ValueError for a size with a side below a patch."""
    for size in wanted:
        if min(sides(size)) < patch_size:
            raise ValueError(f"size {size} is smaller than a patch; the smallest side of this model is {patch_size}")


def default_sizes(checkpoint: Checkpoint) -> list[Size]:
    """Half, once, one and a half, twice and three times the training size."""
    return [max(checkpoint.model.config.patch_size, checkpoint.train_size * half // 2) for half in (1, 2, 3, 4, 6)]


def _test_split(data: DataSet, class_names: tuple[str, ...]) -> Split:
    if data.test is None:
        raise ValueError(f"'{data.name}' has no test/ (or val/) to test on")
    if data.class_names != class_names:
        raise ValueError(
            f"the classes of '{data.name}' are not the model's: the model has {len(class_names)} "
            f"({_some(class_names)}), the data {len(data.class_names)} ({_some(data.class_names)})"
        )
    return data.test


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _row(checkpoint: Checkpoint, data: str, protocol: str, size: Size, transform: Transform, score: Score) -> Row:
    config, training = checkpoint.model.config, checkpoint.record["training"]
    return Row(
        model=training["model"],
        encoding=config.encoding,
        pool=POOL_NAMES[config.global_pool],
        seed=training["seed"],
        protocol=protocol,
        size=size,
        correct=score.correct,
        total=score.total,
        seconds=score.seconds,
        parameters=sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        at=checkpoint.model.encoding.at,
        data=data,
        train_size=checkpoint.train_size,
        crop_ratio=transform.crop_ratio,
        interpolation=transform.interpolation,
        longest_side=transform.longest_side,
        fill=score.fill,
        shrunk=score.shrunk,
        skipped=score.skipped,
    )
