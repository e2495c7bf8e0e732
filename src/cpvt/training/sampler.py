"""Images and size of each training step, all determined by seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice, repeat

import numpy as np
import torch

from cpvt.config import TrainConfig
from cpvt.data import Batch, DataSet, LoadOptions, SampleSpec, load_plan, load_stream
from cpvt.data.protocols import Protocol
from cpvt.grids import patch_count
from cpvt.runtime import distributed

Sides = tuple[int, int]
Step = Sequence[SampleSpec]


@dataclass(frozen=True)
class BatchSampler:
    """The steps of every epoch, the same in every process."""

    images: int  # in the data set
    batch_size: int  # images per step, at the training size
    repeats: int  # augmented copies of an image in an epoch
    seed: int
    train_size: Sides
    sizes: tuple[Sides, ...]  # each step draws one
    batch_sizes: tuple[int, ...]  # for each size: images with about the tokens of a batch

    def steps(self, epoch: int) -> list[list[SampleSpec]]:
        """The images of each step of an epoch (from 0)."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.images)
        specs = [
            SampleSpec(int(number), copy)
            for number in order[: -(-self.images // self.repeats)]
            for copy in range(self.repeats)
        ][: self.images]
        steps, start = [], 0
        for sides, size in self._sizes(epoch):
            step = specs[start : start + size]
            steps.append(step if self.train_size == sides else [spec._replace(sides=sides) for spec in step])
            start += size
        return steps

    def num_steps(self, epoch: int) -> int:
        """Number of steps in an epoch."""
        return -(-self.images // self.batch_sizes[0]) if len(self.sizes) == 1 else sum(1 for _ in self._sizes(epoch))

    def total_steps(self, epochs: int) -> int:
        """Number of steps in that many epochs."""
        return epochs * self.num_steps(0) if len(self.sizes) == 1 else sum(map(self.num_steps, range(epochs)))

    def _sizes(self, epoch: int) -> Iterator[tuple[Sides, int]]:
        """Size and number of images of each step; the last number may exceed the images left."""
        rng, seen = np.random.default_rng((self.seed, epoch, 1)), 0
        while seen < self.images:
            chosen = int(rng.integers(len(self.sizes))) if len(self.sizes) > 1 else 0
            yield self.sizes[chosen], self.batch_sizes[chosen]
            seen += self.batch_sizes[chosen]


def create_sampler(
    images: int, batch_size: int, repeats: int, seed: int, train_size: Sides, sizes: Sequence[Sides], patch_size: int
) -> BatchSampler:
    """A sampler with about the tokens of `batch_size` images at the training size in each step."""
    budget = batch_size * patch_count(train_size, patch_size)
    batch_sizes = [max(1, round(budget / patch_count(sides, patch_size))) for sides in sizes]
    return BatchSampler(images, batch_size, repeats, seed, train_size, tuple(sizes), tuple(batch_sizes))


def own_share(step: Step) -> list[SampleSpec]:
    """This process's part of a step.

    Mixup blends the first image with the last, the second with the last but one, and so on. Such pairs stay in one
    process and in order, so that the result equals that of a single process.
    """
    pairs = distributed.shard(range(len(step) // 2))
    middle = [len(step) // 2] if len(step) % 2 and distributed.rank() == distributed.world_size() - 1 else []
    return [step[place] for place in (*pairs, *middle, *(len(step) - 1 - place for place in reversed(pairs)))]


class StepLoader:
    """Reads this process's part of the steps of an epoch; call it as `load(epoch, steps, first)`."""

    def __init__(
        self, config: TrainConfig, data: DataSet, preprocessing: Protocol, pin: bool = False, smallest_side: int = 1
    ) -> None:
        """pin: use pinned memory. smallest_side: images with a side below this many pixels count as bad.

        Raises ValueError where a streamed batch does not divide among the processes.
        """
        self.config, self.data, self.preprocessing, self.pin = config, data, preprocessing, pin
        self.smallest_side = smallest_side
        count, batch_size = distributed.world_size(), config.optim.batch_size
        if data.train is None and batch_size % count:
            raise ValueError(
                f"the {count} processes read equal parts of a streamed batch, so --batch-size "
                f"must be a multiple of {count}; got {batch_size}"
            )

    def __call__(self, epoch: int, steps: Sequence[Step], first: int = 0) -> Iterator[Batch]:
        """A batch for each step from number `first` on."""
        source = self.config.dataset
        options = LoadOptions(
            seed=self.config.seed, epoch=epoch, on_bad_image=source.on_bad_image, workers=source.workers,
            max_image_pixels=source.max_image_pixels, smallest_side=self.smallest_side,
            stack=self.preprocessing.stacks, pin=self.pin, classes=len(self.data.class_names),
        )  # fmt: skip
        if self.data.train is not None:
            return load_plan(self.data.train, self.preprocessing, [own_share(step) for step in steps[first:]], options)
        assert self.data.train_stream is not None  # `check` rejects a set without either
        part, parts = distributed.rank(), distributed.world_size()
        batch_size = self.config.optim.batch_size // parts
        batches = load_stream(
            self.data.train_stream, self.preprocessing, batch_size, options, part=part, parts=parts,
            shuffle=source.shuffle_buffer, skip=first * batch_size,
        )  # fmt: skip
        empty = Batch([], torch.zeros(0, dtype=torch.int64), 0.0, 0, [])  # parts may end at different steps
        return islice(chain(batches, repeat(empty)), len(steps) - first)


def step_seed(seed: int, step: int, *more: int) -> int:
    """The seed of one step, a function of the arguments alone."""
    return int(np.random.default_rng((seed, step, *more)).integers(2**31))


@contextmanager
def own_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators of layers; those of the caller go on afterwards as if nothing had drawn from them."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_layers(seed, device)
        yield


def seed_layers(seed: int, device: torch.device) -> None:
    """Seed the generators of layers; torch.manual_seed would also write a traceback for every GPU to come."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
