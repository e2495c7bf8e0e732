"""The training loop: steps, metric reductions, checkpoints and tests."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cpvt.adapters.retrofit import fade_share, set_absolute_share
from cpvt.config import ProgressCallback, TrainConfig, sides
from cpvt.data import Batch, DataSet
from cpvt.data.protocols import find_protocol
from cpvt.evaluation.accuracy import count_test, load_test, measure
from cpvt.results.checkpoints import load
from cpvt.runtime import distributed
from cpvt.training.backend import Backend
from cpvt.training.build import TrainingSetup, create_optimizer, make_record
from cpvt.training.journal import Journal
from cpvt.training.loss import Criterion
from cpvt.training.metrics import Metrics, reduce
from cpvt.training.resume import Checkpointer, Parts, Progress, remove_state
from cpvt.training.sampler import Step, StepLoader, seed_layers, step_seed
from cpvt.training.stopping import Stop, until_stopped

REDUCE_EVERY = 10  # steps between metric reductions, which synchronise device and processes
Load = Callable[[int, Sequence[Step], int], Iterator[Batch]]


class Trainer:
    """Trains one model, in one process or as one of several."""

    def __init__(
        self, config: TrainConfig, setup: TrainingSetup, model: nn.Module, data: DataSet, backend: Backend,
        criterion: Criterion, load: Load | None = None,
    ) -> None:  # fmt: skip
        """load: (epoch, its steps, index of the first) -> batches of this process; by default a StepLoader."""
        self.config, self.setup, self.data, self.backend, self.criterion = config, setup, data, backend, criterion
        recipe, device = config.optim, backend.device
        patch_size = getattr(setup.model, "patch_size", 1)
        self.load = load or StepLoader(config, data, setup.preprocessing, device.type == "cuda", patch_size)
        record = make_record(config, setup, model, data)
        self.average: ModelEmaV3 | None = None
        if recipe.model_ema_decay is not None:
            self.average = ModelEmaV3(model.to(device), recipe.model_ema_decay, use_warmup=True)
            backend.place(self.average.module)
        self.module = backend.place(model)
        fused = device.type in ("cpu", "cuda") and not backend.sharded
        optimizer = create_optimizer(self.module, recipe, config.retrofit, fused)
        self.optimizer = backend.accelerator.prepare_optimizer(optimizer)
        self.parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        self.model = backend.wrap(self.module)
        self.steps = setup.sampler.total_steps(recipe.epochs)
        self.schedule = CosineLRScheduler(
            self.optimizer.optimizer, t_initial=self.steps, lr_min=recipe.min_lr,
            warmup_t=int(recipe.warmup_ratio * self.steps), t_in_epochs=False,
            warmup_lr_init=recipe.min_lr if recipe.warmup_lr is None else recipe.warmup_lr,
        )  # fmt: skip
        self.reduce_every = 1 if device.type == "cpu" and not distributed.is_distributed() else REDUCE_EVERY
        average = None if self.average is None else self.average.module
        parts = Parts(self.module, self.optimizer.optimizer, average, backend.accelerator.scaler)
        self.checkpointer = Checkpointer(config, parts, record, setup.sampler.images)
        self.journal = Journal(config, setup, self.steps)
        self.progress, self.pending = Progress(), Metrics()  # pending: in this process, since the last reduction

    def fit(self, on_progress: ProgressCallback, stop: Stop) -> None:
        """Train to the end; an interrupted run resumes after its last saved step.

        Raises StoppedError after `stop`, DivergedError where the loss or a weight is no longer finite.
        """
        self.progress = self.checkpointer.restore(streamed=self.data.train is None)
        self.journal.begin(self.data, self.module, str(self.backend.device), self.progress)
        if self.progress.epoch and not self.progress.step:  # interrupted between the files of a save, or before a test
            self._finish_epoch(on_progress, stop)
        while self.progress.epoch < self.config.optim.epochs:
            self.train_epoch(on_progress, stop)
            self._end_epoch()
            self._finish_epoch(on_progress, stop)
            self.journal.end_epoch(self.progress.history[-1])
        distributed.barrier()
        if distributed.is_main_process():
            remove_state(self.checkpointer.folder)

    def train_epoch(self, on_progress: ProgressCallback, stop: Stop) -> None:
        """Run the remaining steps of the epoch."""
        self.model.train()
        progress, steps = self.progress, self.setup.sampler.steps(self.progress.epoch)
        first, start = progress.step, time.perf_counter() - progress.seconds
        for batch, step in zip(self.load(progress.epoch, steps, first), steps[first:]):
            self.train_step(batch, step)
            progress.step, progress.seconds = progress.step + 1, time.perf_counter() - start
            is_last = progress.step == len(steps)
            if progress.step % self.reduce_every == 0 or is_last:
                self._reduce(on_progress, stop, is_last)

    def train_step(self, batch: Batch, step: Step) -> None:
        """Train on one batch, split for gradient accumulation; gradients are means over the images of all processes."""
        backend, seed, at = self.backend, self.config.seed, self.progress.total
        self.pending.skipped += len(batch.skipped)
        self.pending.shrunk += batch.shrunk
        count = self._count_images(batch, step)
        if isinstance(count, int) and not count:
            return
        self.schedule.step_update(at)
        self._fade_table(at)
        images, labels = batch.images_on(backend.device), batch.labels.to(backend.device)
        if isinstance(images, Tensor) and len(labels):
            images, labels = self.criterion.mix(images, labels, step_seed(seed, at))
        parts = self._split(images, labels)
        for number, (inputs, targets) in enumerate(parts):
            part_seed, last = step_seed(seed, at, distributed.rank(), number), number == len(parts) - 1
            self._train_part(inputs, targets, step, distributed.world_size() / count, part_seed, last)
        backend.step(self.optimizer, self.parameters, self.config.optim.clip_grad)
        if self.average is not None:
            self.average.update(self.module, step=at + 1)

    def _train_part(
        self, inputs: Any, targets: Tensor, step: Step, weight: float | Tensor, seed: int, last: bool
    ) -> None:
        """Add the gradients of some images of a step, the mean over the sizes at which it shows them.

        weight: of one image. last: whether the step ends with these images, and the processes join their gradients.
        """
        backend, views, larger = self.backend, self.setup.views or (None,), None
        for view in views:
            seed_layers(seed, backend.device)
            with backend.computing(self.model, last=last and view == views[-1]):
                if not len(targets):
                    self._train_on_zeros(step)
                    continue
                seen = inputs if view is None else resized(inputs, view)
                result = self.criterion(backend.forward(self.model, seen), seen, targets, larger)
                backend.backward(result.loss * (weight * len(targets) / len(views)))
                self.pending.count(result.loss, result.correct / len(views), len(targets) / len(views))
                larger = result.logits if larger is None else larger

    def _count_images(self, batch: Batch, step: Step) -> int | Tensor:
        """Images of all processes in this step; of several processes a tensor, at least 1, to avoid synchronisation."""
        if self.config.dataset.on_bad_image == "error" and self.data.train is not None:
            return len(step)
        if not distributed.is_distributed():
            return len(batch.labels)
        count = torch.tensor(float(len(batch.labels)), device=self.backend.device)
        return distributed.all_reduce_sum(count).clamp(min=1)

    def _split(self, images: Any, targets: Tensor) -> list[tuple[Any, Tensor]]:
        """The images of a step in `grad_accum_steps` parts of about equal size.

        All processes run a sharded model part by part, so they need equally many parts; some may be empty.
        """
        count = self.config.runtime.grad_accum_steps
        if not self.backend.sharded:
            count = max(1, min(count, len(targets)))
        cuts = [len(targets) * part // count for part in range(count + 1)]
        return [(images[start:end], targets[start:end]) for start, end in pairwise(cuts)]

    def _train_on_zeros(self, step: Step) -> None:
        """Add zero gradients where this process has no image, as the others wait for its backward pass."""
        backend, preprocessing = self.backend, self.setup.preprocessing
        image = torch.zeros(
            1, len(preprocessing.transform.mean), *(step[0].sides or preprocessing.sides), device=backend.device
        )
        norms = [each for each in self.module.modules() if isinstance(each, _BatchNorm)]
        for norm in norms:
            norm.eval()  # no statistics from a black image
        output = backend.forward(self.model, image if preprocessing.stacks else [image[0]])
        result = self.criterion(output, image, torch.zeros(1, dtype=torch.int64, device=backend.device))
        backend.backward(result.loss * 0.0)
        for norm in norms:
            norm.train()

    def _fade_table(self, step: int) -> None:
        """Set the remaining weight of a retrofitted model's position table, where it fades."""
        retrofit = self.config.retrofit
        if retrofit is None or retrofit.absolute != "fade":
            return
        for model in (self.module, *([] if self.average is None else [self.average.module])):
            set_absolute_share(model, fade_share(step + 1, self.steps, end=retrofit.fade_end))

    def _reduce(self, on_progress: ProgressCallback, stop: Stop, is_last: bool) -> None:
        """Reduce the metrics since the last reduction; report, save and stop where due."""
        progress, metrics = self.progress, self.progress.metrics
        flags = [stop.asked, distributed.is_main_process() and self.checkpointer.is_due]
        reduced, (stopped, is_due) = reduce(self.pending, flags, self.backend.device)
        self.pending = Metrics()
        metrics.add(reduced)
        if not math.isfinite(metrics.loss):
            raise self.checkpointer.diverged("the loss is no longer a number", progress)
        loss, accuracy, rate = metrics.mean("loss"), metrics.mean("correct"), metrics.images / progress.seconds
        epoch = f"epoch {progress.epoch + 1}/{self.config.optim.epochs}"
        message = f"{epoch}  loss {loss:.3f}  training accuracy {accuracy:.1%}  {rate:.0f} images/s"
        on_progress("train", progress.total, self.steps, "" if progress.total == self.steps else message)
        values = {"loss": loss, "accuracy": accuracy, "lr": self._rate(), "images_per_second": rate}
        self.backend.log(values, progress.total)
        if stopped or (is_due and not is_last):
            self.checkpointer.save_state(progress)
        if stopped:
            raise stop.error(f"after step {progress.total} of {self.steps}", self.checkpointer.describe_saved())

    def _rate(self) -> float:
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    def _end_epoch(self) -> None:
        """Add the epoch to the history."""
        progress, metrics, expected = self.progress, self.progress.metrics, self.setup.sampler.images
        if not metrics.images:
            raise ValueError(f"none of the {expected} training images can be decoded")
        read = metrics.images + metrics.skipped
        if self.data.train is None and read < expected and distributed.is_main_process():
            warnings.warn(
                f"the stream ended after {read:.0f} of {expected} images, and the remaining steps of "
                "the epoch did nothing: give its length by --train-num-samples", stacklevel=2,
            )  # fmt: skip
        progress.history.append(
            {"epoch": progress.epoch + 1, "loss": metrics.mean("loss"), "accuracy": metrics.mean("correct"),
             "images": round(metrics.images), "skipped": round(metrics.skipped), "shrunk": round(metrics.shrunk),
             "seconds": round(progress.seconds, 3), "lr": self._rate()}
        )  # fmt: skip
        progress.next_epoch()

    def _finish_epoch(self, on_progress: ProgressCallback, stop: Stop) -> None:
        """Save after an epoch, test where a test is due, and keep the best epoch where that is asked for."""
        self.checkpointer.save(self.progress)
        self._test_if_due(on_progress, stop)
        if self.config.keep_best:
            self.checkpointer.keep_best(self.progress)

    def _test_if_due(self, on_progress: ProgressCallback, stop: Stop) -> None:
        """Test the saved weights at the training size, every `test_every` epochs and after the last.

        On the validation part of the data, or on its test part where there is no other.
        """
        progress, every, source = self.progress, self.config.test_every, self.config.dataset
        due = every and (progress.epoch % every == 0 or progress.epoch == self.config.optim.epochs)
        part = "test" if self.data.validation is None else "validation"
        if not due or f"{part}_accuracy" in progress.history[-1]:
            return
        distributed.barrier()
        adapter = load(self.checkpointer.folder, str(self.backend.device)).adapter
        preprocessing = find_protocol("resize")(self.setup.preprocessing.transform, sides(self.setup.model.img_size))
        data = self.data.during_training
        batches = load_test(data, preprocessing, 64, **source.test_options)
        count, classes = count_test(data), len(data.class_names)

        def on_batch(name: str, done: int, total: int, message: str) -> None:
            on_progress(name, done, total, "")  # the line of the epoch has the accuracy

        score = measure(adapter, until_stopped(batches, stop), count, classes, part, on_batch, data.test is None)
        if distributed.all_reduce_max(float(stop.asked)):
            raise stop.error("in a test", self.checkpointer.describe_saved())
        progress.history[-1][f"{part}_accuracy"] = score.correct / score.total
        self.backend.log({f"{part}_accuracy": score.correct / score.total}, progress.before)
        self.checkpointer.write_history(progress)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) at a size (height, width) that is not larger, bicubic and without aliasing."""
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True)
