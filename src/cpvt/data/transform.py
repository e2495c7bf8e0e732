"""The transform: how a model's images are resized, cropped and normalised to tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cpvt.config import Size, sides
from cpvt.data.decoding import upright

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")  # of PIL, by timm's names
ORDERS, CROP_MODES = ("RGB", "BGR"), ("center", "squash", "border")


@dataclass(frozen=True)
class Transform:
    """Turns an image into the tensor (C, H, W) that a model was tested on; saved with every checkpoint.

    Images of any mode and with EXIF rotation are read as from a file: see `cpvt.data.decoding.decode`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_ratio: float = 0.875
    interpolation: str = "bicubic"
    longest_side: int | None = None
    """Images with a longer side are shrunk to it before they are cropped or put on a canvas."""
    channel_order: str = "RGB"
    """Order of the tensor's channels; mean and std are always in the order RGB."""
    crop_mode: str = "center"
    """How `resize` makes an image fit, by timm's names: 'center' crops, 'squash' changes proportions, 'border' pads."""
    size: Size | None = None
    """Recommended inference size, pixels: the training size, unless whoever published the weights chose another."""
    reduced_jpegs: bool = False
    """Whether JPEGs are decoded at a reduced scale where they are shown much smaller, see `DeferredImage`."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or not all(each > 0 for each in self.std):
            raise ValueError(
                f"mean and std must be one number each, or three, with std above 0; got {self.mean} and {self.std}"
            )
        if self.longest_side is not None and self.longest_side < 1:
            raise ValueError(f"longest_side must be 1 pixel or more; got {self.longest_side}")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must be above 0 and at most 1; got {self.crop_ratio}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"unknown interpolation '{self.interpolation}'; known: {', '.join(INTERPOLATIONS)}")
        if self.channel_order not in ORDERS or self.crop_mode not in CROP_MODES:
            raise ValueError(
                f"channel_order must be {' or '.join(ORDERS)}, crop_mode {' or '.join(CROP_MODES)}; "
                f"got '{self.channel_order}' and '{self.crop_mode}'"
            )

    @property
    def mode(self) -> str:
        return "L" if len(self.mean) == 1 else "RGB"

    def __call__(self, image: Image.Image) -> Tensor:
        """The image resized to `size`, centre-cropped and normalised, as in the tests. ValueError without a size."""
        if self.size is None:
            raise ValueError("this transform has no size; resize(image, (height, width)) takes one")
        return self.resize(image, sides(self.size))

    def resize(self, image: Image.Image, sides: tuple[int, int]) -> Tensor:
        """The image scaled to cover `sides` divided by the crop ratio, and its centre (height, width), as in timm."""
        image = upright(image, self.mode)
        if image.size == sides[::-1] and self.crop_ratio == 1.0:
            return self.whole(image)
        resize = _resizing(sides, self.crop_ratio, self.interpolation, self.crop_mode)
        return self.normalise(resize(image).numpy())

    def whole(self, image: Image.Image) -> Tensor:
        """The whole image at its own size, normalised."""
        values = np.asarray(upright(image, self.mode))
        return self.normalise(values.reshape(*values.shape[:2], len(self.mean)).transpose(2, 0, 1))

    def normalise(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The normalised tensor of pixels from 0 to 255, (C, H, W)."""
        values = pixels.astype(np.float32, order="C")  # contiguous as the tensor, then in place: four times as fast
        values /= 255
        values -= _by_channel(self.mean)
        values /= _by_channel(self.std)
        return torch.from_numpy(values[::-1].copy() if self.channel_order == "BGR" else values)

    def limit(self, image: Image.Image) -> Image.Image:
        """The image, shrunk in proportion where a side exceeds `longest_side`; else the same object."""
        size = self.limited(image)
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)

    def limited(self, image: Image.Image) -> tuple[int, int]:
        """Width and height of the image under this limit."""
        width, height = image.size
        scale = min(1.0, (self.longest_side or math.inf) / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))


@lru_cache(maxsize=16)
def _by_channel(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)[:, None, None]


@lru_cache(maxsize=64)
def _resizing(
    sides: tuple[int, int], crop_ratio: float, interpolation: str, crop_mode: str
) -> Callable[[Image.Image], Any]:
    from timm.data import create_transform

    resizing: Callable[[Image.Image], Any] = create_transform(
        sides, is_training=False, crop_pct=crop_ratio, interpolation=interpolation, crop_mode=crop_mode, normalize=False
    )
    return resizing
