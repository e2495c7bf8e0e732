"""Training protocols: random crops and mirrored images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpvt.data.protocols.canvas import Canvas
from cpvt.data.protocols.native import Native
from cpvt.data.protocols.resize import Resize

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor


class ResizedCrop(Resize):
    """Random resized crop: a random part, `crop_scale` of the area, scaled to the sides; perhaps mirrored."""

    reads = ("interpolation",)
    augments = mirrors = True

    def show(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        from cpvt.data.augmentation import crop

        part = crop(image, self.sides, self.crop_scale, self.transform.interpolation, self.hflip, generator)
        return self.transform.whole(self.augment(part, generator))


class Crop(Canvas):
    """Random crop at the image's own scale; perhaps mirrored."""

    anywhere = mirrors = True

    def show(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        return _mirror(super().show(image, generator), self.hflip, generator)


class NativeMirrored(Native):
    """Whole images, as under `native`; perhaps mirrored."""

    augments = mirrors = True

    def show(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        return _mirror(super().show(image, generator), self.hflip, generator)


def _mirror(tensor: Tensor, hflip: float, generator: np.random.Generator) -> Tensor:
    return tensor.flip(2) if generator.random() < hflip else tensor
