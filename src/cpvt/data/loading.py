"""Batches of images, stacked or listed; all randomness of an image follows from (seed, epoch, number, copy)."""

from __future__ import annotations

import io
import logging
import math
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cpvt.config import MAX_IMAGE_PIXELS, TOKEN_BUDGET
from cpvt.data.base import Encoded, Sides, Split, Stream, name_of
from cpvt.data.decoding import READING, BadImageError, check_usable, decode, pixel_limit, with_hint
from cpvt.data.deferred import reduced_jpegs
from cpvt.data.protocols import Protocol
from cpvt.grids import patch_count, within_budget


class Batch(NamedTuple):
    """Some images as the model sees them."""

    images: Tensor | list[Tensor]  # (B, C, H, W), or (C, H_i, W_i) each of its own size
    labels: Tensor  # (B,)
    padding_fraction: float  # mean over the images
    shrunk: int  # images that were larger than the longest side allowed
    skipped: list[str]  # messages of images that could not be used

    def images_on(self, device: torch.device) -> Tensor | list[Tensor]:
        """The images on a device; the copy to a GPU is asynchronous where they were pinned."""
        non_blocking = device.type == "cuda"
        if isinstance(self.images, Tensor):
            return self.images.to(device, non_blocking=non_blocking)
        return [image.to(device, non_blocking=non_blocking) for image in self.images]


class SampleSpec(NamedTuple):
    """One image to read: its number, which augmented copy, and at which sides."""

    number: int  # in the split
    copy: int = 0  # of the augmented copies that an epoch holds (repeated augmentation)
    sides: Sides | None = None  # height and width in pixels, instead of the protocol's own

    def generator(self, seed: int, epoch: int) -> np.random.Generator:
        """The generator of all its randomness, the same wherever and whenever it is read."""
        address = (seed, epoch, self.number)
        return np.random.default_rng((*address, self.copy) if self.copy else address)


def check_on_bad_image(on_bad_image: str) -> None:
    """Raise ValueError unless `on_bad_image` is 'error' or 'skip'."""
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"on_bad_image must be 'error' or 'skip'; got '{on_bad_image}'")


@dataclass(frozen=True)
class LoadOptions:
    """How images are read, by whatever function. Raises ValueError for an unknown `on_bad_image`."""

    seed: int = 0
    epoch: int = 0
    on_bad_image: str = "error"
    """'error' raises BadImageError; 'skip' leaves the image out and names it in the batch."""
    workers: int = 0
    """Processes that read, besides this one."""
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """Images of more pixels count as bad."""
    labelled: bool = True
    """Whether images without a class, which have -1, count as bad."""
    classes: int | None = None
    """How many classes there are, numbered from 0: an image of another is a ValueError. None: any number."""
    smallest_side: int = 1
    """Images with a side below this many pixels count as bad."""
    stack: bool = True
    """Whether a batch is one tensor; else it is a list, each image at its own size."""
    pin: bool = False
    """Whether images go to pinned memory, from which a GPU copies faster."""

    def __post_init__(self) -> None:
        check_on_bad_image(self.on_bad_image)


_DEFAULTS = LoadOptions()
_said: set[int | None] = set()  # longest sides to which an image was shrunk
logger = logging.getLogger(__name__)


class _Info(NamedTuple):
    shape: Sequence[int]  # (C, H, W)
    label: int
    padding_fraction: float
    shrunk: str  # the image's name, if it was larger than the longest side allowed, else ''


class _WrongClass(str):
    """What is wrong with the label of an image, which is an error even where bad images are skipped."""


class _Collated(NamedTuple):
    """A batch in one tensor, as each tensor that a worker sends holds a file open."""

    values: Tensor  # of all images, end to end
    infos: list[_Info]
    skipped: list[str]


class _Samples(Dataset["tuple[Tensor, _Info] | str"]):
    def __init__(self, split: Split | None, preprocessing: Protocol, options: LoadOptions) -> None:
        self.split, self.preprocessing, self.options = split, preprocessing, options

    def __getitems__(self, batch: Sequence[SampleSpec | Encoded]) -> list[tuple[Tensor, _Info] | str]:
        with READING:  # PIL is prepared once
            return [self[wanted] for wanted in batch]

    def __getitem__(self, wanted: SampleSpec | Encoded) -> tuple[Tensor, _Info] | str:
        spec = SampleSpec(wanted.number) if isinstance(wanted, Encoded) else wanted
        generator = spec.generator(self.options.seed, self.options.epoch)
        preprocessing = self.preprocessing.at(spec.sides)
        try:
            with pixel_limit(self.options.max_image_pixels), reduced_jpegs(preprocessing.transform.reduced_jpegs):
                image, label = self._read(wanted, generator)
            with pixel_limit(None):  # PIL also has one for crops
                tensor = preprocessing(image, generator)
            label = -1 if label is None else label
            if self.options.labelled and label < 0:
                raise BadImageError(f"{self._name(wanted)} has no class; choose a set, or a part of it, with classes")
            if self.options.classes is not None and label >= self.options.classes:
                return _WrongClass(
                    f"{self._name(wanted)} has class number {label}, but the data set names {self.options.classes} "
                    "classes, numbered from 0: correct its class_names or its labels"
                )
            check_usable(tensor.shape, self.options.smallest_side, self._name(wanted))
        except BadImageError as error:
            return str(error)  # torch would wrap an error from a worker in that worker's traceback
        shrunk = self._name(wanted) if preprocessing.shrinks(image) else ""
        return tensor, _Info(tuple(tensor.shape), label, preprocessing.padding_fraction(image), shrunk)

    def _read(self, wanted: SampleSpec | Encoded, generator: np.random.Generator) -> tuple[Image.Image, int]:
        if isinstance(wanted, Encoded):
            return decode(io.BytesIO(wanted.content), wanted.name, self.preprocessing.transform.mode), wanted.label
        assert self.split is not None
        return self.split.read(wanted.number, generator)

    def _name(self, wanted: SampleSpec | Encoded) -> str:
        name = wanted.name if isinstance(wanted, Encoded) else name_of(self.split, wanted.number)
        return f"image '{name}'" if name else f"image number {wanted.number}"


def _collate(items: list[tuple[Tensor, _Info] | str]) -> _Collated:
    found = [item for item in items if not isinstance(item, str)]
    values = torch.cat([tensor.flatten() for tensor, _ in found]) if found else torch.empty(0)
    return _Collated(values, [info for _, info in found], [item for item in items if isinstance(item, str)])


def _batch(collated: _Collated, stack: bool) -> Batch:
    infos = collated.infos
    shapes = [info.shape for info in infos]
    images: Tensor | list[Tensor]
    if stack and infos:
        if len({tuple(shape) for shape in shapes}) > 1:
            raise ValueError("images of several sizes do not stack; pass stack=False for a list of them")
        images = collated.values.view(len(infos), *shapes[0])
    else:
        lengths = [math.prod(shape) for shape in shapes]
        images = [values.view(*shape) for values, shape in zip(collated.values.split(lengths), shapes)]
    labels = torch.tensor([info.label for info in infos], dtype=torch.int64)
    fraction = sum(info.padding_fraction for info in infos) / max(1, len(infos))
    return Batch(images, labels, fraction, sum(bool(info.shrunk) for info in infos), collated.skipped)


def load_plan(
    split: Split, preprocessing: Protocol, plan: Iterable[Sequence[SampleSpec]], options: LoadOptions = _DEFAULTS
) -> Iterator[Batch]:
    """Yield a batch for each element of a plan, in its order; an empty element gives an empty batch.

    What is random about an image depends on (seed, epoch, its number), and on its copy where that is not 0. It depends
    neither on the worker that reads it, nor on what was read before. Raises BadImageError, naming the image, where one
    does not decode or is too small, unless `options` skip it.
    """
    return _load(_Samples(split, preprocessing, options), plan, options)


def load_stream(
    stream: Stream,
    preprocessing: Protocol,
    batch_size: int,
    options: LoadOptions = _DEFAULTS,
    *,
    part: int = 0,
    parts: int = 1,
    shuffle: int = 0,
    skip: int = 0,
) -> Iterator[Batch]:
    """Yield one part of a stream in batches; see `Stream.share` for part and shuffle, `load_plan` for the rest.

    The stream is read here and decoded by the workers, so images and their order do not depend on the workers.
    skip: images to leave out at the start, to resume where an earlier reading ended.
    """
    found = islice(stream.share(part, parts, seed=options.seed, epoch=options.epoch, shuffle=shuffle), skip, None)
    batches = iter(lambda: list(islice(found, batch_size)), [])
    return _load(_Samples(None, preprocessing, options), batches, options)


def _load(samples: _Samples, plan: Iterable[Sequence[SampleSpec | Encoded]], options: LoadOptions) -> Iterator[Batch]:
    loader = DataLoader(
        samples, batch_sampler=map(list, plan), num_workers=options.workers, collate_fn=_collate,
        pin_memory=options.pin, generator=torch.Generator(),  # else torch seeds its workers from the global generator
        worker_init_fn=_leave_signals,
    )  # fmt: skip
    for collated in loader:
        wrong = next((each for each in collated.skipped if isinstance(each, _WrongClass)), None)
        if wrong is not None:
            raise ValueError(wrong)
        if collated.skipped and options.on_bad_image == "error":
            raise with_hint(collated.skipped[0])
        if not samples.preprocessing.size_is_limit:  # under native it is what a size means
            _tell_shrunk(next((info.shrunk for info in collated.infos if info.shrunk), ""), samples.preprocessing)
        yield _batch(collated, options.stack)


def _tell_shrunk(name: str, preprocessing: Protocol) -> None:
    """Name the first image that is shrunk to a longest side; the others are counted."""
    side = preprocessing.longest_side
    if name and side not in _said:
        _said.add(side)
        logger.info(f"{name} is shrunk to the longest side allowed, {side} pixels (--longest-side); more are counted")


def _leave_signals(worker: int) -> None:
    """Have a worker leave Ctrl-C, and a first SIGTERM, to the main process, which needs its images to finish a step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def load_batches(
    split: Split,
    preprocessing: Protocol,
    batch_size: int,
    options: LoadOptions = _DEFAULTS,
    *,
    order: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yield the split in batches, in the given order of numbers; by default in its own order."""
    return load_plan(split, preprocessing, _plan(split, order, batch_size), options)


def load_packs(
    split: Split,
    preprocessing: Protocol,
    patch_size: int,
    token_budget: int = TOKEN_BUDGET,
    options: LoadOptions = _DEFAULTS,
    *,
    order: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yield the split in lists of images at their own sizes, as many as fit a budget of tokens.

    preprocessing: one that keeps sizes, such as 'native'. token_budget: patches of `patch_size` pixels a side that a
    list holds at most; an image with more gets a list of its own. An image smaller than a patch counts as bad.
    """
    single = replace(options, smallest_side=patch_size, stack=False)
    singles = load_plan(split, preprocessing, _plan(split, order, 1), single)

    def tokens(batch: Batch) -> int:
        return sum(patch_count(image.shape, patch_size) for image in batch.images)

    for pack in within_budget(map(_owned, singles), tokens, token_budget):
        yield _joined(pack)


def _plan(split: Split, order: Sequence[int] | None, batch_size: int) -> Iterator[list[SampleSpec]]:
    numbers = range(len(split)) if order is None else order
    for start in range(0, len(numbers), batch_size):
        yield [SampleSpec(int(number)) for number in numbers[start : start + batch_size]]


def _owned(batch: Batch) -> Batch:
    """The batch in memory of its own, as what a worker sent holds a file open."""
    return batch._replace(images=[image.clone() for image in batch.images])


def _joined(batches: Sequence[Batch]) -> Batch:
    labels = torch.cat([batch.labels for batch in batches])
    return Batch(
        [image for batch in batches for image in batch.images],
        labels,
        sum(batch.padding_fraction * len(batch.labels) for batch in batches) / max(1, len(labels)),
        sum(batch.shrunk for batch in batches),
        [message for batch in batches for message in batch.skipped],
    )
