"""What a training says to a reader: a header, where it resumes, and a line for each epoch (to the logger `cpvt`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from cpvt.config import ModelConfig, OptimConfig, TrainConfig, sides, size_label
from cpvt.data import DataSet
from cpvt.data.protocols import Protocol
from cpvt.evaluation.accuracy import count_test
from cpvt.runtime import distributed
from cpvt.training.build import TrainingSetup, augment_of
from cpvt.training.resume import Progress

logger = logging.getLogger(__name__)


class Journal:
    """Logs how a training goes, in the main process; one training among several says only its begin and its end."""

    def __init__(self, config: TrainConfig, setup: TrainingSetup, steps: int) -> None:
        """steps: of the whole training."""
        self.config, self.setup, self.steps, self.epochs = config, setup, steps, config.optim.epochs

    def begin(self, data: DataSet, model: nn.Module, device: str, progress: Progress) -> None:
        """Say what is trained on what, and where an interrupted run resumes."""
        size = f"{sum(each.numel() for each in model.parameters()):,} parameters"
        resumes = f"resuming at step {progress.total} of {self.steps} (epoch {progress.epoch + 1} of {self.epochs})"
        if self.setup.name:
            self._say(resumes if progress.total else f"{size}, {self.epochs} epochs")
            return
        recipe, processes = self.config.optim, distributed.world_size()
        self._say(f"data: {describe_data(data, self.setup.sampler.images, self.config.test_every)}")
        self._say(f"model: {_describe_model(self.config, self.setup)}, {size}")
        self._say(f"images: {describe_images(self.config, self.setup.preprocessing, data)}")
        self._say(
            f"training: {self.epochs} epochs of {self.setup.sampler.num_steps(0)} steps, {self.steps} in all; "
            f"{recipe.batch_size} images a step; {recipe.opt}, lr {recipe.lr:g}; {device}, {recipe.precision}"
            + (f", {processes} processes" if processes > 1 else "")
        )
        if progress.total:
            self._say(resumes)

    def end_epoch(self, line: dict[str, Any]) -> None:
        """Say how an epoch went, from its line in the history."""
        if self.setup.name and line["epoch"] < self.epochs:
            return
        tested = [f"{part} accuracy {line[f'{part}_accuracy']:.1%}" for part in ("validation", "test")
                  if f"{part}_accuracy" in line]  # fmt: skip
        rate = f"{line['images'] / max(line['seconds'], 1e-9):.0f} images/s"
        words = [f"loss {line['loss']:.3f}", f"training accuracy {line['accuracy']:.1%}", *tested]
        kept = ["best so far"] if line.get("kept") else []
        self._say("  ".join([f"epoch {line['epoch']}/{self.epochs}", *words, f"lr {line['lr']:.3g}", rate, *kept]))

    def _say(self, line: str) -> None:
        if distributed.is_main_process():
            logger.info(f"{self.setup.name}: {line}" if self.setup.name else line)


def describe_data(data: DataSet, images: int, test_every: int = 0) -> str:
    """How many images of which part a training reads, and how many classes there are; `images`: to train."""
    parts, name, count = [f"{images:,} images to train"], data.names.get("test", "test"), count_test(data)
    if data.validation is not None:
        when = "during training" if test_every else "not used without --test-every"
        parts.append(f"{len(data.validation):,} to validate ({data.names['validation']}; {when})")
    if data.has_test:
        when = "also during training" if test_every and data.validation is None else "at the end"
        part = when if name == "test" else f"{name}, for want of a test part; {when}"
        parts.append(f"{f'{count:,}' if count else 'some'} to test ({part})")
    else:
        parts.append(f"none to test: {data.lacks_test}")
    return f"{data.name}, {', '.join(parts)}; {len(data.class_names)} classes"


def describe_images(config: TrainConfig, preprocessing: Protocol, data: DataSet) -> str:
    """The size of training images, and how they are augmented."""
    recipe, (height, width) = config.optim, preprocessing.sides
    sizes = [f"{width}x{height} pixels"]
    if config.train_sizes:
        sizes = [f"{len(config.train_sizes)} sizes, {', '.join(map(size_label, config.train_sizes))} pixels"]
        if recipe.sizes_per_step == "all":
            sizes.append("all in each step" + (f", consistency {recipe.consistency:g}" if recipe.consistency else ""))
    elif not preprocessing.stacks:
        sizes = [f"own sizes, at most {max(height, width)} pixels a side"]
    sizes[0] += _larger_files(data, max(max(sides(size)) for size in config.train_sizes or [(height, width)]))
    mirrored = f"mirrored with probability {preprocessing.hflip:g}" if preprocessing.mirrors else "never mirrored"
    return ", ".join([*sizes, f"augmentation {augment_of(config, data)}", mirrored, *_extras(recipe)])


def _larger_files(data: DataSet, side: int) -> str:
    """A hint where the first image has far more pixels than training shows."""
    if data.train is None or not len(data.train):
        return ""
    try:
        width, height = data.train.read(0, np.random.default_rng(0))[0].size
    except ValueError:  # which the training then says
        return ""
    hint = f" (the first file has {width}x{height}; a larger --img-size shows more)"
    return hint if min(width, height) >= 3 * side else ""


def _extras(recipe: OptimConfig) -> Iterator[str]:
    """The augmentations that are on."""
    for name in ("aa", "color_jitter", "reprob", "mixup", "cutmix"):
        if getattr(recipe, name):
            yield f"{name} {getattr(recipe, name)}"
    if recipe.aug_repeats > 1:
        yield f"aug_repeats {recipe.aug_repeats}"


def _describe_model(config: TrainConfig, setup: TrainingSetup) -> str:
    model = setup.model
    if not isinstance(model, ModelConfig):
        return model.name + (" with PEG" if config.retrofit is not None else "")
    return f"{config.model}, encoding {model.encoding}, {'class token' if model.global_pool == 'token' else 'gap'}"
