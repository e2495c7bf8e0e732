"""Measurements as rows of JSON lines, between evaluation and reporting. Standard library only."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cpvt.runtime.files import read_lines


@dataclass(frozen=True)
class Row:
    """One measurement: one model on one data set at one size under one protocol."""

    model: str
    encoding: str
    pool: str  # cls or gap; empty for external models, as is `encoding`
    seed: int
    protocol: str  # canvas, resize or native
    size: int | tuple[int, int]  # side, (height, width), or under native the longest side, in pixels
    correct: int  # images classified correctly (top-1)
    total: int  # images tested
    seconds: float  # of the test, including data loading
    parameters: int
    at: tuple[int, ...]  # depths at which the encoding changes tokens
    data: str
    train_size: int | tuple[int, int] | None  # pixels; None if the model does not state it
    crop_ratio: float
    interpolation: str
    longest_side: int | None  # pixels; larger images were shrunk to it first
    fill: float  # mean fraction of the input that was padding, zero after normalisation
    shrunk: int  # images shrunk to the longest side
    skipped: int  # images that could not be decoded, or under native are smaller than a patch
    top5: int | None = None  # images whose class was among the first five
    model_seconds: float | None = None  # part of `seconds` spent in the model
    peak_memory: int | None = None  # bytes that the test added to the memory of the process (on a GPU: of the device)
    takes_sizes: str = "as it is"  # how the model takes other sizes: as it is, dynamic_img_size, set_input_size, ...
    refused: str | None = None  # the model's message, if it does not support this size
    mean: tuple[float, ...] = ()  # of the normalisation, for values from 0 to 1
    std: tuple[float, ...] = ()
    weights: str = ""  # file of weights of an external model, if one was given
    hits: str | None = None  # mask of the images classified correctly, one bit each in data order, base64
    train_sizes: tuple[int | tuple[int, int], ...] = ()  # further sizes used in training, pixels
    initial_weights: str = ""  # what the training started from: a run, a file or "published"; empty: random or unknown
    class_totals: tuple[int, ...] = ()  # images tested of each class; empty in rows of early versions
    class_correct: tuple[int, ...] = ()  # of these, images classified correctly
    confusion: tuple[tuple[int, int, int], ...] | None = None  # errors as (class, predicted class, images)
    scale_rule: str = ""  # the rule for the object scale: protocol, fit, ... or a number; empty: nothing
    scale: tuple[float, float] | None = None  # along rows and columns, if one is known
    class_names: tuple[str, ...] = ()  # `confusion` and names are kept for up to 100 classes
    precision: str = "fp32"  # in which the model computed: fp32, bf16 or fp16
    reduced_jpegs: bool = False  # whether JPEGs were decoded at a reduced scale where they were shown much smaller

    @property
    def accuracy(self) -> float:
        """Fraction of images classified correctly, 0 to 1."""
        return self.correct / self.total if self.total else float("nan")

    @property
    def majority(self) -> float | None:
        """Fraction of the largest class, 0 to 1: the accuracy of always answering it. None if it is not known."""
        return max(self.class_totals) / self.total if self.total and self.class_totals else None

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean over classes of the fraction classified correctly, 0 to 1. None if it is not known."""
        parts = [correct / total for correct, total in zip(self.class_correct, self.class_totals) if total]
        return sum(parts) / len(parts) if parts else None

    @property
    def rate(self) -> float | None:
        """Images per second through the model."""
        return self.total / self.model_seconds if self.model_seconds else None

    @property
    def key(self) -> tuple[Any, ...]:
        """What was measured."""
        model = (self.data, self.model, self.encoding, self.pool, self.seed)
        return (*model, self.protocol, self.size, self.scale_rule, self.precision)

    @property
    def settings(self) -> tuple[Any, ...]:
        """How it was measured; rows with equal key and settings are repetitions."""
        images = (self.crop_ratio, self.interpolation, self.longest_side, self.reduced_jpegs, self.mean, self.std)
        return (*images, self.train_size, self.weights, self.train_sizes, self.initial_weights)

    def as_json(self) -> dict[str, Any]:
        """The row as it is written, the same as by versions without a precision or reduced JPEGs where it has none."""
        unwritten = {"precision": "fp32", "reduced_jpegs": False}
        return {name: value for name, value in asdict(self).items() if unwritten.get(name, ...) != value}


def pack_hits(correct_mask: Sequence[bool]) -> str:
    """Encode a mask of correctly classified images as text, one bit each."""
    packed = bytearray(-(-len(correct_mask) // 8))
    for number, correct in enumerate(correct_mask):
        packed[number // 8] |= correct << number % 8
    return base64.b64encode(packed).decode()


def unpack_hits(text: str, count: int) -> list[bool]:
    """Decode the mask of `count` images from `pack_hits`."""
    packed = base64.b64decode(text)
    return [bool(packed[number // 8] >> number % 8 & 1) for number in range(count)]


def read_rows(path: Path) -> list[Row]:
    """Read rows, the last one of each key and settings; incomplete lines are skipped. No file means no rows."""
    rows: dict[tuple[Any, ...], Row] = {}
    for number, values in read_lines(path):
        row = _row(values, f"{path}, line {number}")
        rows[(row.key, row.settings)] = row
    return list(rows.values())


def _row(values: Any, where: str) -> Row:
    names = [field.name for field in fields(Row) if field.default is MISSING]  # later versions added the others
    if not isinstance(values, dict) or not set(names) <= set(values):
        raise ValueError(f"{where}: expected an object with the keys {', '.join(names)}; got {values}")
    known: dict[str, Any] = {field.name: values[field.name] for field in fields(Row) if field.name in values}
    return Row(**{name: _frozen(value) for name, value in known.items()})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
