"""The training steps of the package alone: no images are loaded and no checkpoint is written.

Only this file depends on the internals of cpvt.training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from cpvt.config import OptimConfig, TrainConfig, ignore_progress
from cpvt.data import Batch
from cpvt.data.base import data_set
from cpvt.training import build_model, check
from cpvt.training.backend import Backend
from cpvt.training.loss import Criterion
from cpvt.training.sampler import Step, own_share
from cpvt.training.stopping import Stop
from cpvt.training.trainer import Trainer

EPOCHS = 10_000  # enough that the schedule never ends


class Rehearsal:
    """A training on the same noise in every step; a call takes the steps of an epoch and stores nothing."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __call__(self) -> None:
        self.trainer.train_epoch(ignore_progress, Stop())
        self.trainer.progress.next_epoch()


class Noise:
    """Gives every step the same images; called like `cpvt.training.trainer.Load`."""

    def __init__(self, channels: int, sides: tuple[int, int], classes: int, pin: bool = False) -> None:
        """pin: use pinned memory, as training does for a GPU."""
        self.shape, self.classes, self.pin = (channels, *sides), classes, pin
        self.batch = Batch([], torch.zeros(0), 0.0, 0, [])

    def __call__(self, epoch: int, steps: Sequence[Step], first: int) -> Iterator[Batch]:
        count = len(own_share(steps[0]))  # this process's images of a step
        if count != len(self.batch.labels):
            images = torch.randn(count, *self.shape)
            images = images.pin_memory() if self.pin else images
            self.batch = Batch(images, torch.arange(count) % self.classes, 0.0, 0, [])
        return (self.batch for _ in steps[first:])


def rehearse(model: str, size: int, batch_size: int, classes: int, steps: int = 1) -> Rehearsal:
    """Build a training with the default options on the CPU, with epochs of `steps` steps.

    size: side of the images, pixels. batch_size: images per step over all processes.
    """
    optim = OptimConfig(batch_size=batch_size)
    return rehearse_config(TrainConfig(out="", model=model, img_size=size, device="cpu", optim=optim), classes, steps)


def rehearse_config(config: TrainConfig, classes: int, steps: int = 1) -> Rehearsal:
    """Build the training of a configuration, whatever its device, with epochs of `steps` steps."""
    optim, runtime = replace(config.optim, epochs=EPOCHS), replace(config.runtime, save_minutes=float("inf"))
    config = replace(config, out="", test_every=0, keep_best=False, optim=optim, runtime=runtime)
    names = [f"class {number}" for number in range(classes)]
    data = data_set("noise", names, _Unread(steps * optim.batch_size), None, "RGB")
    setup = check(config, data)
    module, _ = build_model(config, setup.model, data)
    backend = Backend(config)
    noise = Noise(len(data.mean), setup.preprocessing.sides, classes, backend.device.type == "cuda")
    return Rehearsal(Trainer(config, setup, module, data, backend, Criterion(optim, classes), noise))


class _Unread:
    """A data set of known length that is never read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, draw: np.random.Generator) -> tuple[Image.Image, int]:
        raise AssertionError("a rehearsal reads no images")
