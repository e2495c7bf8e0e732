"""Shards: data sets in tar archives, of WebDataset or with class folders, with random access."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cpvt.data.base import SPLITS, DataSet, DataSource, data_set, find_parts, natural_key
from cpvt.data.datasets.tars import KEYS, Sample, read_samples
from cpvt.data.decoding import decode, is_hidden

INFO = "_info.json"  # of timm's data sets: which shards are in which split


class ShardSplit:
    """Images in tar archives; small in memory and without open files, so that it pickles for workers."""

    def __init__(self, shards: Sequence[Path], samples: Sequence[Sequence[Sample]], labels: Sequence[int], mode: str):
        self.shards, self.mode = tuple(shards), mode
        every = [(shard, sample) for shard, within in enumerate(samples) for sample in within]
        self.places = np.array([(shard, sample.offset, sample.size) for shard, sample in every], dtype=np.int64)
        self.names = np.array([os.fsencode(sample.name) for _, sample in every])
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{os.fsdecode(self.names[index])} of {self.shards[self.places[index][0]]}"

    def read(self, index: int, generator: np.random.Generator) -> tuple[Image.Image, int]:
        shard, offset, size = self.places[index].tolist()
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            content = io.BytesIO(file.read(size))
        return decode(content, self.name(index), self.mode), int(self.labels[index])


def holds_shards(folder: Path) -> bool:
    """Whether a folder, or one directly below it, has tar archives."""
    return any(not is_hidden(path.relative_to(folder)) for path in (*folder.glob("*.tar"), *folder.glob("*/*.tar")))


def open_shards(where: str, mode: str) -> DataSet:
    """A data set in tar archives: a folder of them, or a pattern such as /data/train-{000..146}.tar or /data/*.tar.

    The split of a shard is in its name or folder (train-000.tar, imagenet-val-07.tar, validation/00.tar), or in timm's
    _info.json. For the classes see `read_samples`; classes without names are numbered.
    Raises ValueError where nothing is found, a shard is damaged, or a test class is not in the training split.
    """
    shards, words, keys = _find(where)
    samples = {part: [read_samples(path, keys) for path in paths] for part, paths in shards.items()}
    labels = {part: [sample.label for within in each for sample in within] for part, each in samples.items()}
    for part, found in labels.items():
        if not found:
            raise ValueError(f"there are no images in '{shards[part][0]}' and the other shards to {part} of '{where}'")
    _check_alike(where, [sample for each in samples.values() for within in each for sample in within])
    numbers, names = _numbered(where, labels)
    for sample in (sample for each in samples.values() for within in each for sample in within):
        if sample.class_name and isinstance(sample.label, int):
            names[sample.label] = sample.class_name
    splits = {part: ShardSplit(shards[part], samples[part], numbers[part], mode) for part in shards}
    train, test, validation = (splits.get(part) for part in ("train", "test", "validation"))
    return data_set(where, names, train, test, mode, validation=validation, names=words)


def _check_alike(where: str, samples: Sequence[Sample]) -> None:
    """Raise ValueError where only some images have their class in a file."""
    folder, file = (next((each.name for each in samples if each.by_folder == how), None) for how in (True, False))
    if folder is not None and file is not None:
        raise ValueError(
            f"only some images of '{where}' have a class in a file: '{file}' has one, '{folder}' has none; "
            "give every image one (.cls, .label, .class or .json), or none and class folders"
        )


def _numbered(where: str, labels: dict[str, list[int | str]]) -> tuple[dict[str, list[int]], list[str]]:
    """Labels as numbers, and the names of the classes."""
    every = {label for found in labels.values() for label in found}
    if len({type(label) for label in every}) > 1:
        raise ValueError(f"the shards of '{where}' give some classes by number and some by name; give all alike")
    known = set(labels.get("train", every))
    extra = sorted(map(str, every - known), key=natural_key)
    if extra:
        raise ValueError(f"'{where}' has test classes that are not in its training split: {', '.join(extra[:10])}")
    numbers = sorted(label for label in known if isinstance(label, int))
    names = [str(number) for number in range(1 + numbers[-1])] if numbers else sorted(map(str, known), key=natural_key)
    number_of: dict[int | str, int] = {number: number for number in numbers} or {
        name: n for n, name in enumerate(names)
    }
    return {part: [number_of[label] for label in found] for part, found in labels.items()}, names


def _find(where: str) -> tuple[dict[str, list[Path]], dict[str, str], tuple[str, ...]]:
    """The shards of each split, in natural order, the names of the splits, and the keys of the class in .json."""
    root, keys = Path(where), KEYS
    if (root / INFO).exists():
        splits: dict[str, Any] = json.loads((root / INFO).read_text()).get("splits", {})
        by_word = {word: [root / name for name in split["filenames"]] for word, split in splits.items()}
        keys = tuple({split["alt_label"] for split in splits.values() if split.get("alt_label")}) or KEYS
    else:
        inside = (path for path in root.rglob("*.tar") if not is_hidden(path.relative_to(root)))
        paths = inside if root.is_dir() else _expand(where)
        by_word = {}
        for path in sorted(paths, key=natural_key):
            by_word.setdefault(_word(path, root if root.is_dir() else path.parent.parent), []).append(path)
    words = find_parts([word for word, paths in by_word.items() if paths])
    found = {part: by_word[word] for part, word in words.items()}
    if not found:
        folder = root if root.is_dir() else root.parent
        held = ", ".join(sorted(path.name for path in folder.glob("*"))[:10])
        raise ValueError(
            f"no shards at '{where}': looked for train*.tar and validation*.tar (or test*.tar, val*.tar), for folders "
            f"train/ and validation/ of such files, and for {INFO}; '{folder}' holds {held or 'nothing'}"
        )
    absent = [str(path) for paths in found.values() for path in paths if not path.exists()]
    if absent:
        raise ValueError(f"shards of '{where}' do not exist: {', '.join(absent[:5])}")
    return found, words, keys


def _expand(pattern: str) -> list[Path]:
    """The files that match a pattern with {a,b}, {000..146}, * and ?."""
    braces = re.search(r"\{([^{}]*)\}", pattern)
    if braces is None:
        path = Path(pattern)
        exact = path.suffix == ".tar" and not set(path.name) & set("*?[")
        return [path] if exact else list(path.parent.glob(path.name))
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", braces[1])
    inner = braces[1].split(",")
    if ends is not None:
        inner = [str(number).zfill(len(ends[1])) for number in range(int(ends[1]), int(ends[2]) + 1)]
    each = (_expand(pattern[: braces.start()] + one + pattern[braces.end() :]) for one in inner)
    return list(dict.fromkeys(path for paths in each for path in paths))  # braces in braces may name a file twice


def _word(path: Path, base: Path) -> str:
    """The last word in a shard's name, or else in its folders, that is the name of a split; '' without any."""
    known = {word for words in SPLITS.values() for word in words}
    for name in (path.name, *reversed(path.relative_to(base).parent.parts)):
        said = [word for word in re.split(r"[-_.]", name.lower()) if word in known]
        if said:
            return said[-1]
    return ""


def is_remote(name: str) -> bool:
    """Whether shards are read from a URL or a pipe, not from files."""
    return any(mark in name for mark in ("://", "pipe:"))


SHARDS = DataSource(
    "shards of WebDataset: a folder, or a pattern such as wds//data/{train,val}-{000..146}.tar",
    matches=lambda name: name.startswith("wds/") and not is_remote(name),
    open=lambda name, root, mode: open_shards(str(Path(root or "", name.removeprefix("wds/"))), mode),
)
