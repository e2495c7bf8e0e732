"""What a data set is: two splits of labelled images and how they are normalised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

Sides = tuple[int, int]  # height, width in pixels
SPLITS = {"train": ("train",), "test": ("validation", "test", "val")}  # part -> what sets call theirs


@runtime_checkable
class Split(Protocol):
    """Labelled images by number."""

    def __len__(self) -> int: ...

    def read(self, index: int, draw: np.random.Generator) -> tuple[Image.Image, int]:
        """The image, decoded and upright, and its class; `draw` decides where a set draws its own images.

        Raises BadImageError, naming the file, where it does not decode.
        """


class Encoded(NamedTuple):
    """An image of a stream, not decoded yet."""

    number: int  # its own in the stream, by which what is random about it is drawn
    content: bytes  # of its file
    name: str  # to say which it is
    label: int


class Stream(Protocol):
    """Labelled images that come one after the other."""

    class_names: tuple[str, ...]
    length: int | None  # images in all, where that is known

    def share(
        self, part: int = 0, parts: int = 1, *, seed: int = 0, epoch: int = 0, shuffle: int = 0
    ) -> Iterator[Encoded]:
        """One part's images; every image is in exactly one part, and none twice.

        Parts may differ in length, and whoever trains on several at once has to end them together.
        shuffle: how many images wait in memory to be drawn from; with it (seed, epoch, part, parts) decide the order,
        without it they come as they stand.
        """


@dataclass(frozen=True)
class DataSet:
    """A set of labelled images with a part to train on and a part to test on."""

    name: str
    class_names: tuple[str, ...]
    train: Split | None
    test: Split | None
    mean: tuple[float, ...]
    """Per channel, of values from 0 to 1; its length is the number of channels, 1 or 3."""
    std: tuple[float, ...]
    crop_ratio: float = 0.875
    """Share of the resized image that is shown at test under `resize`, unless asked otherwise."""
    augment: str = "resized-crop"
    """How training images are varied, unless asked otherwise: 'resized-crop', 'crop' or 'none'."""
    train_stream: Stream | None = None
    """Images to train on that come one after the other, of a set too large to hold; `train` is None then."""
    test_stream: Stream | None = None

    @property
    def mode(self) -> str:
        return "L" if len(self.mean) == 1 else "RGB"


@dataclass(frozen=True)
class DataSource:
    """One kind of data set: which names are its own, and how such a set is opened."""

    description: str
    """One line for a newcomer."""
    matches: Callable[[str], bool]
    open: Callable[[str, str | None, str], DataSet]
    """Opens (name, folder of the files where it was given, 'RGB' or 'L')."""
    mode: str = "RGB"
    """How images are read unless asked otherwise."""


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GREY = {"mean": (0.45,), "std": (0.225,)}


def data_set(name: str, class_names: Sequence[str], train: Split | None, test: Split | None, mode: str) -> DataSet:
    """A set of photographs, normalised as ImageNet is, or as its grey average."""
    return DataSet(name, tuple(class_names), train, test, **(IMAGENET if mode == "RGB" else GREY))
