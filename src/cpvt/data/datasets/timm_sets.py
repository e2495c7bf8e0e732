"""Any data set of timm's factory, decoded by `cpvt.data.decoding`.

Only timm's readers are used: its dataset class ignores EXIF, and replaces an image that it cannot read by the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from cpvt.data.base import SPLITS, DataSet, DataSource, Split, data_set
from cpvt.data.datasets.folders import open_folder
from cpvt.data.datasets.shards import is_remote
from cpvt.data.decoding import BOMBS, BadImageError, UnknownRangeError, check_pixels, decode, undecodable, upright

PACKAGES = {"torch": "torchvision", "hfds": "datasets", "tfds": "tensorflow-datasets", "wds": "webdataset"}


class ReaderSplit:
    """Images of one of timm's readers."""

    def __init__(self, reader: Any, title: str, mode: str) -> None:
        self.reader, self.title, self.mode = reader, title, mode

    def __len__(self) -> int:
        return len(self.reader)

    def name(self, index: int) -> str:
        return f"{index} of {self.title}"

    def read(self, index: int, generator: np.random.Generator) -> tuple[Image.Image, int]:
        try:
            file, label, *_ = self.reader[index]
        except (OSError, TypeError, AssertionError) as error:  # no such file; a row without an image
            raise undecodable(self.name(index), error) from error
        with file:
            return decode(file, self.name(index), self.mode), _class(label)


class IndexedSplit:
    """Images of a torchvision data set, or of a streamed one held in memory."""

    def __init__(self, images: Any, title: str, mode: str) -> None:
        self.images, self.title, self.mode = images, title, mode

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"{index} of {self.title}"

    def read(self, index: int, generator: np.random.Generator) -> tuple[Image.Image, int]:
        try:
            image, label = self.images[index]
            with image:  # which may hold a file
                check_pixels(image)
                image.load()
                return upright(image, self.mode), _class(label)
        except (OSError, SyntaxError, UnknownRangeError, *BOMBS) as error:
            raise undecodable(self.name(index), error) from error


def _class(label: Any) -> int:
    """The number of a class; -1 for none."""
    return -1 if label is None else int(label)


def open_named(name: str, root: str | None, mode: str) -> DataSet:
    """A data set by timm's name: torch/cifar10, hfds/user/set, wds/URL, ...; root: folder of its files."""
    prefix, _, rest = name.partition("/")
    if prefix == "torch" and root is None:
        raise ValueError(f"'{name}' needs the folder that its files are in: pass --data-dir")
    if root is not None and name in ("torch/image_folder", "torch/folder"):
        return open_folder(root, mode)  # torchvision numbers the classes of each split by itself
    if prefix == "wds":
        name, root = "wds/", rest
    parts: dict[str, Split] = {}
    found: dict[str, str] = {}
    class_names: tuple[str, ...] = ()
    for split, names in SPLITS.items():
        dataset = _create(name, root, names)
        if prefix == "hfds":
            parts[split] = ReaderSplit(dataset.reader, f"{name} ({split})", mode)
            found[split] = str(dataset.reader.dataset.split)
        else:
            if hasattr(dataset, "loader"):  # torchvision's folder sets
                dataset.loader = partial(_decode, mode=mode)
            indexed = dataset if prefix == "torch" else list(dataset)
            parts[split] = IndexedSplit(indexed, f"{name} ({split})", mode)
        class_names = class_names or _class_names(dataset)
    if not class_names:
        class_names = tuple(map(str, range(1 + max(_labels(parts["train"]), default=-1))))
    return data_set(name, class_names, parts["train"], parts["test"], mode, names=found)


def _labels(split: Split) -> Iterator[int]:
    generator = np.random.default_rng(0)
    for index in range(len(split)):
        with suppress(BadImageError):  # named when it is used, or skipped
            yield split.read(index, generator)[1]


def _create(name: str, root: str | None, splits: tuple[str, ...]) -> Any:
    """timm's data set, with the first split that exists."""
    from timm.data import create_dataset

    try:
        return create_dataset(name, root=root, split=splits[0], is_training=False)
    except ImportError as error:
        package = PACKAGES[name.partition("/")[0]]
        raise ValueError(f"'{name}' needs a package that is not installed ({error}): pip install {package}") from error
    except (AssertionError, RuntimeError, ValueError) as error:  # unknown name, missing files, unknown split
        if "split" in str(error) and len(splits) > 1:
            return _create(name, root, splits[1:])
        raise ValueError(f"data set '{name}' does not open in '{root}' ({error})") from error


def _decode(path: str, mode: str) -> Image.Image:
    return decode(path, path, mode)


def _class_names(dataset: Any) -> tuple[str, ...]:
    classes = getattr(dataset, "classes", None) or getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    return tuple(str(name) for name in classes) if classes else ()


TORCHVISION = DataSource(
    "a torchvision set, such as torch/cifar10; --data-dir says where its files are",
    lambda name: name.startswith("torch/"),
    open_named,
)
HUGGING_FACE = DataSource(
    "a Hugging Face set (needs the package datasets)", lambda name: name.startswith("hfds/"), open_named
)
TENSORFLOW = DataSource(
    "a TensorFlow set (needs tensorflow-datasets)", lambda name: name.startswith("tfds/"), open_named
)
REMOTE_SHARDS = DataSource(
    "remote shards of WebDataset (needs webdataset), such as wds/https://host/{train,val}-{000..146}.tar",
    lambda name: name.startswith("wds/") and is_remote(name),
    open_named,
)
