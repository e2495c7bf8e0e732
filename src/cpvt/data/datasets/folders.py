"""Folders of class folders: train/CLASS/image.jpg, test/CLASS/image.jpg, validation/CLASS/image.jpg, or CLASS alone."""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cpvt.data.base import DataSet, DataSource, Split, data_set, find_parts, natural_key
from cpvt.data.datasets.shards import holds_shards, open_shards
from cpvt.data.decoding import decode, is_hidden
from cpvt.data.finding import is_image, say_left_out, walk

HELD_OUT = 5  # of class folders without parts, one image in so many is for the test
NO_CLASS = re.compile(  # names of folders that are parts of a set, or kinds of files, and no classes
    r"(train|test|val|valid|validation|eval|dev|holdout)(ing|s|_?set|_?data|_?\d+)?|(fold|split|part)[_-]?\d*"
    r"|images?|imgs?|labels|annotations?",
    re.IGNORECASE,
)
logger = logging.getLogger(__name__)


class FolderSplit:
    """Image files and their classes."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], mode: str) -> None:
        self.paths, self.labels, self.mode = paths, labels, mode

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def read(self, index: int, generator: np.random.Generator) -> tuple[Image.Image, int]:
        return decode(self.paths[index], self.name(index), self.mode), self.labels[index]


def open_folder(where: str, mode: str) -> DataSet:
    """Images in class folders below train/, test/ and validation/ (also val/ or valid/); any may be absent.

    A validation part without a test part is the test part. Of class folders alone, without parts, a fifth of each class
    is the test part, chosen by the names of the files. A class is a folder directly below; its images may lie deeper,
    see `cpvt.data.finding.walk`. Raises ValueError for an image outside any class folder, a class folder without
    images, or a class to test that is not in train/.
    """
    root = Path(where)
    folders = sorted(each.name for each in root.iterdir() if each.is_dir()) if root.is_dir() else []
    parts = find_parts(folders)
    if parts:
        names, images = parts, {part: _images_by_class(root / name) for part, name in parts.items()}
    else:
        images = _hold_out(root, folders)
        names = {"train": "train", "test": "about a fifth of each class, held out"}
    classes = list(images.get("train") or images["test"])
    for part, found in images.items():
        extra = [name for name in found if name not in classes]
        if extra:
            raise ValueError(
                f"'{root / names[part]}' has classes that '{root / names.get('train', names['test'])}' lacks: "
                f"{', '.join(extra)}; a class can be tested only if it was trained"
            )
        if part == "test" and (untested := [name for name in classes if name not in found]):
            logger.info(f"'{root / names[part]}' has no images of {', '.join(untested)}: these classes are not tested")
    others = [each for each in folders if each not in names.values()]
    unread = tuple(each for each in others if any((root / each / name).is_dir() for name in classes))
    splits = {part: _split(found, classes, mode) for part, found in images.items()}
    return data_set(
        str(root), classes, splits.get("train"), splits.get("test"), mode,
        validation=splits.get("validation"), names=names, unread=unread, held_out=not parts,
    )  # fmt: skip


def _hold_out(root: Path, folders: Sequence[str]) -> dict[str, dict[str, list[Path]]]:
    """Class folders without parts, split in two by a hash of each file's name, so that a new image moves no other.

    A class that is too small to have images in both parts gives the one with the lowest or highest hash.
    """
    shown = [name for name in folders if not is_hidden(Path(name))]
    below = {name: [each.name for each in (root / name).iterdir() if each.is_dir()] for name in shown}
    inner = [name for name in shown if find_parts([each.lower() for each in below[name]])]
    if len(shown) < 2 or inner or any(NO_CLASS.fullmatch(name) for name in shown) or _seems_nested(root, below):
        loose = [] if shown else [each for each in root.iterdir() if is_image(each)]
        hint = f" Did you mean '{root / inner[0]}'?" if inner else ""
        hint = f" It holds {len(loose)} images: move them into a folder for each class" if loose else hint
        raise ValueError(
            f"'{root}' holds neither train/ nor test/ (or val/); expected {root}/train/CLASS/image.jpg and "
            f"{root}/test/CLASS/image.jpg, or at least two folders CLASS/image.jpg, but found "
            f"{', '.join(shown[:10]) or 'no folders'}.{hint}"
        )
    images: dict[str, dict[str, list[Path]]] = {"train": {}, "test": {}}
    for name, paths in _images_by_class(root).items():
        if len(paths) < 2:
            raise ValueError(f"'{root / name}' holds one image; a class needs two, one to train and one to test")
        hashes = {path: zlib.crc32(os.fsencode(path.relative_to(root).as_posix())) for path in paths}
        held = {path for path in paths if hashes[path] % HELD_OUT == 0} or {min(paths, key=hashes.__getitem__)}
        held -= {max(paths, key=hashes.__getitem__)} if len(held) == len(paths) else set()
        images["test"][name] = [path for path in paths if path in held]
        images["train"][name] = [path for path in paths if path not in held]
    return images


def _seems_nested(root: Path, below: Mapping[str, Sequence[str]]) -> bool:
    """Whether folders look like parts of a set: all images lie deeper, in folders whose names recur."""
    deeper = not any(is_image(each) for name in below for each in (root / name).iterdir() if each.is_file())
    return deeper and any(count > 1 for count in Counter(each for names in below.values() for each in names).values())


def _split(images: dict[str, list[Path]], classes: Sequence[str], mode: str) -> Split:
    numbers = {name: number for number, name in enumerate(classes)}
    pairs = [(path, numbers[name]) for name, paths in images.items() for path in paths]
    return FolderSplit([path for path, _ in pairs], [label for _, label in pairs], mode)


def _images_by_class(root: Path) -> dict[str, list[Path]]:
    """Image files by class, both in natural order (class2 before class10)."""
    others: Counter[str] = Counter()
    inside = sorted((each for each in root.iterdir() if not is_hidden(Path(each.name))), key=natural_key)
    gone = next((each for each in inside if not each.exists()), None)
    if gone is not None:
        raise ValueError(f"'{gone}' is a link to '{gone.readlink()}', which does not exist: fix or remove it")
    folders = [each for each in inside if each.is_dir()]
    loose = [each.name for each in inside if not each.is_dir() and is_image(each)]
    found = {folder.name: walk(folder, others) for folder in folders}
    empty = [str(folder) for folder in folders if not found[folder.name]] or ([] if folders else [str(root)])
    if empty or loose:
        what = f"'{root}' has images outside any class ({loose[0]}, ...)" if loose else f"no images in '{empty[0]}'"
        raise ValueError(f"{what}: expected class folders with images, {root}/CLASS/name.jpg")
    say_left_out(root, others)
    return found


FOLDER = DataSource(
    "a folder with train/CLASS/image.jpg and test/CLASS/image.jpg (also validation/, tars), or CLASS/image.jpg",
    matches=lambda name: name != "" and Path(name).is_dir(),
    open=lambda name, root, mode: (open_shards if holds_shards(Path(name)) else open_folder)(name, mode),
    reads_root=False,
)
