"""Views: a protocol, at some height and width, with the transform and augmentation that go with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import Tensor

from cpvt.data.augmentation import NO_AUGMENTATION, Augmentation
from cpvt.data.base import Sides
from cpvt.data.protocols import Protocol, find_protocol
from cpvt.data.transform import Transform


@dataclass(frozen=True)
class Preprocessing:
    """One way to look at images, to test or to train; `kind` is a name of `cpvt.data.protocols`."""

    transform: Transform
    kind: str
    sides: Sides
    crop_scale: tuple[float, float] = (0.35, 1.0)
    augmentation: Augmentation = NO_AUGMENTATION

    def __post_init__(self) -> None:
        if not find_protocol(self.kind).augments and self.augmentation != NO_AUGMENTATION:
            raise ValueError(
                f"'{self.kind}' shows images to test with, which are not varied; got {self.augmentation}. "
                "Choose another augmentation, or none of auto_augment, color_jitter and erasing"
            )

    @property
    def protocol(self) -> Protocol:
        """The protocol at these sides."""
        return find_protocol(self.kind)(self.transform, self.sides, self.crop_scale, self.augmentation)

    @property
    def stacks(self) -> bool:
        """Whether all images come out at the same sides, so that they make batches and not lists."""
        return self.protocol.stacks

    def at(self, sides: Sides | None) -> Preprocessing:
        """The same preprocessing at other sides; at its own without."""
        return self if sides in (None, self.sides) else replace(self, sides=sides)

    def __call__(self, image: Image.Image, draw: np.random.Generator) -> Tensor:
        """The tensor (C, H, W) that the model sees; `draw` decides what is random."""
        mode = self.transform.mode
        tensor = self.protocol(image if image.mode == mode else image.convert(mode), draw)
        return self.augmentation.erase(tensor, draw)

    def shrinks(self, image: Image.Image) -> bool:
        """Whether the image is larger than the longest side allowed, and is shrunk for it."""
        longest = self.protocol.longest_side
        return longest is not None and max(image.size) > longest

    def padding_fraction(self, image: Image.Image) -> float:
        """Share of what the model sees that is fill, 0 to 1."""
        return self.protocol.padding_fraction(image)
