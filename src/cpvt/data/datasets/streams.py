"""Streams: data sets too large to hold, read in sequence; the processes of a training share the shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from cpvt.data.base import SPLITS, DataSet, DataSource, Encoded, data_set

SHARD = 1 << 32  # numbers for each shard, so that an image's number does not depend on the shards before it


class MissingSplitError(ValueError):
    """A set that is there lacks the split."""


class HuggingFaceStream:
    """One split of a streamed Hugging Face set."""

    def __init__(self, dataset: Any, name: str) -> None:
        """dataset: a `datasets.IterableDataset` with a column of images and one of classes."""
        from datasets import ClassLabel, Image

        columns = dataset.features or {}
        images = [column for column, kind in columns.items() if isinstance(kind, Image)]
        classes = [column for column, kind in columns.items() if isinstance(kind, ClassLabel)]
        if not images or not classes:
            held = ", ".join(f"{column} ({type(kind).__name__})" for column, kind in columns.items()) or "nothing known"
            raise ValueError(f"'{name}' needs a column of kind Image and one of kind ClassLabel; it has {held}")
        self.name, self.image, self.label = name, images[0], "label" if "label" in classes else classes[0]
        self.class_names: tuple[str, ...] = tuple(columns[self.label].names)
        self.dataset = dataset.select_columns([self.image, self.label]).cast_column(self.image, Image(decode=False))
        splits = dataset.info.splits or {}
        known = splits.get(str(dataset.split))
        self.length: int | None = (known.num_examples or None) if known is not None else None

    def share(
        self, part: int = 0, parts: int = 1, *, seed: int = 0, epoch: int = 0, shuffle: int = 0
    ) -> Iterator[Encoded]:
        """The images of this part, not decoded; see `Stream`.

        Shards are distributed evenly. Those left over are read by all parts, and each takes every `parts`-th image.
        """
        if not 0 <= part < parts or shuffle < 0:
            raise ValueError(
                f"part must be from 0 to below parts, and shuffle 0 or more; got {part}, {parts}, {shuffle}"
            )
        count = self.dataset.num_shards
        order = np.random.default_rng((seed, epoch)).permutation(count) if shuffle else np.arange(count)
        even = count - count % parts
        own = [(int(shard), 0, 1) for shard in order[part:even:parts]]
        own += [(int(shard), part, parts) for shard in order[even:]]
        found = (encoded for shard, first, step in own for encoded in self._read(shard, first, step))
        return _shuffled(found, shuffle, np.random.default_rng((seed, epoch, part))) if shuffle else found

    def _read(self, shard: int, first: int, step: int) -> Iterator[Encoded]:
        for place, example in enumerate(self.dataset.shard(self.dataset.num_shards, shard)):
            if place % step == first:
                name = f"{place} in shard {shard} of {self.name}"
                label = example[self.label]
                if label is None or label < 0:
                    raise ValueError(f"image {name} has no class; choose a set, or a part of it, that has classes")
                yield Encoded(shard * SHARD + place, _content(example[self.image]), name, int(label))


def open_stream(name: str, part: str = "train", root: str | None = None) -> HuggingFaceStream:
    """One split, 'train' or 'test', of a streamed set: hfids/user/set, or hfids//path/of/folder.

    root: cache folder of `datasets`. Raises ValueError where there is no such set or split.
    """
    prefix, _, rest = name.partition("/")
    if prefix != "hfids":
        raise ValueError(f"streamed data sets are named hfids/NAME; got '{name}'")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(f"'{name}' needs a package that is not installed ({error}): pip install datasets") from error
    refused = ""
    for split in SPLITS[part]:
        try:
            dataset = load_dataset(rest, split=split, streaming=True, cache_dir=root)
        except ValueError as error:  # an unknown split
            refused = str(error)
        except OSError as error:  # an unknown set, no network
            raise ValueError(f"data set '{name}' does not open to {part} ({error})") from error
        else:
            return HuggingFaceStream(dataset, f"{name} ({part})")
    raise MissingSplitError(f"data set '{name}' does not open to {part} ({refused})")


def open_streams(name: str, root: str | None, mode: str) -> DataSet:
    """Both splits of a streamed set; the test split may be absent."""
    train = open_stream(name, "train", root)
    try:
        test = open_stream(name, "test", root)
    except MissingSplitError:
        test = None
    names = {"test": str(test.dataset.split)} if test is not None else {}
    return replace(
        data_set(name, train.class_names, None, None, mode), train_stream=train, test_stream=test, names=names
    )


def _content(image: dict[str, Any] | None) -> bytes:
    """The bytes of the image file; b'', which does not decode, where there is none."""
    if not image:
        return b""
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    import fsspec  # a dependency of datasets

    with fsspec.open(image["path"], "rb") as file:
        return bytes(file.read())


def _shuffled(found: Iterable[Encoded], held: int, generator: np.random.Generator) -> Iterator[Encoded]:
    """Shuffle with a buffer of `held` images."""
    waiting: list[Encoded] = []
    for encoded in found:
        if len(waiting) < held:
            waiting.append(encoded)
        else:
            place = int(generator.integers(held))
            yield waiting[place]
            waiting[place] = encoded
    for place in generator.permutation(len(waiting)):
        yield waiting[place]


STREAM = DataSource(
    "a streamed Hugging Face set, never held whole (needs the package datasets)",
    matches=lambda name: name.startswith("hfids/"),
    open=open_streams,
)
