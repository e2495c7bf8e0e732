"""Views: how a picture becomes the tensor a model sees, at any height and width, under every protocol.

resize: the same picture in more pixels; objects grow.
canvas: objects keep their pixels and the field of view grows; a size below the picture's is a crop from its middle,
a size above it a canvas filled with zeros (after normalisation) with the picture at a seeded place.
native: whole pictures in their own proportions; those with a longer side than the size are shrunk to it. Sizes differ
from picture to picture, so they make lists, not batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cpvt.data.base import Sides
from cpvt.data.variations import UNVARIED, Variation, crop

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")  # PIL's, as timm names them


@dataclass(frozen=True)
class Transform:
    """Turns pictures into normalised tensors (C, H, W); saved with every checkpoint."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_ratio: float = 0.875
    interpolation: str = "bicubic"
    longest_side: int | None = None
    """Pictures with a longer side are shrunk to it before they are cropped, laid on a canvas or seen whole."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std) <= 0:
            raise ValueError(
                f"mean and std are one number each, or three (std above 0); got {self.mean} and {self.std}"
            )
        if self.longest_side is not None and self.longest_side < 1:
            raise ValueError(f"the longest side is 1 pixel or more; got {self.longest_side}")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"a crop ratio is above 0 and at most 1; got {self.crop_ratio}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"unknown interpolation '{self.interpolation}'; known: {', '.join(INTERPOLATIONS)}")

    @property
    def mode(self) -> str:
        return "L" if len(self.mean) == 1 else "RGB"

    def __call__(self, picture: Image.Image) -> Tensor:
        """The whole picture at its own size."""
        values = np.asarray(picture if picture.mode == self.mode else picture.convert(self.mode))
        return self._normalised(values.reshape(*values.shape[:2], len(self.mean)).transpose(2, 0, 1))

    def _normalised(self, seen: NDArray[np.uint8]) -> Tensor:
        """From values of 0 to 255, (C, H, W)."""
        values = seen.astype(np.float32, order="C")  # in memory as in the tensor, then in place: four times as fast
        values /= 255
        values -= _by_channel(self.mean)
        values /= _by_channel(self.std)
        return torch.from_numpy(values)

    def limit(self, picture: Image.Image) -> Image.Image:
        """The picture, shrunk in proportion where a side is longer than `longest_side`; else the very same object."""
        size = self.limited(picture)
        return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)

    def limited(self, picture: Image.Image) -> tuple[int, int]:
        """Width and height to which a picture is shrunk; its own where no side is too long."""
        width, height = picture.size
        scale = min(1.0, (self.longest_side or math.inf) / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def resize(self, picture: Image.Image, sides: Sides) -> Tensor:
        """The same picture in another number of pixels: scaled to cover sides / crop ratio, middle cut out."""
        if picture.size == (sides[1], sides[0]) and self.crop_ratio == 1.0:
            return self(picture)
        picture = picture if picture.mode == self.mode else picture.convert(self.mode)
        return self._normalised(_resizing(sides, self.crop_ratio, self.interpolation)(picture).numpy())

    def canvas(
        self,
        picture: Image.Image,
        sides: Sides,
        draw: np.random.Generator,
        anywhere: bool = False,
        vary: Callable[[Image.Image], Image.Image] | None = None,
    ) -> Tensor:
        """The picture at its own scale on a canvas; larger ones are cut to it, from the middle unless `anywhere`.

        vary: what is done to the part that is seen.
        """
        picture = self.limit(picture)
        (top, y, rows), (left, x, columns) = (
            _place(length, side, draw, anywhere) for length, side in zip((picture.height, picture.width), sides)
        )
        part = picture.crop((left, top, left + columns, top + rows))
        canvas = torch.zeros(len(self.mean), *sides)
        canvas[:, y : y + rows, x : x + columns] = self(vary(part) if vary else part)
        return canvas


@lru_cache(maxsize=16)
def _by_channel(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)[:, None, None]


def _place(length: int, side: int, draw: np.random.Generator, anywhere: bool) -> tuple[int, int, int]:
    """Along one axis: where to start in the picture, where on the canvas, and how many pixels."""
    if length >= side:
        return (int(draw.integers(0, length - side + 1)) if anywhere else (length - side) // 2), 0, side
    return 0, int(draw.integers(0, side - length + 1)), length


@lru_cache(maxsize=64)
def _resizing(sides: Sides, crop_ratio: float, interpolation: str) -> Callable[[Image.Image], Tensor]:
    from timm.data import create_transform

    resizing: Callable[[Image.Image], Tensor] = create_transform(
        sides, is_training=False, crop_pct=crop_ratio, interpolation=interpolation, normalize=False
    )
    return resizing


VIEWS = ("resize", "canvas", "resized-crop", "crop")  # which give every picture the same sides
NATIVE_VIEWS = ("native", "native-mirrored")  # which leave every picture its own


@dataclass(frozen=True)
class View:
    """One way to look at pictures: a protocol ('resize', 'canvas', 'native'), or one to train with.

    'resized-crop': a random part, `crop_scale` of the area, scaled to the sides, and half of them mirrored.
    'crop': a random place at the picture's own scale, half of them mirrored.
    'native-mirrored': as 'native', half of them mirrored.
    """

    transform: Transform
    kind: str
    sides: Sides
    crop_scale: tuple[float, float] = (0.35, 1.0)
    variation: Variation = UNVARIED

    def __post_init__(self) -> None:
        if self.kind not in (*VIEWS, *NATIVE_VIEWS):
            known = ", ".join((*VIEWS, "none", *NATIVE_VIEWS))
            raise ValueError(f"unknown view or augmentation '{self.kind}'; known: {known}")
        if self.kind in ("resize", "native") and self.variation != UNVARIED:
            raise ValueError(
                f"'{self.kind}' shows pictures to test with, which are not varied; got {self.variation}. "
                "Choose another augmentation, or none of auto_augment, color_jitter and erasing"
            )

    @property
    def stacks(self) -> bool:
        """Whether all pictures come out at the same sides, so that they make batches and not lists."""
        return self.kind in VIEWS

    def at(self, sides: Sides | None) -> View:
        """The same view at other sides; at its own without."""
        return self if sides in (None, self.sides) else replace(self, sides=sides)

    def __call__(self, picture: Image.Image, draw: np.random.Generator) -> Tensor:
        """The tensor (C, H, W) that the model sees; `draw` decides what is random."""
        transform, sides = self.transform, self.sides
        picture = picture if picture.mode == transform.mode else picture.convert(transform.mode)

        def vary(seen: Image.Image) -> Image.Image:
            return self.variation.recolour(seen, sides, transform.interpolation, transform.mean, draw)

        if self.kind == "resize":
            tensor = transform.resize(picture, sides)
        elif self.kind == "resized-crop":
            tensor = transform(vary(crop(picture, sides, self.crop_scale, transform.interpolation, draw)))
        elif self.kind in NATIVE_VIEWS:
            tensor = transform(vary(replace(transform, longest_side=max(sides)).limit(picture)))
        else:
            tensor = transform.canvas(picture, sides, draw, self.kind == "crop", vary)
        if self.kind in ("crop", "native-mirrored") and draw.random() < 0.5:
            tensor = tensor.flip(2)
        return self.variation.erase(tensor, draw)

    def shrinks(self, picture: Image.Image) -> bool:
        """Whether the picture is larger than the longest side allowed, and is shrunk for it."""
        longest = max(self.sides) if self.kind in NATIVE_VIEWS else self.transform.longest_side
        return self.kind in ("canvas", "crop", *NATIVE_VIEWS) and longest is not None and max(picture.size) > longest

    def filled(self, picture: Image.Image) -> float:
        """Share of what the model sees that is fill, 0 to 1."""
        height, width = self.sides
        if self.kind not in ("canvas", "crop"):
            return 0.0
        own_width, own_height = self.transform.limited(picture)
        return 1 - min(own_height, height) * min(own_width, width) / (height * width)
