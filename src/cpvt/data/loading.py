"""Batches: pictures read, viewed and stacked or listed, each drawn from (seed, epoch, number) and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cpvt.config import TOKEN_BUDGET
from cpvt.data.base import Split
from cpvt.data.pictures import BadPictureError, check_usable
from cpvt.data.views import View
from cpvt.shapes import patch_count, within_budget


class Batch(NamedTuple):
    """Some pictures as the model sees them."""

    pictures: Tensor | list[Tensor]  # (B, C, H, W), or (C, H_i, W_i) each of its own size
    labels: Tensor  # (B,)
    filled: float  # mean share of a picture that is fill
    shrunk: int  # pictures that were larger than the longest side allowed
    skipped: list[str]  # messages of pictures that could not be used

    def pictures_on(self, device: torch.device) -> Tensor | list[Tensor]:
        """The pictures, moved to a device."""
        if isinstance(self.pictures, Tensor):
            return self.pictures.to(device)
        return [picture.to(device) for picture in self.pictures]


class _Seen(NamedTuple):
    tensor: Tensor
    label: int
    filled: float
    shrunk: bool


class _Looking(Dataset["_Seen | str"]):
    def __init__(self, split: Split, view: View, seed: int, epoch: int, smallest_side: int = 1) -> None:
        self.split, self.view, self.seed, self.epoch, self.smallest_side = split, view, seed, epoch, smallest_side

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> _Seen | str:
        draw = np.random.default_rng((self.seed, self.epoch, index))
        try:
            picture, label = self.split.read(index, draw)
        except BadPictureError as error:
            return str(error)  # as words: torch would wrap an error from a worker in that worker's traceback
        tensor = self.view(picture, draw)
        try:
            check_usable(tensor.shape, self.smallest_side, f"picture number {index}")
        except BadPictureError as error:
            return str(error)
        return _Seen(tensor, label, self.view.filled(picture), self.view.shrinks(picture))


def _batch(items: list[_Seen | str], stack: bool) -> Batch:
    seen = [item for item in items if isinstance(item, _Seen)]
    skipped = [item for item in items if isinstance(item, str)]
    pictures = [item.tensor for item in seen]
    labels = torch.tensor([item.label for item in seen], dtype=torch.int64)
    filled = sum(item.filled for item in seen) / max(1, len(seen))
    shrunk = sum(item.shrunk for item in seen)
    return Batch(torch.stack(pictures) if stack and seen else pictures, labels, filled, shrunk, skipped)


def _stacked(items: list[_Seen | str]) -> Batch:
    return _batch(items, stack=True)


def _with_array(item: Any) -> Any:
    """With an array for the tensor: each tensor that a worker sends would hold a file open."""
    return (item.tensor.numpy(), *item[1:]) if isinstance(item, _Seen) else item


def _with_tensor(item: Any) -> _Seen | str:
    return item if isinstance(item, str) else _Seen(torch.from_numpy(item[0]), *item[1:])


def _read(
    looking: _Looking, order: Sequence[int] | None, workers: int, batch_size: int | None, collate: Callable[[Any], Any]
) -> DataLoader[Any]:
    """Pictures in the given order, collated by `batch_size` or, without one, each for itself."""
    indices = range(len(looking)) if order is None else [int(index) for index in order]
    return DataLoader(looking, batch_size, sampler=indices, num_workers=workers, collate_fn=collate)


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
    check_on_bad_picture(on_bad_picture)
    for batch in _read(_Looking(split, view, seed, epoch), order, workers, batch_size, _stacked):
        if batch.skipped and on_bad_picture == "error":
            raise BadPictureError(batch.skipped[0])
        yield batch


def load_packs(
    split: Split,
    view: View,
    patch_size: int,
    token_budget: int = TOKEN_BUDGET,
    *,
    order: Sequence[int] | None = None,
    seed: int = 0,
    epoch: int = 0,
    on_bad_picture: str = "error",
    workers: int = 0,
) -> Iterator[Batch]:
    """Yield the split in lists of pictures of their own sizes, as many as fit a budget of tokens.

    view: one that leaves sizes apart, such as 'native'. token_budget: patches of `patch_size` pixels a side that a list
    holds at most; a picture with more makes a list of its own. As `load_batches` otherwise; a picture smaller than a
    patch counts as one that does not decode.
    """
    check_on_bad_picture(on_bad_picture)
    loader = _read(_Looking(split, view, seed, epoch, patch_size), order, workers, None, _with_array)

    def tokens(item: _Seen | str) -> int:
        if isinstance(item, _Seen):
            return patch_count(item.tensor.shape, patch_size)
        if on_bad_picture == "error":
            raise BadPictureError(item)
        return 0

    for pack in within_budget(map(_with_tensor, loader), tokens, token_budget):
        yield _batch(pack, stack=False)


def check_on_bad_picture(on_bad_picture: str) -> None:
    """Raise ValueError unless it is known what to do with a picture that does not decode."""
    if on_bad_picture not in ("error", "skip"):
        raise ValueError(f"on_bad_picture must be 'error' or 'skip'; got '{on_bad_picture}'")
