"""Variations: how DeiT's training changes images at random, made of timm's parts and drawn for each image by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from PIL import Image, ImageOps
from torch import Tensor

from cpvt.data.base import Sides

AUTO_AUGMENTS = ("rand-m9-mstd0.5-inc1", "original", "augmix-m5-w4-d2")  # for example
OPERATION_SETS = ("tweights", "t3a", "t3aw")  # of RandAugment; timm takes any other word for the usual one
TURNABLE = ("nearest", "bilinear", "bicubic")  # ways of interpolation with which PIL turns and shears


@dataclass(frozen=True)
class Augmentation:
    """What is changed in training images beside their crop; by default nothing.

    timm, like DeiT, leaves `color_jitter` out where `auto_augment` is given. Raises ValueError for words that timm
    does not know.
    """

    auto_augment: str | None = None
    """timm's words for RandAugment, AutoAugment or AugMix, such as rand-m9-mstd0.5-inc1."""
    color_jitter: float = 0.0
    """How far brightness, contrast and saturation may go, as a share of what they are."""
    erasing: float = 0.0
    """Share of the images in which a rectangle is filled with noise."""

    def __post_init__(self) -> None:
        if self.color_jitter < 0 or not 0 <= self.erasing <= 1:
            raise ValueError(
                f"colours change by a share of 0 or more, and 0 to 1 of the images have a part erased; "
                f"got color_jitter {self.color_jitter} and erasing {self.erasing}"
            )
        if self.auto_augment:
            _check_auto_augment(self.auto_augment)

    def apply(
        self, image: Image.Image, sides: Sides, interpolation: str, mean: tuple[float, ...], draw: np.random.Generator
    ) -> Image.Image:
        """The image with its colours changed, and turned, sheared and so on where `auto_augment` has it.

        sides: of what the model sees, by which timm measures how far to move. mean: what moves in from outside.
        """
        if not (self.auto_augment or self.color_jitter):
            return image
        change = _recolouring(self.auto_augment, self.color_jitter, sides, interpolation, mean)
        with seeded(int(draw.integers(2**31)), numpy_too=True):
            return change(image)

    def erase(self, tensor: Tensor, draw: np.random.Generator) -> Tensor:
        """The normalised image (C, H, W), here and there with noise in a rectangle of it; changed in place."""
        if not self.erasing:
            return tensor
        with seeded(int(draw.integers(2**31))):
            return _erasing(self.erasing)(tensor)


NO_AUGMENTATION = Augmentation()


def crop(
    image: Image.Image, sides: Sides, scale: tuple[float, float], interpolation: str, draw: np.random.Generator
) -> Image.Image:
    """A random part of the image, `scale` of its area, at the given sides; half of them mirrored."""
    cut = _timm(sides, scale=scale, interpolation=interpolation, color_jitter=None)[0]
    with seeded(int(draw.integers(2**31))):
        return cut(image)


@contextmanager
def seeded(seed: int, numpy_too: bool = False) -> Iterator[None]:
    """Seed the global generators that timm's and torchvision's parts draw from, and put them back after.

    numpy_too: NumPy's as well, which RandAugment and AugMix need. It is exchanged, as copying its state would take
    longer than an image does; what NumPy keeps of a pair of normal draws is lost by that.
    """
    ours = torch.default_generator  # the CPU's alone: torch.manual_seed also writes a traceback for every GPU to come
    theirs = mtrand.get_bit_generator()
    before = random.getstate(), ours.get_state()
    random.seed(seed)
    ours.manual_seed(seed)
    if numpy_too:
        mtrand.set_bit_generator(np.random.MT19937())
        np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        ours.set_state(before[1])
        if numpy_too:
            mtrand.set_bit_generator(theirs)


@lru_cache(maxsize=64)
def _timm(sides: Sides, **options: Any) -> tuple[Callable[..., Any], ...]:
    """timm's transform to train with, in three stages: crop and mirror, colours, normalisation."""
    from timm.data import create_transform

    stages: tuple[Callable[..., Any], ...] = create_transform(sides, is_training=True, separate=True, **options)
    return stages


@lru_cache(maxsize=64)
def _recolouring(
    auto_augment: str | None, jitter: float, sides: Sides, interpolation: str, mean: tuple[float, ...]
) -> Callable[[Image.Image], Image.Image]:
    way = interpolation if interpolation in TURNABLE else "bicubic"
    change: Any = _timm(sides, auto_augment=auto_augment, color_jitter=jitter or None, interpolation=way, mean=mean)[1]
    for step in change.transforms:
        for operation in (*getattr(step, "ops", ()), *chain.from_iterable(getattr(step, "policy", ()))):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    return change


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep so many bits of each value: at none black, for which timm's strongest asks and which Pillow 13 refuses."""
    return ImageOps.posterize(image, min(bits, 8)) if bits >= 1 else Image.new(image.mode, image.size)


@lru_cache(maxsize=8)
def _erasing(share: float) -> Callable[[Tensor], Tensor]:
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(share, mode="pixel", max_count=1, device="cpu")


@lru_cache(maxsize=64)
def _check_auto_augment(words: str) -> None:
    """Raise ValueError unless timm knows all the words: make what they say and try it on an image."""
    unread = [word for word in words.split("-")[1:] if not _is_read(word)]
    try:
        if unread:
            raise ValueError(f"'{unread[0]}' says nothing to timm")
        change = _recolouring(words, 0.0, (8, 8), "bicubic", (0.5,))
        with seeded(0, numpy_too=True):
            change(Image.new("L", (8, 8)))
    except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"auto_augment takes timm's words, such as {', '.join(AUTO_AUGMENTS)}; got '{words}' ({error})"
        ) from error


def _is_read(word: str) -> bool:
    """Whether timm reads this part of its words; it passes over those without a number in silence."""
    return word in OPERATION_SETS or (not word.startswith("t") and any(letter.isdigit() for letter in word))
