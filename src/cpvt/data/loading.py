"""Batches: pictures read, viewed and stacked, each drawn from (seed, epoch, number) and from nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cpvt.data.base import Split
from cpvt.data.pictures import BadPictureError
from cpvt.data.views import View


class Batch(NamedTuple):
    """Some pictures as the model sees them."""

    pictures: Tensor  # (B, C, H, W)
    labels: Tensor  # (B,)
    filled: float  # mean share of a picture that is fill
    shrunk: int  # pictures that were larger than the longest side allowed
    skipped: list[str]  # messages of pictures that did not decode


class _Seen(NamedTuple):
    tensor: Tensor
    label: int
    filled: float
    shrunk: bool


class _Looking(Dataset["_Seen | str"]):
    def __init__(self, split: Split, view: View, seed: int, epoch: int) -> None:
        self.split, self.view, self.seed, self.epoch = split, view, seed, epoch

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> _Seen | str:
        draw = np.random.default_rng((self.seed, self.epoch, index))
        try:
            picture, label = self.split.read(index, draw)
        except BadPictureError as error:
            return str(error)  # as words: torch would wrap an error from a worker in that worker's traceback
        return _Seen(self.view(picture, draw), label, self.view.filled(picture), self.view.shrinks(picture))


def _stack(items: list[_Seen | str]) -> Batch:
    seen = [item for item in items if isinstance(item, _Seen)]
    skipped = [item for item in items if isinstance(item, str)]
    pictures = torch.stack([item.tensor for item in seen]) if seen else torch.empty(0)
    labels = torch.tensor([item.label for item in seen], dtype=torch.int64)
    filled = sum(item.filled for item in seen) / max(1, len(seen))
    return Batch(pictures, labels, filled, sum(item.shrunk for item in seen), skipped)


def load_batches(
    split: Split,
    view: View,
    batch_size: int,
    *,
    order: Sequence[int] | None = None,
    seed: int = 0,
    epoch: int = 0,
    on_bad_picture: str = "error",
    workers: int = 0,
) -> Iterator[Batch]:
    """Yield the split in batches, in the given order of numbers (by default as it stands).

    What is random about picture i depends on (seed, epoch, i) alone, however many workers read. A picture that does
    not decode is an error that names it, or with `on_bad_picture='skip'` is left out and named in the batch.
    """
    if on_bad_picture not in ("error", "skip"):
        raise ValueError(f"on_bad_picture must be 'error' or 'skip'; got '{on_bad_picture}'")
    looking = _Looking(split, view, seed, epoch)
    indices = range(len(split)) if order is None else [int(index) for index in order]
    loader = DataLoader(looking, batch_size, sampler=indices, num_workers=workers, collate_fn=_stack)
    for batch in loader:
        if batch.skipped and on_bad_picture == "error":
            raise BadPictureError(batch.skipped[0])
        yield batch
