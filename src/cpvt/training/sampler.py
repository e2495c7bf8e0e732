"""Which images each step of a training learns from, at which size: all follows from the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

    images: int  # of the data set
    batch_size: int  # images per step, at the training size
    repeats: int  # variations of an image that an epoch holds
    seed: int
    train_size: Sides
    sizes: tuple[Sides, ...]  # from which each step draws one
    batch_sizes: tuple[int, ...]  # for each of the sizes, how many images make about the tokens of a batch

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
        """How many steps an epoch has."""
        return -(-self.images // self.batch_sizes[0]) if len(self.sizes) == 1 else sum(1 for _ in self._sizes(epoch))

    def total_steps(self, epochs: int) -> int:
        """How many steps so many epochs have."""
        return epochs * self.num_steps(0) if len(self.sizes) == 1 else sum(map(self.num_steps, range(epochs)))

    def _sizes(self, epoch: int) -> Iterator[tuple[Sides, int]]:
        """Size and number of images of each step; the last step may ask for more than are left."""
        draw, seen = np.random.default_rng((self.seed, epoch, 1)), 0
        while seen < self.images:
            chosen = int(draw.integers(len(self.sizes))) if len(self.sizes) > 1 else 0
            yield self.sizes[chosen], self.batch_sizes[chosen]
            seen += self.batch_sizes[chosen]


def create_sampler(
    images: int, batch_size: int, repeats: int, seed: int, train_size: Sides, sizes: Sequence[Sides], patch_size: int
) -> BatchSampler:
    """A sampler whose every step holds about as many tokens as `batch_size` images of the training size."""
    budget = batch_size * patch_count(train_size, patch_size)
    batch_sizes = [max(1, round(budget / patch_count(sides, patch_size))) for sides in sizes]
    return BatchSampler(images, batch_size, repeats, seed, train_size, tuple(sizes), tuple(batch_sizes))


def own_share(step: Step) -> list[SampleSpec]:
    """This process's part of a step.

    The first image and the last, the second and the last but one, ... stay together and keep that order, so that mixup,
    which blends such pairs, gives what one process alone would give.
    """
    pairs = distributed.shard(range(len(step) // 2))
    middle = [len(step) // 2] if len(step) % 2 and distributed.rank() == distributed.world_size() - 1 else []
    return [step[place] for place in (*pairs, *middle, *(len(step) - 1 - place for place in reversed(pairs)))]


class StepLoader:
    """Reads this process's part of the steps of an epoch; call it as `load(epoch, steps, first)`."""

    def __init__(self, config: TrainConfig, data: DataSet, preprocessing: Protocol, pin: bool = False) -> None:
        """pin: put images where a GPU fetches them faster. ValueError where a streamed step cannot be shared evenly."""
        self.config, self.data, self.preprocessing, self.pin = config, data, preprocessing, pin
        count, batch_size = distributed.world_size(), config.optim.batch_size
        if data.train is None and batch_size % count:
            raise ValueError(
                f"of a streamed set each of the {count} processes reads as many images a step, so --batch-size "
                f"must be a multiple of {count}; got {batch_size}"
            )

    def __call__(self, epoch: int, steps: Sequence[Step], first: int = 0) -> Iterator[Batch]:
        """A batch for each step from number `first` on."""
        source = self.config.dataset
        options = LoadOptions(
            seed=self.config.seed, epoch=epoch, on_bad_image=source.on_bad_image, workers=source.workers,
            stack=self.preprocessing.stacks, pin=self.pin,
        )  # fmt: skip
        if self.data.train is not None:
            return load_plan(self.data.train, self.preprocessing, [own_share(step) for step in steps[first:]], options)
        assert self.data.train_stream is not None  # `check` refuses a set without either
        part, parts = distributed.rank(), distributed.world_size()
        share = self.config.optim.batch_size // parts
        batches = load_stream(
            self.data.train_stream, self.preprocessing, share, options, part=part, parts=parts,
            shuffle=source.shuffle_buffer, skip=first * share,
        )  # fmt: skip
        nothing = Batch([], torch.zeros(0, dtype=torch.int64), 0.0, 0, [])  # shares may end at different steps
        return islice(chain(batches, repeat(nothing)), len(steps) - first)


def step_seed(seed: int, step: int, *more: int) -> int:
    """The seed of all that is random in one step, from nothing but its arguments."""
    return int(np.random.default_rng((seed, step, *more)).integers(2**31))


def seed_layers(seed: int, device: torch.device) -> None:
    """Seed what layers draw from; torch.manual_seed would also write a traceback for every GPU to come."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
