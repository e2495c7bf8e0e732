"""Which pictures each step of a training learns from, at which size: all of it follows from the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cpvt import processes
from cpvt.data import Draw
from cpvt.shapes import patch_count

Sides = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """The steps of every epoch, the same in every process."""

    pictures: int  # of the data set
    batch_size: int  # pictures a step, at the training size
    repeats: int  # variations of a picture that an epoch holds
    seed: int
    train_size: Sides
    sizes: tuple[Sides, ...]  # from which each step draws one
    batches: tuple[int, ...]  # for each of the sizes, how many pictures make about the tokens of a batch

    @property
    def many_sizes(self) -> bool:
        return len(self.sizes) > 1

    def steps(self, epoch: int) -> list[list[Draw]]:
        """The pictures of each step of an epoch (from 0)."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.pictures)
        draws = [
            Draw(int(number), copy)
            for number in order[: -(-self.pictures // self.repeats)]
            for copy in range(self.repeats)
        ][: self.pictures]
        steps, start = [], 0
        for sides, size in self._sizes(epoch):
            step = draws[start : start + size]
            steps.append(step if self.train_size == sides else [draw._replace(sides=sides) for draw in step])
            start += size
        return steps

    def length(self, epoch: int) -> int:
        """How many steps an epoch has."""
        return sum(1 for _ in self._sizes(epoch)) if self.many_sizes else -(-self.pictures // self.batches[0])

    def total(self, epochs: int) -> int:
        """How many steps so many epochs have."""
        return sum(self.length(epoch) for epoch in range(epochs)) if self.many_sizes else epochs * self.length(0)

    def _sizes(self, epoch: int) -> Iterator[tuple[Sides, int]]:
        """Size and number of pictures of each step, the last one perhaps more than are left."""
        draw, seen = np.random.default_rng((self.seed, epoch, 1)), 0
        while seen < self.pictures:
            chosen = int(draw.integers(len(self.sizes))) if self.many_sizes else 0
            yield self.sizes[chosen], self.batches[chosen]
            seen += self.batches[chosen]


def plan_training(
    pictures: int, batch_size: int, repeats: int, seed: int, train_size: Sides, sizes: Sequence[Sides], patch_size: int
) -> Plan:
    """A plan in which every step holds about as many tokens as `batch_size` pictures of the training size."""
    budget = batch_size * patch_count(train_size, patch_size)
    batches = [max(1, round(budget / patch_count(sides, patch_size))) for sides in sizes]
    return Plan(pictures, batch_size, repeats, seed, train_size, tuple(sizes), tuple(batches))


def own_share(step: Sequence[Draw]) -> list[Draw]:
    """This process's part of a step. The first picture and the last, the second and the last but one, ... stay together
    and keep that order, so that mixup, which blends such pairs, gives what one process alone would give."""
    pairs = processes.share(range(len(step) // 2))
    middle = [len(step) // 2] if len(step) % 2 and processes.number() == processes.count() - 1 else []
    return [step[place] for place in (*pairs, *middle, *(len(step) - 1 - place for place in reversed(pairs)))]
