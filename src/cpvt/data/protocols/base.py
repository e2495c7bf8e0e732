"""What a protocol is: how an image becomes the tensor that a model sees at a size. Imports torch only for an image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

    from cpvt.data.augmentation import Augmentation
    from cpvt.data.base import Sides
    from cpvt.data.transform import Transform


@dataclass(frozen=True)
class Protocol(ABC):
    """Turns images into tensors of one size, to test or to train; `find_protocol` returns one by name.

    Raises ValueError for an augmentation under a protocol that only tests.
    """

    transform: Transform
    sides: Sides
    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Lowest and highest fraction of the area that a random resized crop keeps."""
    augmentation: Augmentation | None = None
    hflip: float = 0.5
    """Probability that an image is mirrored, under a protocol that mirrors."""

    title: ClassVar[str] = ""
    """How figures, tables and pages explain it, after its name."""
    details: ClassVar[str] = ""
    """What a page says about how images were shown."""
    multiples: ClassVar[tuple[float, ...]] = ()
    """Default test sizes of a comparison, in training sizes; none: comparisons do not take the protocol."""
    quick_multiples: ClassVar[tuple[float, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ()
    """Which of the transform's crop_ratio, interpolation and longest_side have an effect."""
    scale_rule: ClassVar[str | None] = None
    """The object scale that a model is given, a name of `cpvt.config.scale.RULES`; None: the model's own rule."""
    stacks: ClassVar[bool] = True
    """Whether all images get the same sides, so that they form batches and not lists."""
    streams: ClassVar[bool] = True
    """Whether a test can read a stream, a data set that is never held whole."""
    size_is_limit: ClassVar[bool] = False
    """Whether a size is the longest side allowed, and not the sides that the model sees."""
    augments: ClassVar[bool] = False
    """Whether images may be augmented, as training images are."""
    mirrors: ClassVar[bool] = False
    """Whether images are mirrored, with probability `hflip`."""

    def __post_init__(self) -> None:
        if self.augmentation and not self.augments:
            raise ValueError(
                f"'{type(self).__name__.lower()}' is a test protocol and does not augment; got {self.augmentation}. "
                "Choose another --augment, or none of --aa, --color-jitter and --reprob"
            )

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        """The normalised tensor (C, H, W) that the model sees; `generator` decides all that is random."""
        from cpvt.data.decoding import upright

        tensor = self.show(upright(image, self.transform.mode), generator)
        return self.augmentation.erase(tensor, generator) if self.augmentation else tensor

    @abstractmethod
    def show(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        """The normalised tensor (C, H, W) of an image in the transform's mode, before random erasing."""

    def at(self, sides: Sides | None) -> Protocol:
        """The same protocol at other sides; None returns it as it is."""
        return self if sides in (None, self.sides) else replace(self, sides=sides)

    def augment(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Augments colours and geometry of the part of an image that is seen."""
        how, transform = self.augmentation, self.transform
        return how.apply(image, self.sides, transform.interpolation, transform.mean, generator) if how else image

    @property
    def longest_side(self) -> int | None:
        """The side to which larger images are shrunk; None where none are."""
        return self.transform.longest_side if "longest_side" in self.reads else None

    def shrinks(self, image: Image.Image) -> bool:
        """Whether the image is larger than the longest side allowed, and is shrunk for it."""
        return self.longest_side is not None and max(image.size) > self.longest_side

    def padding_fraction(self, image: Image.Image) -> float:
        """Fraction of what the model sees that is padding, 0 to 1."""
        return 0.0
