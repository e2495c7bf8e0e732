"""How many images a model names right: each process tests its own share, then all add up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cpvt.adapters import ModelAdapter
from cpvt.config import TOKEN_BUDGET, ProgressCallback, ignore_progress
from cpvt.data import Batch, DataSet, LoadOptions, load_batches, load_packs, load_stream
from cpvt.data.protocols import Protocol
from cpvt.runtime import distributed
from cpvt.runtime.memory import mark_memory, peak_memory


@dataclass
class Score:
    """What testing a model on one split at one size gives, counted up batch by batch."""

    correct: int = 0
    top5: int = 0
    total: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    fill: float = 0.0
    shrunk: int = 0
    skipped: int = 0
    peak_memory: int | None = None
    refused: str | None = None
    hits: list[bool] = field(default_factory=list)


def count_test(data: DataSet) -> int:
    """How many images there are to test on; 0 where a stream does not say."""
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
    workers: int = 0,
) -> Iterator[Batch]:
    """This process's own share of the test images: in batches, or in lists where the preprocessing leaves sizes apart.

    patch_size, token_budget: of lists, see `load_packs`.
    """
    options = LoadOptions(on_bad_image=on_bad_image, workers=workers)
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
) -> Score:
    """Count how many of `count` images a model names right, batch by batch. UnsupportedSizeError where it refuses them.

    batches: where several processes test together, this one's share of the images (`distributed.shard` of their numbers,
    or its part of a stream, with `count` 0 if unknown); shares may be uneven, and the score, the same in every process,
    is that of all of them.
    """
    score, device, start = Score(), adapter.device, time.perf_counter()
    held, on_progress = _mark(device), on_progress if distributed.is_main_process() else ignore_progress
    for batch in batches:
        read = len(batch.labels)
        score.skipped += len(batch.skipped)
        if read:
            images = batch.images_on(device)
            began = time.perf_counter()
            logits = (adapter.logits_of_list(images) if isinstance(images, list) else adapter.logits(images)).cpu()
            score.model_seconds += time.perf_counter() - began
            if logits.shape[1] != classes:
                raise ValueError(f"'{adapter.name}' tells {logits.shape[1]} classes apart, the data has {classes}")
            _count(score, logits, batch.labels)
        score.total += read
        score.shrunk += batch.shrunk
        score.fill += batch.padding_fraction * read
        on_progress(name, score.total + score.skipped, count, f"accuracy {score.correct / max(1, score.total):.1%}")
    score.seconds, score.peak_memory = time.perf_counter() - start, max(0, _peak(device) - held)
    if distributed.is_distributed():
        _add_up(score, count, device)
    if not score.total:
        raise ValueError(f"none of the {count or ''} test images can be used")
    score.fill /= score.total
    return score


def _add_up(score: Score, count: int, device: torch.device) -> None:
    """Turn a share's score into that of all shares; which images were right is known only if none was skipped."""
    counted = ("correct", "top5", "total", "fill", "shrunk", "skipped")
    right = torch.zeros(count, dtype=torch.float64)
    own = distributed.shard(range(count))
    whole = len(score.hits) == len(own)
    if whole:
        right[list(own)] = torch.tensor(score.hits, dtype=torch.float64)
    numbers = [float(getattr(score, name)) for name in counted]
    summed = distributed.all_reduce_sum(
        torch.cat([torch.tensor([*numbers, float(whole)], dtype=torch.float64), right]).to(device)
    )
    for name, value in zip(counted, summed.tolist()):
        setattr(score, name, value if name == "fill" else round(value))
    score.hits = (
        [hit > 0 for hit in summed[len(counted) + 1 :].tolist()]
        if summed[len(counted)] == distributed.world_size()
        else []
    )
    score.seconds, score.model_seconds = (
        distributed.all_reduce_max(score.seconds),
        distributed.all_reduce_max(score.model_seconds),
    )
    score.peak_memory = round(distributed.all_reduce_max(float(score.peak_memory or 0)))


def _count(score: Score, logits: Tensor, labels: Tensor) -> None:
    best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    score.correct += int(best[:, 0].sum())
    score.top5 += int(best.sum())
    score.hits += best[:, 0].tolist()


def _mark(device: torch.device) -> int:
    """Bytes held now, from which the peak is counted."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return mark_memory()


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
