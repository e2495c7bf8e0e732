"""The transform: normalisation of an image to a tensor, and the limit on its longest side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")  # of PIL, by timm's names
ORDERS, CROP_MODES = ("RGB", "BGR"), ("center", "squash", "border")


@dataclass(frozen=True)
class Transform:
    """Normalises images to tensors (C, H, W); saved with every checkpoint."""

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

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std) <= 0:
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
        """The whole image at its own size."""
        values = np.asarray(image if image.mode == self.mode else image.convert(self.mode))
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
