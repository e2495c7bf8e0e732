"""Augmentation as in DeiT, from timm's transforms; each image draws its own from a generator that is passed."""

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

AUTO_AUGMENTS = ("rand-m9-mstd0.5-inc1", "original", "augmix-m5-w4-d2")  # examples for messages
OPERATION_SETS = ("tweights", "t3a", "t3aw")  # of RandAugment; timm takes any other name for the default set
GEOMETRIC = ("nearest", "bilinear", "bicubic")  # interpolations with which PIL rotates and shears


@dataclass(frozen=True)
class Augmentation:
    """What is augmented in training images besides their crop; by default nothing, and then it is false.

    timm, like DeiT, ignores `color_jitter` where `auto_augment` is given. Raises ValueError for a fraction out of
    range or a configuration that timm does not know.
    """

    auto_augment: str | None = None
    """timm's configuration of RandAugment, AutoAugment or AugMix, such as rand-m9-mstd0.5-inc1."""
    color_jitter: float = 0.0
    """How far brightness, contrast and saturation may change, as a fraction of their value."""
    erasing: float = 0.0
    """Fraction of the images in which a rectangle is replaced by noise."""

    def __post_init__(self) -> None:
        if self.color_jitter < 0 or not 0 <= self.erasing <= 1:
            raise ValueError(
                "color_jitter must be 0 or more, and erasing from 0 to 1; "
                f"got color_jitter {self.color_jitter} and erasing {self.erasing}"
            )
        if self.auto_augment:
            _check_auto_augment(self.auto_augment)

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def apply(
        self,
        image: Image.Image,
        sides: Sides,
        interpolation: str,
        mean: tuple[float, ...],
        generator: np.random.Generator,
    ) -> Image.Image:
        """The image with its colours changed, and its geometry where `auto_augment` says so.

        sides: of what the model sees, from which timm computes translations. mean: colour of the padding.
        """
        if not (self.auto_augment or self.color_jitter):
            return image
        transform = _color_transform(self.auto_augment, self.color_jitter, sides, interpolation, mean)
        with seeded(int(generator.integers(2**31)), numpy_too=True):
            return transform(image)

    def erase(self, tensor: Tensor, generator: np.random.Generator) -> Tensor:
        """The normalised image (C, H, W), perhaps with noise in a rectangle; changed in place."""
        if not self.erasing:
            return tensor
        with seeded(int(generator.integers(2**31))):
            return _random_erasing(self.erasing)(tensor)


def crop(
    image: Image.Image,
    sides: Sides,
    scale: tuple[float, float],
    interpolation: str,
    hflip: float,
    generator: np.random.Generator,
) -> Image.Image:
    """A random resized crop: `scale` of the image's area at the given sides, mirrored with probability `hflip`."""
    transform = _timm(sides, scale=scale, interpolation=interpolation, hflip=hflip, color_jitter=None)[0]
    with seeded(int(generator.integers(2**31))):
        return transform(image)


@contextmanager
def seeded(seed: int, numpy_too: bool = False) -> Iterator[None]:
    """Seed the global generators that timm and torchvision draw from, and restore them afterwards.

    numpy_too: NumPy's as well, which RandAugment and AugMix need. Its bit generator is exchanged, as copying the state
    takes longer than an image does. The second of a pair of normal draws, which NumPy caches, is lost by that.
    """
    torch_generator = torch.default_generator  # torch.manual_seed also writes a traceback for every GPU to come
    numpy_generator = mtrand.get_bit_generator()
    python_state, torch_state = random.getstate(), torch_generator.get_state()
    random.seed(seed)
    torch_generator.manual_seed(seed)
    if numpy_too:
        mtrand.set_bit_generator(np.random.MT19937())
        np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python_state)
        torch_generator.set_state(torch_state)
        if numpy_too:
            mtrand.set_bit_generator(numpy_generator)


@lru_cache(maxsize=64)
def _timm(sides: Sides, **options: Any) -> tuple[Callable[..., Any], ...]:
    """timm's training transform in three stages: crop and mirror, colours, normalisation."""
    from timm.data import create_transform

    stages: tuple[Callable[..., Any], ...] = create_transform(sides, is_training=True, separate=True, **options)
    return stages


@lru_cache(maxsize=64)
def _color_transform(
    auto_augment: str | None, jitter: float, sides: Sides, interpolation: str, mean: tuple[float, ...]
) -> Callable[[Image.Image], Image.Image]:
    method = interpolation if interpolation in GEOMETRIC else "bicubic"
    stages = _timm(sides, auto_augment=auto_augment, color_jitter=jitter or None, interpolation=method, mean=mean)
    transform: Any = stages[1]
    for step in transform.transforms:
        for operation in (*getattr(step, "ops", ()), *chain.from_iterable(getattr(step, "policy", ()))):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    return transform


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep `bits` of each value; 0 bits, timm's strongest, give black, where Pillow 13 raises an error."""
    return ImageOps.posterize(image, min(bits, 8)) if bits >= 1 else Image.new(image.mode, image.size)


@lru_cache(maxsize=8)
def _random_erasing(probability: float) -> Callable[[Tensor], Tensor]:
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(probability, mode="pixel", max_count=1, device="cpu")


@lru_cache(maxsize=64)
def _check_auto_augment(name: str) -> None:
    """Raise ValueError unless timm knows every part of the configuration; tried on a small image."""
    unknown = [part for part in name.split("-")[1:] if not _is_known(part)]
    try:
        if unknown:
            raise ValueError(f"timm does not know '{unknown[0]}'")
        transform = _color_transform(name, 0.0, (8, 8), "bicubic", (0.5,))
        with seeded(0, numpy_too=True):
            transform(Image.new("L", (8, 8)))
    except (AssertionError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"aa (--aa) must be a configuration of timm, such as {', '.join(AUTO_AUGMENTS)}; got '{name}'"
            + (f" ({error})" if str(error) else "")
        ) from error


def _is_known(part: str) -> bool:
    """Whether timm reads this part of a configuration; it silently ignores those without a number."""
    return part in OPERATION_SETS or (not part.startswith("t") and any(letter.isdigit() for letter in part))
