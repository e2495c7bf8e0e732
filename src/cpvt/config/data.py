"""Which images a model is trained on, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpvt.config.base import Options, Ranges


@dataclass(frozen=True)
class DataConfig(Options):
    """Which images, and how they are read."""

    data: str = "digits"
    """'digits', a folder with train/ and test/ (or val/), or a name of timm's dataset factory such as torch/cifar10."""
    data_dir: str | None = None
    """Where the files of a named data set are."""
    crop_pct: float | None = None
    """Fraction of the resized image that a test under `resize` shows; by default the data set's (1 for digits, else 0.875)."""
    interpolation: str = "bicubic"
    longest_side: int | None = None
    """Images with a longer side are shrunk to it before they are cropped or laid on a canvas, in training and test
    alike, and it is said; by default four times the training size."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with a image that does not decode: 'error', or 'skip' (counted and reported)."""
    train_num_samples: int | None = None
    """How many images an epoch of a streamed set holds, where the set does not say."""
    shuffle_buffer: int = 10_000
    """Images of a streamed set that wait in memory to be drawn from, in each process."""
    workers: int = 0
    """Processes that read images beside the one that trains."""

    RANGES: ClassVar[Ranges] = {
        "1 or more": ("longest_side", "train_num_samples"),
        "0 or more": ("shuffle_buffer", "workers"),
    }
