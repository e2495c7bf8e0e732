"""What a protocol says: how an image becomes the tensor that a model sees at a size. Light: torch waits for an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cpvt.config import Size

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from cpvt.data.augmentation import Augmentation
    from cpvt.data.base import Sides
    from cpvt.data.transform import Transform


@dataclass(frozen=True)
class Protocol(ABC):
    """One way to show images at a size."""

    transform: Transform
    sides: Sides
    crop_scale: tuple[float, float]
    """Lowest and highest fraction of the area that a random resized crop keeps."""
    augmentation: Augmentation

    title: ClassVar[str] = ""
    """How figures, tables and pages explain it, after its name."""
    details: ClassVar[str] = ""
    """What a page says about how images were shown."""
    multiples: ClassVar[tuple[float, ...]] = ()
    """Test sizes of a comparison by default, in training sizes; none: comparisons do not take the protocol."""
    quick_multiples: ClassVar[tuple[float, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ()
    """Which of the transform's crop_ratio, interpolation and longest_side have an effect."""
    stacks: ClassVar[bool] = True
    """Whether all images get the same sides, so that they make batches and not lists."""
    streams: ClassVar[bool] = True
    """Whether a test can take images as they come, from a set that is never held whole."""
    size_is_limit: ClassVar[bool] = False
    """Whether a size is the longest side allowed, and not the sides that the model sees."""
    augments: ClassVar[bool] = False
    """Whether images may be augmented, as training images are."""

    @abstractmethod
    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        """The normalised tensor (C, H, W) of an image in the transform's mode; `generator` decides what is random."""

    def augment(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Augments colours and geometry of the part of an image that is seen."""
        how, transform = self.augmentation, self.transform
        return how.apply(image, self.sides, transform.interpolation, transform.mean, generator)

    @property
    def longest_side(self) -> int | None:
        """The side to which larger images are shrunk; None where none are."""
        return self.transform.longest_side if "longest_side" in self.reads else None

    def padding_fraction(self, image: Image.Image) -> float:
        """Fraction of what the model sees that is padding, 0 to 1."""
        return 0.0

    @staticmethod
    def scale(size: Size, train_size: Size) -> tuple[float, float] | None:
        """How much larger objects are than in training, along rows and columns; None leaves it to the model's rule."""
        return None
