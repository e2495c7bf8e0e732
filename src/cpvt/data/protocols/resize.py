"""resize: the same image in more pixels; objects grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cpvt.config import Size, sides
from cpvt.data.protocols.base import Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor


class Resize(Protocol):
    """Scales an image to cover the sides divided by the crop ratio, and takes the centre crop, as timm does."""

    title = "the same image in more pixels, objects grow"
    details = "zero-shot, nothing is fine-tuned at a test size"
    multiples = (0.5, 0.75, 1, 1.5, 2)
    quick_multiples = (0.75, 1, 1.5)
    reads: ClassVar[tuple[str, ...]] = ("crop_ratio", "interpolation")

    def show(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        return self.transform.resize(image, self.sides)

    @staticmethod
    def scale(size: Size, train_size: Size) -> tuple[float, float] | None:
        rows, columns = (max(1.0, now / before) for now, before in zip(sides(size), sides(train_size)))
        return rows, columns
