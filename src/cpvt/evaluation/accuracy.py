"""Accuracy: each process tests its shard of the images, then the counts are summed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cpvt.adapters import ModelAdapter, UnsupportedSizeError
from cpvt.adapters.base import count_unusable, refuse_unusable
from cpvt.config import MAX_IMAGE_PIXELS, TOKEN_BUDGET, ProgressCallback, ignore_progress
from cpvt.data import Batch, DataSet, LoadOptions, load_batches, load_packs, load_stream
from cpvt.data.protocols import Protocol
from cpvt.runtime import distributed
from cpvt.runtime.memory import mark_memory, peak_memory

CONFUSION_CLASSES = 100  # most classes for which errors are counted by predicted class


@dataclass
class Score:
    """The result of testing a model at one size, accumulated batch by batch."""

    correct: int = 0
    top5: int = 0
    total: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    padding_fraction: float = 0.0
    shrunk: int = 0
    skipped: int = 0
    unusable: int = 0  # images whose logits are not finite
    peak_memory: int | None = None
    refused: str | None = None  # the model's own message
    correct_mask: list[bool] = field(default_factory=list)  # in the order of the images; empty where it is unknown
    by_class: Tensor = field(default_factory=lambda: torch.zeros(2, 0, dtype=torch.int64))  # images; of these, correct
    confusion: Tensor | None = None  # (classes, classes): images by class and predicted class; None for many classes


def count_test(data: DataSet) -> int:
    """Number of test images; 0 for a stream of unknown length."""
    if data.test is not None:
        return len(data.test)
    return (data.test_stream.length or 0) if data.test_stream is not None else 0


def load_test(
    data: DataSet,
    preprocessing: Protocol,
    batch_size: int,
    *,
    patch_size: int = 1,
    token_budget: int = TOKEN_BUDGET,
    on_bad_image: str = "error",
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    workers: int = 0,
) -> Iterator[Batch]:
    """This process's shard of the test images, in batches, or in lists where the preprocessing keeps sizes.

    patch_size, token_budget: of lists, see `load_packs`.
    """
    options = LoadOptions(
        on_bad_image=on_bad_image, max_image_pixels=max_image_pixels, workers=workers, classes=len(data.class_names)
    )
    if data.test is None:
        assert data.test_stream is not None  # whoever tests has asked
        part, parts = distributed.rank(), distributed.world_size()
        return load_stream(data.test_stream, preprocessing, batch_size, options, part=part, parts=parts)
    order = distributed.shard(range(len(data.test)))
    if preprocessing.stacks:
        return load_batches(data.test, preprocessing, batch_size, options, order=order)
    return load_packs(data.test, preprocessing, patch_size, token_budget, options, order=order)


def measure(
    adapter: ModelAdapter,
    batches: Iterable[Batch],
    count: int,
    classes: int,
    name: str = "test",
    on_progress: ProgressCallback = ignore_progress,
    streamed: bool = False,
) -> Score:
    """Count how many of `count` images (0: unknown) a model classifies correctly.

    batches: where several processes test together, this process's shard (`distributed.shard`, or, streamed, its part of
    a stream, whose images no process can count). Shards may be uneven; every process returns the score of all of them.
    Raises UnsupportedSizeError where the model refuses the images or gives logits that are not finite, ValueError for
    another number of classes or where no image can be used.
    """
    score, device, start, refusal = _blank(classes), adapter.device, time.perf_counter(), None
    memory_before, on_progress = _mark(device), on_progress if distributed.is_main_process() else ignore_progress
    for batch in batches:
        size = len(batch.labels)
        score.skipped += len(batch.skipped)
        if size:
            images = batch.images_on(device)
            model_start = time.perf_counter()
            try:
                logits = (adapter.logits_of_list(images) if isinstance(images, list) else adapter.logits(images)).cpu()
            except UnsupportedSizeError as error:
                refusal = error
                break
            score.model_seconds += time.perf_counter() - model_start
            score.unusable += count_unusable(logits)
            if logits.shape[1] != classes:
                raise ValueError(
                    f"'{adapter.name}' has {logits.shape[1]} classes, the data has {classes}: test it on data of its "
                    "own classes, or train it on these first"
                )
            _count(score, logits, batch.labels)
        score.total += size
        score.shrunk += batch.shrunk
        score.padding_fraction += batch.padding_fraction * size
        done = (score.total + score.skipped) * distributed.world_size()
        if done < count or not count:  # no accuracy yet: where classes come in order, it says nothing before the end
            on_progress(name, done, count, "")
    score.seconds, score.peak_memory = time.perf_counter() - start, max(0, _peak(device) - memory_before)
    if distributed.all_reduce_max(float(refusal is not None)):  # in any process, so that none waits for another
        raise refusal or UnsupportedSizeError("the model refused the images of another process")
    if distributed.is_distributed():
        _all_reduce(score, 0 if streamed else count, device)
    refuse_unusable(score.unusable, score.total, adapter.name)
    if not score.total:
        raise ValueError(f"none of the {count or ''} test images can be used")
    score.padding_fraction /= score.total
    done = score.total + score.skipped
    on_progress(name, done, done, f"accuracy {score.correct / score.total:.1%}")
    return score


def _blank(classes: int) -> Score:
    """A score of no images."""
    confusion = torch.zeros(classes, classes, dtype=torch.int64) if classes <= CONFUSION_CLASSES else None
    return Score(by_class=torch.zeros(2, classes, dtype=torch.int64), confusion=confusion)


def _all_reduce(score: Score, count: int, device: torch.device) -> None:
    """Turn a shard's score into that of all shards.

    The correct mask is known only if no image was skipped, and if they are counted (count is not 0).
    """
    names = ("correct", "top5", "total", "padding_fraction", "shrunk", "skipped", "unusable")
    mask = torch.zeros(count, dtype=torch.float64)
    own = distributed.shard(range(count))
    complete = count > 0 and len(score.correct_mask) == len(own)
    if complete:
        mask[list(own)] = torch.tensor(score.correct_mask, dtype=torch.float64)
    counts = torch.tensor([*(getattr(score, name) for name in names), complete], dtype=torch.float64)
    sums = distributed.all_reduce_sum(torch.cat([counts, mask]).to(device)).tolist()
    for by_class in [score.by_class] if score.confusion is None else [score.by_class, score.confusion]:
        by_class.copy_(distributed.all_reduce_sum(by_class.to(device)))
    for name, value in zip(names, sums):
        setattr(score, name, value if name == "padding_fraction" else round(value))
    known = sums[len(names)] == distributed.world_size()
    score.correct_mask = [value > 0 for value in sums[len(names) + 1 :]] if known else []
    score.seconds = distributed.all_reduce_max(score.seconds)
    score.model_seconds = distributed.all_reduce_max(score.model_seconds)
    score.peak_memory = round(distributed.all_reduce_max(float(score.peak_memory or 0)))


def _count(score: Score, logits: Tensor, labels: Tensor) -> None:
    classes, predicted = logits.shape[1], logits.topk(min(5, logits.shape[1])).indices
    best = predicted == labels[:, None]
    score.correct += int(best[:, 0].sum())
    score.top5 += int(best.sum())
    score.correct_mask += best[:, 0].tolist()
    for counts, counted in zip(score.by_class, (labels, labels[best[:, 0]])):
        counts += torch.bincount(counted, minlength=classes)
    if score.confusion is not None:
        cells = torch.bincount(labels * classes + predicted[:, 0], minlength=classes**2)
        score.confusion += cells.reshape(classes, classes)


def _mark(device: torch.device) -> int:
    """Bytes allocated now, above which the peak is counted."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return mark_memory()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
