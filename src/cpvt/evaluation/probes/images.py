"""The images of probes: natural ones of a data set, noise, black and white, at any height and width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpvt.config import MAX_IMAGE_PIXELS, TOKEN_BUDGET
from cpvt.data import DataSet, LoadOptions, Transform, load_batches
from cpvt.data.protocols import find_protocol

KINDS = ("natural", "noise", "black", "white")
CACHED = 2**26  # values of natural images that are cached for the next probe: 256 MiB
PARTS = {"all": (0.0, 1.0), "fit": (0.0, 0.5), "test": (0.5, 1.0)}


@dataclass
class ProbeDataset:
    """A seeded selection of a data set's test images, or of its training images where it has no test images."""

    data: DataSet
    transform: Transform
    device: torch.device
    count: int
    patch_size: int
    seed: int = 0
    on_bad_image: str = "error"
    token_budget: int = TOKEN_BUDGET
    max_image_pixels: int = MAX_IMAGE_PIXELS
    cache: dict[Any, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        split = self.data.test if self.data.test is not None else self.data.train
        if split is None or len(split) < 2:
            raise ValueError(f"'{self.data.name}' holds no images to probe with: at least two are needed")
        self.split = split
        if self.count < 2:
            raise ValueError(f"probes need 2 images or more, to fit on some and test on others; got {self.count}")
        draw = np.random.default_rng((self.seed, len(split)))
        self.indices = draw.permutation(len(split))[: self.count].tolist()

    def batches(self, kind: str, sides: tuple[int, int], part: str = "all") -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W) on the device and their classes (B,), -1 for an image without one.

        kind: 'natural' images are resized to the sides without padding; 'noise' is standard normal after normalisation,
        drawn for each image; 'black' and 'white' are one image each. part: 'all', or one of the disjoint halves 'fit'
        and 'test'.
        """
        if kind in ("black", "white"):
            level = np.full((len(self.transform.mean), 1, 1), 255 * (kind == "white"), np.uint8)
            value = self.transform.normalise(level)[None]
            yield value.expand(1, -1, *sides).contiguous().to(self.device), torch.tensor([-1])
            return
        low, high = (round(fraction * len(self.indices)) for fraction in PARTS[part])
        if kind == "natural":
            yield from self._natural(sides, low, high)
            return
        for start in range(low, high, self._batch(sides)):
            size = min(self._batch(sides), high - start)
            generator = torch.Generator().manual_seed(
                int(np.random.default_rng((self.seed, start, *sides)).integers(2**63))
            )
            noise = torch.randn(size, len(self.transform.mean), *sides, generator=generator)
            yield noise.to(self.device), torch.full((size,), -1)

    def _natural(self, sides: tuple[int, int], low: int, high: int) -> Iterator[tuple[Tensor, Tensor]]:
        cached = self.cache.get((sides, low, high))
        if cached is not None:
            yield from cached
            return
        preprocessing = find_protocol("resize")(self.transform, sides)
        read, values = [], 0
        options = LoadOptions(
            seed=self.seed, on_bad_image=self.on_bad_image, max_image_pixels=self.max_image_pixels, labelled=False
        )
        order, batch_size = self.indices[low:high], self._batch(sides)
        for batch in load_batches(self.split, preprocessing, batch_size, options, order=order):
            if isinstance(batch.images, Tensor):
                read.append((batch.images.to(self.device), batch.labels))
                values += batch.images.numel()
                yield read[-1]
            if values > CACHED:
                read.clear()
        if not values:
            raise ValueError(f"none of the images of '{self.data.name}' can be used")
        if values <= CACHED:
            self.cache[(sides, low, high)] = read

    def _batch(self, sides: tuple[int, int]) -> int:
        tokens = -(-sides[0] // self.patch_size) * -(-sides[1] // self.patch_size)
        return max(1, self.token_budget // tokens)
