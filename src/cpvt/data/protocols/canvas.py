"""canvas: objects keep their size in pixels, and the field of view grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from cpvt.data.protocols.base import Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor


class Canvas(Protocol):
    """Crops the centre of a larger image; puts a smaller one at a random place on zeros (after normalisation)."""

    title = "objects keep their pixels, the field of view grows"
    details = "own scale; centre crop of larger images, smaller ones at a seeded place on zeros (after normalisation)"
    multiples = (1, 1.5, 2, 3)
    quick_multiples = (1, 1.5, 2)
    reads = ("longest_side",)
    augments = True
    scale_rule = "pixels"
    anywhere: ClassVar[bool] = False
    """Whether a larger image is cropped at a random place."""

    def show(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        import torch

        image = self.transform.limit(image)
        (top, y, rows), (left, x, columns) = (
            _place(length, side, generator, self.anywhere)
            for length, side in zip((image.height, image.width), self.sides)
        )
        whole = (rows, columns) == (image.height, image.width)
        seen = self.augment(image if whole else image.crop((left, top, left + columns, top + rows)), generator)
        canvas = torch.zeros(len(self.transform.mean), *self.sides)
        canvas[:, y : y + rows, x : x + columns] = self.transform.whole(seen)
        return canvas

    def padding_fraction(self, image: Image.Image) -> float:
        (width, height), (rows, columns) = self.transform.limited(image), self.sides
        return 1 - min(height, rows) * min(width, columns) / (rows * columns)


def _place(length: int, side: int, generator: np.random.Generator, anywhere: bool) -> tuple[int, int, int]:
    """Along one axis: start in the image, start on the canvas, and number of pixels."""
    if length >= side:
        return (int(generator.integers(0, length - side + 1)) if anywhere else (length - side) // 2), 0, side
    return 0, int(generator.integers(0, side - length + 1)), length
