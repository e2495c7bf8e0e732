"""resize: the same image in more pixels; objects grow."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from cpvt.config import Size, sides
from cpvt.data.protocols.base import Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from cpvt.data.base import Sides


class Resize(Protocol):
    """Scales an image to cover the sides divided by the crop ratio, and takes the centre crop, as timm does."""

    title = "the same image in more pixels, objects grow"
    details = "zero-shot, nothing is fine-tuned at a test size"
    multiples = (0.5, 0.75, 1, 1.5, 2)
    quick_multiples = (0.75, 1, 1.5)
    reads: ClassVar[tuple[str, ...]] = ("crop_ratio", "interpolation")

    def show(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        transform, (height, width) = self.transform, self.sides
        if image.size == (width, height) and transform.crop_ratio == 1.0:
            return transform(image)
        resize = _resizing(self.sides, transform.crop_ratio, transform.interpolation, transform.crop_mode)
        return transform.normalise(resize(image).numpy())

    @staticmethod
    def scale(size: Size, train_size: Size) -> tuple[float, float] | None:
        rows, columns = (max(1.0, now / before) for now, before in zip(sides(size), sides(train_size)))
        return rows, columns


@lru_cache(maxsize=64)
def _resizing(sides: Sides, crop_ratio: float, interpolation: str, crop_mode: str) -> Callable[[Image.Image], Any]:
    from timm.data import create_transform

    resizing: Callable[[Image.Image], Any] = create_transform(
        sides, is_training=False, crop_pct=crop_ratio, interpolation=interpolation, crop_mode=crop_mode, normalize=False
    )
    return resizing
