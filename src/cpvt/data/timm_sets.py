"""Folders of class folders, and any data set that timm's factory knows, decoded by ourselves.

timm's own dataset class replaces a picture that it cannot read by the next one and ignores EXIF, so only its
readers are used here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_dataset, create_reader

from cpvt.data.base import DataSet, Split
from cpvt.data.pictures import BadPictureError, convert, decode

PREFIXES = {  # prefix of a name -> the package that it needs
    "torch": "torchvision", "hfds": "datasets", "hfids": "datasets", "tfds": "tensorflow-datasets", "wds": "webdataset",
}  # fmt: skip
TEST_FOLDERS = ("test", "val", "validation")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ReaderSplit:
    """Pictures behind one of timm's readers."""

    def __init__(self, reader: Any, mode: str, labels: dict[int, int] | None = None) -> None:
        self.reader, self.mode, self.labels = reader, mode, labels

    def __len__(self) -> int:
        return len(self.reader)

    def read(self, index: int, draw: np.random.Generator) -> tuple[Image.Image, int]:
        file, label, *_ = self.reader[index]
        with file:
            picture = decode(file, self.reader.filename(index, absolute=True), self.mode)
        return picture, label if self.labels is None else self.labels[label]


class IndexedSplit:
    """Pictures of a torchvision data set, or of a streamed one held in memory."""

    def __init__(self, pictures: Any, name: str, mode: str) -> None:
        self.pictures, self.name, self.mode = pictures, name, mode

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, index: int, draw: np.random.Generator) -> tuple[Image.Image, int]:
        try:
            picture, label = self.pictures[index]
        except (OSError, SyntaxError) as error:
            raise BadPictureError(f"picture {index} of {self.name} does not decode ({error})") from error
        return convert(picture, self.mode), int(label)


def open_folder(root: Path, mode: str) -> DataSet:
    """Pictures in class folders below train/ and test/ (or val/); either part may be absent."""
    train_root = root / "train"
    test_root = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if not train_root.is_dir() and test_root is None:
        raise ValueError(
            f"'{root}' holds neither train/ nor test/ (or val/); expected {root}/train/CLASS/picture.jpg and "
            f"{root}/test/CLASS/picture.jpg"
        )
    train: Any = _folder_reader(train_root) if train_root.is_dir() else None
    test: Any = _folder_reader(test_root) if test_root is not None else None
    classes: dict[str, int] = (train or test).class_to_idx
    labels: dict[int, int] | None = None
    if test is not None:
        extra = [name for name in test.class_to_idx if name not in classes]
        if extra:
            raise ValueError(
                f"'{test.root}' has classes that '{train_root}' lacks: {', '.join(extra)}; "
                "a class can be tested only if it was trained"
            )
        labels = {index: classes[name] for name, index in test.class_to_idx.items()}
    return _data_set(
        str(root),
        tuple(sorted(classes, key=lambda name: classes[name])),
        None if train is None else ReaderSplit(train, mode),
        None if test is None else ReaderSplit(test, mode, labels),
        mode,
    )


def _folder_reader(root: Path) -> Any:
    try:
        return create_reader("", root=str(root))
    except RuntimeError as error:  # timm's words for an empty folder
        raise ValueError(
            f"no pictures in '{root}': expected class folders with pictures, {root}/CLASS/name.jpg"
        ) from error


def open_named(name: str, root: str | None, mode: str) -> DataSet:
    """A data set by timm's own name: torch/cifar10, hfds/user/set, wds//path/of/shards, ...; root: where its files are."""
    prefix, _, rest = name.partition("/")
    if prefix == "torch" and root is None:
        raise ValueError(f"'{name}' needs the folder that its files are in: pass --data-root")
    if root is not None and name in ("torch/image_folder", "torch/folder"):
        return open_folder(Path(root), mode)  # torchvision's would number the classes of each part by itself
    if prefix == "wds":
        name, root = "wds/", rest
    parts: dict[str, Split] = {}
    class_names: tuple[str, ...] = ()
    for split in ("train", "validation"):
        dataset = _create(name, root, split)
        if prefix in ("hfds",):
            parts[split] = ReaderSplit(dataset.reader, mode)
        else:
            if hasattr(dataset, "loader"):  # torchvision's folder sets: decode as we do everywhere
                dataset.loader = lambda path: decode(path, path, mode)
            indexed = dataset if prefix == "torch" else list(dataset)
            parts[split] = IndexedSplit(indexed, f"{name} ({split})", mode)
        class_names = class_names or _class_names(dataset)
    if not class_names:
        draw = np.random.default_rng(0)
        count = 1 + max(parts["train"].read(index, draw)[1] for index in range(len(parts["train"])))
        class_names = tuple(str(index) for index in range(count))
    return _data_set(name, class_names, parts["train"], parts["validation"], mode)


def _create(name: str, root: str | None, split: str) -> Any:
    try:
        return create_dataset(name, root=root, split=split, is_training=False)
    except ImportError as error:
        package = PREFIXES[name.partition("/")[0]]
        raise ValueError(f"'{name}' needs a package that is not installed ({error}): pip install {package}") from error
    except (AssertionError, RuntimeError) as error:  # timm's for an unknown name, torchvision's for absent files
        raise ValueError(f"data set '{name}' does not open in '{root}' ({error})") from error


def _class_names(dataset: Any) -> tuple[str, ...]:
    classes = getattr(dataset, "classes", None) or getattr(getattr(dataset, "reader", None), "class_to_idx", None)
    return tuple(str(name) for name in classes) if classes else ()


def _data_set(name: str, class_names: tuple[str, ...], train: Split | None, test: Split | None, mode: str) -> DataSet:
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if mode == "RGB" else ((0.45,), (0.225,))
    return DataSet(name, class_names, train, test, mean, std)
