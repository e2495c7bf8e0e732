"""Streams: sets too large to hold, read from their start in shards, each image once over all processes that share them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from cpvt.data.base import SPLITS, DataSet, DataSource, Encoded, Stream, data_set

SHARD = 1 << 32  # numbers of one shard's images, so that an image's own does not depend on the shards before it


class HuggingFaceStream:
    """One part of a Hugging Face set, as it comes."""

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
        """This part's images, not decoded, of which no other part has any; see `Stream`.

        Shards are dealt out; those left over are read by all parts, each of which keeps every so many images.
        """
        if not 0 <= part < parts or shuffle < 0:
            raise ValueError(f"a part is from 0 to below parts, and shuffle 0 or more; got {part}, {parts}, {shuffle}")
        count = self.dataset.num_shards
        order = np.random.default_rng((seed, epoch)).permutation(count) if shuffle else np.arange(count)
        dealt = count - count % parts
        own = [(int(shard), 0, 1) for shard in order[part:dealt:parts]]
        own += [(int(shard), part, parts) for shard in order[dealt:]]
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


def open_stream(name: str, part: str = "train", root: str | None = None) -> Stream:
    """One part, 'train' or 'test', of a set that is read as it comes: hfids/user/set, or hfids//path/of/folder.

    root: where `datasets` keeps what it fetches. Raises ValueError where there is no such set or part.
    """
    prefix, _, rest = name.partition("/")
    if prefix != "hfids":
        raise ValueError(f"sets that are read as they come are called hfids/NAME; got '{name}'")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(f"'{name}' needs a package that is not installed ({error}): pip install datasets") from error
    refused = ""
    for split in SPLITS[part]:
        try:
            dataset = load_dataset(rest, split=split, streaming=True, cache_dir=root)
        except (ValueError, OSError) as error:  # an unknown split; an unknown set, no network
            refused = str(error)
        else:
            return HuggingFaceStream(dataset, f"{name} ({part})")
    raise ValueError(f"data set '{name}' does not open to {part} ({refused})")


def open_streams(name: str, root: str | None, mode: str) -> DataSet:
    """Both parts of a set that is read as it comes; one to test on may be absent."""
    train = open_stream(name, "train", root)
    try:
        test = open_stream(name, "test", root)
    except ValueError:
        test = None
    return replace(data_set(name, train.class_names, None, None, mode), train_stream=train, test_stream=test)


def _content(image: dict[str, Any] | None) -> bytes:
    """The image's file; nothing, which does not decode, where there is none."""
    if not image:
        return b""
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    import fsspec  # a part of datasets

    with fsspec.open(image["path"], "rb") as file:
        return bytes(file.read())


def _shuffled(found: Iterable[Encoded], held: int, draw: np.random.Generator) -> Iterator[Encoded]:
    """Each in a place drawn among `held` that wait."""
    waiting: list[Encoded] = []
    for encoded in found:
        if len(waiting) < held:
            waiting.append(encoded)
        else:
            place = int(draw.integers(held))
            yield waiting[place]
            waiting[place] = encoded
    for place in draw.permutation(len(waiting)):
        yield waiting[place]


STREAM = DataSource(
    "a Hugging Face set that is read as it comes and never held whole (needs the package datasets)",
    matches=lambda name: name.startswith("hfids/"),
    open=open_streams,
)
