"""Batches: images read, viewed and stacked or listed, each drawn from (seed, epoch, number, copy) and from nothing else."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cpvt.config import TOKEN_BUDGET
from cpvt.data.base import Encoded, Sides, Split, Stream
from cpvt.data.decoding import BadImageError, check_usable, decode
from cpvt.data.preprocessing import Preprocessing
from cpvt.grids import patch_count, within_budget


class Batch(NamedTuple):
    """Some images as the model sees them."""

    images: Tensor | list[Tensor]  # (B, C, H, W), or (C, H_i, W_i) each of its own size
    labels: Tensor  # (B,)
    padding_fraction: float  # mean share of an image that is fill
    shrunk: int  # images that were larger than the longest side allowed
    skipped: list[str]  # messages of images that could not be used

    def images_on(self, device: torch.device) -> Tensor | list[Tensor]:
        """The images, moved to a device; to a GPU without waiting where they were pinned."""
        without_waiting = device.type == "cuda"
        if isinstance(self.images, Tensor):
            return self.images.to(device, non_blocking=without_waiting)
        return [image.to(device, non_blocking=without_waiting) for image in self.images]


class SampleSpec(NamedTuple):
    """One image of a plan: which, in which of its variations, and at which sides."""

    number: int  # in the split
    copy: int = 0  # which of several variations that an epoch holds
    sides: Sides | None = None  # height and width in pixels, instead of the preprocessing's own

    def generator(self, seed: int, epoch: int) -> np.random.Generator:
        """What is random about it, the same wherever and whenever it is read."""
        address = (seed, epoch, self.number)
        return np.random.default_rng((*address, self.copy) if self.copy else address)


class _Seen(NamedTuple):
    shape: Sequence[int]  # (C, H, W)
    label: int
    padding_fraction: float
    shrunk: bool


class _Part(NamedTuple):
    """What is read of a plan at a time, with one tensor: each that a worker sends holds a file open."""

    values: Tensor  # of all images, end to end
    seen: list[_Seen]
    skipped: list[str]


class _Looking(Dataset["tuple[Tensor, _Seen] | str"]):
    def __init__(
        self, split: Split | None, preprocessing: Preprocessing, seed: int, epoch: int, smallest_side: int
    ) -> None:
        self.split, self.preprocessing, self.seed, self.epoch, self.smallest_side = (
            split,
            preprocessing,
            seed,
            epoch,
            smallest_side,
        )

    def __getitem__(self, wanted: SampleSpec | Encoded) -> tuple[Tensor, _Seen] | str:
        where = SampleSpec(wanted.number) if isinstance(wanted, Encoded) else wanted
        draw, preprocessing = where.generator(self.seed, self.epoch), self.preprocessing.at(where.sides)
        try:
            image, label = self._read(wanted, draw)
            tensor = preprocessing(image, draw)
            check_usable(tensor.shape, self.smallest_side, f"image number {wanted.number}")
        except BadImageError as error:
            return str(error)  # as words: torch would wrap an error from a worker in that worker's traceback
        return tensor, _Seen(
            tuple(tensor.shape), label, preprocessing.padding_fraction(image), preprocessing.shrinks(image)
        )

    def _read(self, wanted: SampleSpec | Encoded, draw: np.random.Generator) -> tuple[Image.Image, int]:
        if isinstance(wanted, Encoded):
            return decode(io.BytesIO(wanted.content), wanted.name, self.preprocessing.transform.mode), wanted.label
        assert self.split is not None
        return self.split.read(wanted.number, draw)


def _part(items: list[tuple[Tensor, _Seen] | str]) -> _Part:
    seen = [item for item in items if not isinstance(item, str)]
    values = torch.cat([tensor.flatten() for tensor, _ in seen]) if seen else torch.empty(0)
    return _Part(values, [each for _, each in seen], [item for item in items if isinstance(item, str)])


def _batch(part: _Part, stack: bool) -> Batch:
    seen, shapes = part.seen, [each.shape for each in part.seen]
    images: Tensor | list[Tensor]
    if stack and seen:
        if len({tuple(shape) for shape in shapes}) > 1:
            raise ValueError("images of several sizes do not stack; pass stack=False for a list of them")
        images = part.values.view(len(seen), *shapes[0])
    else:
        lengths = [math.prod(shape) for shape in shapes]
        images = [values.view(*shape) for values, shape in zip(part.values.split(lengths), shapes)]
    labels = torch.tensor([each.label for each in seen], dtype=torch.int64)
    filled = sum(each.padding_fraction for each in seen) / max(1, len(seen))
    return Batch(images, labels, filled, sum(each.shrunk for each in seen), part.skipped)


def load_plan(
    split: Split,
    preprocessing: Preprocessing,
    plan: Iterable[Sequence[SampleSpec]],
    *,
    seed: int = 0,
    epoch: int = 0,
    on_bad_image: str = "error",
    workers: int = 0,
    smallest_side: int = 1,
    stack: bool = True,
    pin: bool = False,
) -> Iterator[Batch]:
    """Yield a batch for each element of a plan, in its order; an empty element makes an empty batch.

    What is random about an image depends on (seed, epoch, its number), and on its copy where that is not 0, and on
    nothing else: not on who reads it, nor on what was read before. An image that does not decode, or that has a side
    below `smallest_side` pixels, is an error that names it, or with `on_bad_image='skip'` is left out and named in
    the batch.
    workers: processes that read. stack: one tensor a batch, else a list, each image at its own size.
    pin: put the images where a GPU fetches them faster.
    """
    looking = _Looking(split, preprocessing, seed, epoch, smallest_side)
    return _load(looking, plan, on_bad_image, workers, stack, pin)


def load_stream(
    stream: Stream,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    part: int = 0,
    parts: int = 1,
    shuffle: int = 0,
    skip: int = 0,
    seed: int = 0,
    epoch: int = 0,
    on_bad_image: str = "error",
    workers: int = 0,
    smallest_side: int = 1,
    stack: bool = True,
    pin: bool = False,
) -> Iterator[Batch]:
    """Yield one part of a stream in batches; see `Stream.share` for the part and `load_plan` for the rest.

    The stream is read here and decoded by the workers, so the images and their order do not depend on these.
    skip: images at its start to leave out, to go on where an earlier reading ended.
    """
    found = islice(stream.share(part, parts, seed=seed, epoch=epoch, shuffle=shuffle), skip, None)
    looking = _Looking(None, preprocessing, seed, epoch, smallest_side)
    return _load(looking, iter(lambda: list(islice(found, batch_size)), []), on_bad_image, workers, stack, pin)


def _load(
    looking: Any,
    plan: Iterable[Sequence[SampleSpec | Encoded]],
    on_bad_image: str,
    workers: int,
    stack: bool,
    pin: bool,
) -> Iterator[Batch]:
    check_on_bad_image(on_bad_image)
    loader = DataLoader(
        looking, batch_sampler=map(list, plan), num_workers=workers, collate_fn=_part, pin_memory=pin,
        generator=torch.Generator(),  # torch draws a seed for its workers, and would from the generator of all
    )  # fmt: skip
    for part in loader:
        if part.skipped and on_bad_image == "error":
            raise BadImageError(part.skipped[0])
        yield _batch(part, stack)


def load_batches(
    split: Split, preprocessing: Preprocessing, batch_size: int, *, order: Sequence[int] | None = None, **how: Any
) -> Iterator[Batch]:
    """Yield the split in batches, in the given order of numbers (by default as it stands).

    how: the options of `load_plan`.
    """
    return load_plan(split, preprocessing, _plan(split, order, batch_size), **how)


def load_packs(
    split: Split,
    preprocessing: Preprocessing,
    patch_size: int,
    token_budget: int = TOKEN_BUDGET,
    *,
    order: Sequence[int] | None = None,
    **how: Any,
) -> Iterator[Batch]:
    """Yield the split in lists of images of their own sizes, as many as fit a budget of tokens.

    preprocessing: one that leaves sizes apart, such as 'native'. token_budget: patches of `patch_size` pixels a side that a list
    holds at most; an image with more makes a list of its own. As `load_batches` otherwise; an image smaller than a
    patch counts as one that does not decode.
    """
    singles = load_plan(split, preprocessing, _plan(split, order, 1), smallest_side=patch_size, stack=False, **how)

    def tokens(single: Batch) -> int:
        return sum(patch_count(image.shape, patch_size) for image in single.images)

    for pack in within_budget(map(_owned, singles), tokens, token_budget):
        yield _joined(pack)


def _plan(split: Split, order: Sequence[int] | None, batch_size: int) -> Iterator[list[SampleSpec]]:
    numbers = range(len(split)) if order is None else order
    for start in range(0, len(numbers), batch_size):
        yield [SampleSpec(int(number)) for number in numbers[start : start + batch_size]]


def _owned(batch: Batch) -> Batch:
    """With memory of its own: what a worker sent holds a file open."""
    return batch._replace(images=[image.clone() for image in batch.images])


def _joined(batches: Sequence[Batch]) -> Batch:
    """Lists of images, end to end."""
    labels = torch.cat([batch.labels for batch in batches])
    return Batch(
        [image for batch in batches for image in batch.images],
        labels,
        sum(batch.padding_fraction * len(batch.labels) for batch in batches) / max(1, len(labels)),
        sum(batch.shrunk for batch in batches),
        [words for batch in batches for words in batch.skipped],
    )


def check_on_bad_image(on_bad_image: str) -> None:
    """Raise ValueError unless it is known what to do with an image that does not decode."""
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"on_bad_image must be 'error' or 'skip'; got '{on_bad_image}'")
