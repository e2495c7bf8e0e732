"""Training on pictures that lie ready, of which nothing is kept: its steps apart from all reading and writing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from cpvt.config import OptimConfig, RuntimeConfig, TrainConfig, Watch, ignore_progress
from cpvt.data import Batch, Draw
from cpvt.data.base import data_set
from cpvt.training import check, starting_model
from cpvt.training.engine import Machine
from cpvt.training.learning import Lessons
from cpvt.training.plan import own_share
from cpvt.training.run import Run
from cpvt.training.stopping import Stop

EPOCHS = 10_000  # so many that the learning rate never comes to its end


class Rehearsal(Run):
    """A run whose every step learns from the same noise, and that forgets an epoch when it ends; called, it makes one."""

    def __call__(self) -> None:
        self._train_epoch(ignore_progress, Stop())

    @cached_property
    def batch(self) -> Batch:
        """This process's pictures of a step."""
        count = len(own_share(self.plan.steps(0)[0]))
        pictures = torch.randn(count, len(self.view.transform.mean), *self.view.sides)
        return Batch(pictures, torch.arange(count) % len(self.data.class_names), 0.0, 0, [])

    def _load(self, shares: Sequence[Sequence[Draw]]) -> Iterator[Batch]:
        return (self.batch for _ in shares)

    def _end_epoch(self, watch: Watch, stop: Stop) -> None:
        self.before, self.epoch, self.done, self.seconds = self.before + self.done, self.epoch + 1, 0, 0.0
        self.tally = self._zeros()


def rehearse(model: str, size: int, batch_size: int, classes: int, steps: int = 1) -> Rehearsal:
    """Set up a training by the recipe's defaults, on the CPU, with epochs of `steps` steps.

    size: side of the pictures. batch_size: pictures a step, over all processes together.
    """
    recipe, engine = OptimConfig(epochs=EPOCHS, batch_size=batch_size), RuntimeConfig(save_minutes=float("inf"))
    config = TrainConfig(out="", model=model, img_size=size, device="cpu", runtime=engine, optim=recipe)
    names = [f"class {number}" for number in range(classes)]
    data = data_set("noise", names, _Unread(steps * batch_size), None, "RGB")
    settings, view = check(config, data)
    module = starting_model(config, settings, data.class_names)
    return Rehearsal(config, settings, view, module, data, Machine(config), Lessons(recipe, classes))


class _Unread:
    """So many pictures, none of which is ever asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, draw: np.random.Generator) -> tuple[Image.Image, int]:
        raise AssertionError("a rehearsal reads no pictures")
