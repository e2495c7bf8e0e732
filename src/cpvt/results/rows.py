"""Measurements as rows of JSON lines: the seam between measuring and reporting. Standard library only."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from cpvt.runtime.files import read_lines


@dataclass(frozen=True)
class Row:
    """One measurement: one model, tested on one data set at one size under one protocol."""

    model: str
    encoding: str
    pool: str  # cls or gap; empty for models of other libraries, as `encoding`
    seed: int
    protocol: str  # canvas, resize or native
    size: int | tuple[int, int]  # side, or (height, width), or under native the longest side, in pixels
    correct: int  # images whose first class was right
    total: int  # images tested
    seconds: float  # for the test, reading included
    parameters: int
    at: tuple[int, ...]  # depths at which the encoding touches tokens
    data: str
    train_size: int | tuple[int, int] | None  # pixels; None where the model does not say
    crop_ratio: float
    interpolation: str
    longest_side: int | None  # pixels; larger images were shrunk to it before they were laid on a canvas
    fill: float  # mean share of what the model saw that was fill, zero after normalisation
    shrunk: int  # images shrunk to the longest side allowed before they were looked at
    skipped: int  # images that could not be used: that do not decode, or under native are smaller than a patch
    top5: int | None = None  # images whose class was among the first five
    model_seconds: float | None = None  # of `seconds`, those spent in the model
    peak_memory: int | None = None  # bytes by which the test raised the memory of the process (on a GPU: the device's)
    takes_sizes: str = "as it is"  # how the model takes other sizes: as it is, dynamic_img_size, set_input_size, ...
    refused: str | None = None  # the model's own words, where it refused this size
    mean: tuple[float, ...] = ()  # by which images were normalised, of values from 0 to 1
    std: tuple[float, ...] = ()
    weights: str = ""  # file of the weights, where one was named for a model of another library
    hits: str | None = None  # which images were right, a bit each in the order they were read, base64

    @property
    def accuracy(self) -> float:
        """Share of images whose first class was right, 0 to 1."""
        return self.correct / self.total if self.total else float("nan")

    @property
    def rate(self) -> float | None:
        """Images a second through the model."""
        return self.total / self.model_seconds if self.model_seconds else None

    @property
    def key(self) -> tuple[Any, ...]:
        """What was measured."""
        return (self.data, self.model, self.encoding, self.pool, self.seed, self.protocol, self.size)

    @property
    def way(self) -> tuple[Any, ...]:
        """How the images were read; rows with one key and one way measure the same thing."""
        return (
            self.crop_ratio,
            self.interpolation,
            self.longest_side,
            self.mean,
            self.std,
            self.train_size,
            self.weights,
        )


def pack_hits(hits: Sequence[bool]) -> str:
    """Which images were right, a bit each, as text."""
    packed = bytearray(-(-len(hits) // 8))
    for number, hit in enumerate(hits):
        packed[number // 8] |= hit << number % 8
    return base64.b64encode(packed).decode()


def unpack_hits(text: str, count: int) -> list[bool]:
    """What `pack_hits` made of `count` images, read back."""
    packed = base64.b64decode(text)
    return [bool(packed[number // 8] >> number % 8 & 1) for number in range(count)]


def read_rows(path: Path) -> list[Row]:
    """Read rows back, the last one of each key and way; half-written lines are passed over. No file means no rows."""
    rows: dict[tuple[Any, ...], Row] = {}
    for number, values in read_lines(path):
        row = _row(values, f"{path}, line {number}")
        rows[(row.key, row.way)] = row
    return list(rows.values())


def _row(values: Any, where: str) -> Row:
    names = [field.name for field in fields(Row) if field.default is MISSING]  # the others came later
    if not isinstance(values, dict) or not set(names) <= set(values):
        raise ValueError(f"{where}: expected an object with the keys {', '.join(names)}; got {values}")
    known: dict[str, Any] = {field.name: values[field.name] for field in fields(Row) if field.name in values}
    known |= {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Row(**known)
