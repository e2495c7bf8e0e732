"""resize: the same image in more pixels; objects grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

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
    scale_rule = "fit"

    def show(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        return self.transform.resize(image, self.sides)
