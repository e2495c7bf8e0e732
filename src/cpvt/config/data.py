"""Options of the data: which images, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from cpvt.config.base import MAX_IMAGE_PIXELS, Options, Ranges


def limited_name(data: str, limit: int | None) -> str:
    """The name of a data set of which at most `limit` images of each part are read."""
    return data if limit is None else f"{data}, {limit} images of each part"


@dataclass(frozen=True)
class DataConfig(Options):
    """Which images, and how they are read."""

    data: str = "digits"
    """'digits', a folder with train/, test/ and perhaps validation/, or a name of timm's dataset factory such as
    torch/cifar10. Without test/ the validation part is tested. Of a folder with class folders alone, about a fifth
    of each class is held out to test."""
    data_dir: str | None = None
    """Where the files of a named data set are."""
    limit: int | None = None
    """Most images to read of each part, drawn with a fixed seed, for a first look; by default all."""
    crop_pct: float | None = None
    """Center crop of a test under `resize`, as a fraction of the resized image; by default that of the initial weights,
    else the data set's (1 for digits, else 0.875)."""
    interpolation: str | None = None
    """How images are resized: nearest, bilinear, bicubic, ...; by default as for the initial weights, else bicubic."""
    longest_side: int | None = None
    """Images with a longer side are shrunk to it first, and reported, where they keep their scale: under the
    augmentations 'crop', 'native' and 'none' and the protocols canvas and native; by default as for the initial
    weights at their training size, else four times the training size."""
    reduced_jpegs: bool = False
    """Decode JPEGs that are shown much smaller at 1/2, 1/4 or 1/8 of their sides, in training and tests: faster, and
    pixels differ by about half a level of 255 in the mean, by 25 at most in photographs."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be decoded: 'error', or 'skip' (counted and reported)."""
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """Images of more pixels are bad: decoding them takes 4 bytes of memory a pixel and more."""
    train_num_samples: int | None = None
    """Images in an epoch of a streamed set, if the set does not say."""
    shuffle_buffer: int = 10_000
    """Images of a streamed set that each process holds in memory to shuffle."""
    workers: int = 0
    """Processes that load images, besides the main one."""

    @property
    def name(self) -> str:
        """The set in rows: its name, and the limit where there is one."""
        return limited_name(self.data, self.limit)

    @property
    def test_options(self) -> dict[str, Any]:
        """The options with which a training tests its model, as `cpvt.sweep` takes them."""
        return {name: getattr(self, name) for name in ("on_bad_image", "max_image_pixels", "workers")}

    RANGES: ClassVar[Ranges] = {
        "1 or more": ("limit", "longest_side", "max_image_pixels", "train_num_samples"),
        "0 or more": ("shuffle_buffer", "workers"),
    }
