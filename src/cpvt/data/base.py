"""Data sets: splits of labelled images, and how they are normalised."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from cpvt.config.data import limited_name

Sides = tuple[int, int]  # height, width in pixels
VALIDATION = ("val", "validation", "valid")  # names that data sets give a validation part
# part -> the names to look for in a library's set; their "test" often has no classes, and "validation" is tested
SPLITS = {"train": ("train",), "test": ("validation", "test", "val", "valid")}


def natural_key(name: str | Path) -> tuple[list[int | str], str]:
    """Sorts class2 before class10, as timm's function of this name, without importing timm; cat after Cat."""
    parts = re.split(r"(\d+)", str(name).lower())
    return [int(part) if part.isdecimal() else part for part in parts], str(name)


def find_parts(names: Collection[str]) -> dict[str, str]:
    """Part (train, test, validation) -> its name among those of folders or shards.

    A validation part next to a test part is used while a model is trained; without one it is the test part.
    """
    held = next((name for name in VALIDATION if name in names), None)
    test = "test" if "test" in names else held
    found = {"train": "train" if "train" in names else None, "test": test, "validation": held if held != test else None}
    return {part: name for part, name in found.items() if name is not None}


@runtime_checkable
class Split(Protocol):
    """Labelled images by number."""

    def __len__(self) -> int: ...

    def read(self, index: int, generator: np.random.Generator) -> tuple[Image.Image, int]:
        """The image, decoded and upright, and its class; `generator` decides what is random in the image itself.

        An image without a class has -1. A split may also have `name(index) -> str`, by which messages call an image.

        Raises BadImageError, naming the file, where it does not decode.
        """


def name_of(split: Split | None, index: int) -> str:
    """What a split calls an image; empty where it has no names."""
    name: str = getattr(split, "name", lambda _: "")(index)
    return name


class Subset:
    """Some images of a split, in its order."""

    def __init__(self, split: Split, numbers: Sequence[int]) -> None:
        self.split, self.numbers = split, numbers

    @classmethod
    def drawn(cls, split: Split, count: int) -> Subset:
        """At most `count` images, always the same ones."""
        return cls(split, sorted(np.random.default_rng(0).permutation(len(split))[:count].tolist()))

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, index: int) -> str:
        return name_of(self.split, self.numbers[index])

    def read(self, index: int, generator: np.random.Generator) -> tuple[Image.Image, int]:
        return self.split.read(self.numbers[index], generator)


class Joined:
    """The images of several splits, one after another."""

    def __init__(self, splits: Sequence[Split]) -> None:
        self.places = [(split, number) for split in splits for number in range(len(split))]

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        return name_of(*self.places[index])

    def read(self, index: int, generator: np.random.Generator) -> tuple[Image.Image, int]:
        split, number = self.places[index]
        return split.read(number, generator)


class Encoded(NamedTuple):
    """An image of a stream, not yet decoded."""

    number: int  # unique in the stream; seeds its augmentation
    content: bytes  # of its file
    name: str  # for messages
    label: int


class Stream(Protocol):
    """Labelled images that can only be read in sequence."""

    class_names: tuple[str, ...]
    length: int | None  # images in total, where known

    def share(
        self, part: int = 0, parts: int = 1, *, seed: int = 0, epoch: int = 0, shuffle: int = 0
    ) -> Iterator[Encoded]:
        """The images of one part of several; every image is in exactly one part, once.

        Parts may differ in length; a training over several processes has to end them together.
        shuffle: size of the shuffle buffer, in images. The order follows from (seed, epoch, part, parts); with 0 it is
        the stored order.
        """


@dataclass(frozen=True)
class DataSet:
    """A set of labelled images with splits to train, to test, and to validate during training; any may be absent."""

    name: str
    class_names: tuple[str, ...]
    train: Split | None
    test: Split | None
    mean: tuple[float, ...]
    """Per channel, for values from 0 to 1; one number for each channel, 1 or 3."""
    std: tuple[float, ...]
    crop_ratio: float = 0.875
    """Default fraction of the resized image that `resize` keeps at test."""
    augment: str = "resized-crop"
    """Default augmentation in training: 'resized-crop', 'crop' or 'none'."""
    train_stream: Stream | None = None
    """Training images of a streamed data set; `train` is None then."""
    test_stream: Stream | None = None
    validation: Split | None = None
    """Images to test on during training, where there is such a part next to the test part."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names that the set gives its parts (train, test, validation), where they are known."""
    unread: tuple[str, ...] = ()
    """Folders with the same classes that are none of the parts, and are not read."""
    held_out: bool = False
    """Whether the test part was held out of images that came without parts."""

    @property
    def mode(self) -> str:
        return "L" if len(self.mean) == 1 else "RGB"

    def limited(self, limit: int | None) -> DataSet:
        """At most `limit` images of each part; None: all. ValueError for streams, from which nothing can be drawn."""
        if limit is None:
            return self
        if self.train_stream is not None or self.test_stream is not None:
            raise ValueError(f"'{self.name}' is read as it comes, so that a limit cannot draw from it: leave it out")
        train, test, validation = (
            None if part is None else Subset.drawn(part, limit) for part in (self.train, self.test, self.validation)
        )
        name = limited_name(self.name, limit)
        return replace(self, name=name, train=train, test=test, validation=validation)

    def whole(self) -> DataSet:
        """The set to test a model that was not trained on it: with all images in the test part, if it was held out."""
        if not self.held_out or self.train is None or self.test is None:
            return self
        return replace(self, train=None, test=Joined((self.train, self.test)), held_out=False)

    @property
    def has_test(self) -> bool:
        return self.test is not None or self.test_stream is not None

    @property
    def during_training(self) -> DataSet:
        """The set as it is tested during training: with the validation part, if there is one, as its test part."""
        return self if self.validation is None else replace(self, test=self.validation, test_stream=None)

    @property
    def lacks_test(self) -> str:
        """The message for a set without a test part; it names folders that may be meant as one."""
        unread = ", ".join(f"{name}/" for name in self.unread)
        hint = f"; {unread} is not read: rename the folder of the test images to test/" if unread else ""
        return f"'{self.name}' has no test/ (or val/) to test on{hint}"


@dataclass(frozen=True)
class DataSource:
    """One source of data sets: the names that it matches, and how it opens one."""

    description: str
    """One line for a newcomer."""
    matches: Callable[[str], bool]
    open: Callable[[str, str | None, str], DataSet]
    """Takes the name, the folder of the files (or None), and the mode, 'RGB' or 'L'."""
    mode: str = "RGB"
    """Default mode of the images."""
    reads_root: bool = True
    """Whether it looks for files in the folder that is given beside the name."""


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GREY = {"mean": (0.45,), "std": (0.225,)}


def data_set(
    name: str, class_names: Sequence[str], train: Split | None, test: Split | None, mode: str, **more: Any
) -> DataSet:
    """A data set with the normalisation of ImageNet, or its average for grey images; `more`: other fields."""
    return DataSet(name, tuple(class_names), train, test, **(IMAGENET if mode == "RGB" else GREY), **more)
