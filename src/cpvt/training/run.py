"""The moving parts of one training: steps, what they add up to, what is saved, what is gone on with."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain, islice, pairwise, repeat
from pathlib import Path
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.nn.modules.batchnorm import _BatchNorm

from cpvt import processes
from cpvt.checkpoint import RECORD, WEIGHTS, load, provenance, save_checkpoint
from cpvt.config import ForeignConfig, ModelConfig, Retrofit, TrainConfig, Watch, sides
from cpvt.data import Batch, DataSet, Draw, View, load_plan, load_stream
from cpvt.models import VisionTransformer
from cpvt.results import remove_leftovers, write_lines
from cpvt.retrofitting import fade_share, set_absolute_share
from cpvt.scoring import count_test, load_test, measure
from cpvt.training.engine import Machine
from cpvt.training.learning import Lessons, seed_layers, step_seed
from cpvt.training.plan import own_share
from cpvt.training.saving import STATE, fail_to_save, read_state, remove_state, write_state
from cpvt.training.starting import create_optimizer, plain, plan_of, refuse_other_pictures, refuse_other_run
from cpvt.training.stopping import Stop, StoppedError, until_stopped

HISTORY = "history.jsonl"
LOOK_EVERY = 10  # steps between looks at the loss where a look makes the device or other processes wait
GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)  # spread over processes or not; held by the first
TALLY = ("loss", "correct", "pictures", "skipped", "shrunk")


class DivergedError(FloatingPointError):
    """The loss is no longer a number; the message says when, and what is left."""


class Run:
    """One training, in one process or in this one of several."""

    def __init__(
        self,
        config: TrainConfig,
        settings: ModelConfig | ForeignConfig,
        view: View,
        model: nn.Module,
        data: DataSet,
        machine: Machine,
        lessons: Lessons,
        retrofit: Retrofit | None = None,
    ) -> None:
        self.config, self.data, self.machine, self.lessons = config, data, machine, lessons
        self.folder, self.retrofit, recipe = Path(config.out), retrofit, config.optim
        self.plan = plan_of(config, data, settings)
        self._check_share()
        self.view = view
        self.record: dict[str, Any] = {
            "model": asdict(settings),
            "transform": asdict(self.view.transform),
            "class_names": list(data.class_names),
            "at": list(model.encoding.at if isinstance(model, VisionTransformer) else retrofit.at if retrofit else ()),
            "training": asdict(config),
            "retrofit": None if retrofit is None else plain(retrofit),
            "provenance": {**provenance(), "processes": processes.count()},
        }
        self.average = (
            None
            if recipe.model_ema_decay is None
            else ModelEmaV3(model.to(machine.device), recipe.model_ema_decay, use_warmup=True)
        )
        if self.average is not None:
            machine.place(self.average.module)
        self.module = machine.place(model)
        self.optimizer = machine.accelerator.prepare_optimizer(
            create_optimizer(self.module, recipe, retrofit, fused=machine.device.type in ("cpu", "cuda") and not machine.sharded)
        )  # fmt: skip
        self.parameters = [each for group in self.optimizer.param_groups for each in group["params"]]
        self.model = machine.wrap(self.module)
        self.steps = self.plan.total(recipe.epochs)
        self.schedule = CosineLRScheduler(
            self.optimizer.optimizer, t_initial=self.steps, lr_min=recipe.min_lr,
            warmup_t=int(recipe.warmup_ratio * self.steps), warmup_lr_init=recipe.min_lr if recipe.warmup_lr is None else recipe.warmup_lr, t_in_epochs=False,
        )  # fmt: skip
        self.look_every = 1 if machine.device.type == "cpu" and not processes.together() else LOOK_EVERY
        self.epoch, self.done, self.before = 0, 0, 0  # whole epochs, steps done of the next one, steps of whole epochs
        self.history = list[dict[str, Any]]()
        self.tally = self._zeros()  # of this epoch, over all processes up to the last look; `fresh`: here, since then
        self.fresh, self.seconds, self.saved = self._zeros(), 0.0, time.monotonic()

    def _zeros(self) -> Tensor:
        kind = torch.float32 if self.machine.device.type == "mps" else torch.float64
        return torch.zeros(len(TALLY) + 2, dtype=kind, device=self.machine.device)

    def _check_share(self) -> None:
        """ValueError where the pictures of a streamed step cannot be dealt out evenly."""
        if self.data.train is None and self.plan.batch_size % processes.count():
            raise ValueError(
                f"of a streamed set each of the {processes.count()} processes reads as many pictures a step, so --batch-size "
                f"must be a multiple of {processes.count()}; got {self.plan.batch_size}"
            )

    def go(self, watch: Watch, stop: Stop) -> None:
        """Train to the end. StoppedError where that was asked, DivergedError where the loss is no longer a number."""
        if self.history and not self.done:
            self._test_where_due(watch, stop)  # an interruption may have fallen between a save and its test
        while self.epoch < self.config.optim.epochs:
            self._train_epoch(watch, stop)
        processes.wait()
        if processes.is_first():
            remove_state(self.folder)
        self.machine.finish()

    def _train_epoch(self, watch: Watch, stop: Stop) -> None:
        """One pass over the pictures, or what is left of it."""
        self.model.train()
        steps, first, began = self.plan.steps(self.epoch), self.done, time.perf_counter() - self.seconds
        for place, batch in enumerate(self._load(steps), start=first):
            self._learn(batch, steps[place])
            self.done, self.seconds = place + 1, time.perf_counter() - began
            if self.done % self.look_every == 0 or self.done == len(steps):
                self._look(watch, stop, last=self.done == len(steps))
        self._end_epoch(watch, stop)

    def _load(self, steps: Sequence[Sequence[Draw]]) -> Iterator[Batch]:
        """This process's part of each of the steps that are left of the epoch."""
        source, first = self.config.dataset, self.done
        how: dict[str, Any] = dict(
            seed=self.config.seed, epoch=self.epoch, on_bad_image=source.on_bad_image, workers=source.workers,
            stack=self.view.stacks, pin=self.machine.device.type == "cuda",
        )  # fmt: skip
        if self.data.train is not None:
            return load_plan(self.data.train, self.view, [own_share(step) for step in steps[first:]], **how)
        assert self.data.train_stream is not None
        part, parts, share = processes.number(), processes.count(), self.plan.batch_size // processes.count()
        batches = load_stream(
            self.data.train_stream,
            self.view,
            share,
            part=part,
            parts=parts,
            shuffle=source.shuffle_buffer,
            skip=first * share,
            **how,
        )
        nothing = Batch([], torch.zeros(0, dtype=torch.int64), 0.0, 0, [])  # shares may end at different steps
        return islice(chain(batches, repeat(nothing)), len(steps) - first)

    def _learn(self, batch: Batch, step: Sequence[Draw]) -> None:
        """One step, in parts that fit the memory; its gradient is the mean over the pictures of all processes."""
        machine, recipe, at = self.machine, self.config.optim, self.before + self.done
        self.fresh[3:5] += torch.tensor([len(batch.skipped), batch.shrunk], dtype=self.fresh.dtype).to(
            self.fresh.device
        )
        whole = self._count(batch, step)
        if isinstance(whole, int) and not whole:
            return
        self.schedule.step_update(at)
        self._fade(at)
        pictures, labels = batch.pictures_on(machine.device), batch.labels.to(machine.device)
        if isinstance(pictures, Tensor) and len(labels):
            pictures, labels = self.lessons.mix(pictures, labels, step_seed(self.config.seed, at))
        parts = self._parts(pictures, labels)
        for number, (some, targets) in enumerate(parts):
            seed_layers(step_seed(self.config.seed, at, processes.number(), number), machine.device)
            with machine.computing(self.model, last=number == len(parts) - 1):
                if len(targets):
                    answer = self.lessons.judge(machine.forward(self.model, some), some, targets)
                    machine.backward(answer.loss * (processes.count() / whole * len(targets)))
                    self.fresh[:2] += torch.stack([answer.loss.detach() * len(targets), answer.correct]).to(
                        self.fresh.dtype
                    )
                    self.fresh[2] += len(targets)
                else:
                    self._learn_nothing(step)
        machine.step(self.optimizer, self.parameters, recipe.clip_grad)
        if self.average is not None:
            self.average.update(self.module, step=at + 1)

    def _count(self, batch: Batch, step: Sequence[Draw]) -> int | Tensor:
        """Pictures that all processes together learn from in this step; of several a tensor, 1 at least, that none waits for."""
        if self.config.dataset.on_bad_image == "error" and self.data.train is not None:
            return len(step)
        if not processes.together():
            return len(batch.labels)
        return processes.add_up(torch.tensor(float(len(batch.labels)), device=self.machine.device)).clamp(min=1)

    def _learn_nothing(self, step: Sequence[Draw]) -> None:
        """Take part where this process has no picture: others wait for its backward, which adds zeros to their gradients."""
        device = self.machine.device
        picture = torch.zeros(1, len(self.view.transform.mean), *(step[0].sides or self.view.sides), device=device)
        norms = [each for each in self.module.modules() if isinstance(each, _BatchNorm)]
        for norm in norms:
            norm.eval()  # a black picture is none to learn statistics from
        output = self.machine.forward(self.model, picture if self.view.stacks else [picture[0]])
        answer = self.lessons.judge(output, picture, torch.zeros(1, dtype=torch.int64, device=device))
        self.machine.backward(answer.loss * 0.0)
        for norm in norms:
            norm.train()

    def _parts(self, pictures: Any, targets: Tensor) -> list[tuple[Any, Tensor]]:
        """The pictures of a step in `accumulate` parts of about the same number; where processes go through a model part
        by part together, in as many everywhere, some perhaps empty."""
        count = self.config.runtime.grad_accum_steps
        if not self.machine.sharded:
            count = max(1, min(count, len(targets)))
        cuts = [len(targets) * part // count for part in range(count + 1)]
        return [(pictures[start:end], targets[start:end]) for start, end in pairwise(cuts)]

    def _fade(self, step: int) -> None:
        """Set how much of a table that fades is left."""
        if self.retrofit is None or self.retrofit.absolute != "fade":
            return
        for model in (self.module, *([] if self.average is None else [self.average.module])):
            set_absolute_share(model, fade_share(step + 1, self.steps, end=self.retrofit.fade_end))

    def _look(self, watch: Watch, stop: Stop, last: bool) -> None:
        """Add up what all processes did since the last look; tell, log, save and stop as is due."""
        due = processes.is_first() and time.monotonic() - self.saved > 60 * self.config.runtime.save_minutes
        self.fresh[5:] = torch.tensor([float(stop.asked), float(due)], dtype=self.fresh.dtype).to(self.fresh.device)
        self.tally += processes.add_up(self.fresh)
        self.fresh = self._zeros()
        loss, correct, pictures, _, _, stopped, due_anywhere = self.tally.tolist()
        self.tally[5:] = 0
        if not math.isfinite(loss):
            raise self._diverged("the loss is no longer a number")
        rate, seen, at = pictures / self.seconds, max(1.0, pictures), self.before + self.done
        words = f"loss {loss / seen:.3f}  accuracy {correct / seen:.1%}  {rate:.0f} pictures/s"
        watch("train", at, self.steps, words)
        self.machine.log(
            {"loss": loss / seen, "accuracy": correct / seen, "lr": self._rate(), "pictures_per_second": rate}, at
        )
        if stopped:
            self.save_state()
            raise StoppedError(
                f"stopped after step {at} of {self.steps}, as the system asked; {self._kept()}. The same command goes on from there"
            )
        if due_anywhere and not last:
            self.save_state()

    def _rate(self) -> float:
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    def _end_epoch(self, watch: Watch, stop: Stop) -> None:
        """Note what the epoch came to, and save."""
        loss, correct, pictures, skipped, shrunk, *_ = self.tally.tolist()
        if not pictures:
            raise ValueError(f"none of the {self.plan.pictures} training pictures decodes")
        if self.data.train is None and pictures + skipped < self.plan.pictures and processes.is_first():
            warnings.warn(
                f"the stream ended after {pictures + skipped:.0f} of {self.plan.pictures} pictures, and the steps that were left "
                "of the epoch did nothing: give its length by --train-num-samples", stacklevel=2,
            )  # fmt: skip
        self.history.append(
            {"epoch": self.epoch + 1, "loss": loss / pictures, "accuracy": correct / pictures, "pictures": round(pictures),
             "skipped": round(skipped), "shrunk": round(shrunk), "seconds": round(self.seconds, 3), "lr": self._rate()}
        )  # fmt: skip
        self.before, self.epoch, self.done, self.seconds = self.before + self.done, self.epoch + 1, 0, 0.0
        self.tally = self._zeros()
        self.save()
        self._test_where_due(watch, stop)

    def _test_where_due(self, watch: Watch, stop: Stop) -> None:
        """Test the weights just saved at the training size and note the accuracy, after every so many epochs."""
        every = self.config.test_every
        due = every and (self.epoch % every == 0 or self.epoch == self.config.optim.epochs)
        if not due or "test_accuracy" in self.history[-1]:
            return
        processes.wait()
        subject, source = load(self.folder, str(self.machine.device)).subject, self.config.dataset
        view = View(self.view.transform, "resize", sides(self.record["model"]["img_size"]))
        batches = load_test(self.data, view, 64, on_bad_image=source.on_bad_image, workers=source.workers)
        heeding = until_stopped(batches, stop)
        score = measure(subject, heeding, count_test(self.data), len(self.data.class_names), "test", watch)
        if processes.largest(float(stop.asked)):
            raise StoppedError(
                f"stopped in a test, as the system asked; {self._kept()}. The same command goes on from there"
            )
        self.history[-1]["test_accuracy"] = score.correct / score.total
        self.machine.log({"test_accuracy": score.correct / score.total}, self.before)
        self._write_history()

    def save(self) -> None:
        """Write what goes on, then what is used (weights, record, history), each file whole."""
        weights = self.save_state()
        if processes.is_first():
            try:
                save_checkpoint(self.folder, weights, {**self.record, "epoch": self.epoch})
            except OSError as error:
                raise fail_to_save(error, self._kept()) from error
            self._write_history()

    def _write_history(self) -> None:
        if processes.is_first():
            write_lines(self.folder / HISTORY, self.history)

    def save_state(self) -> dict[str, Any]:
        """Write all that is needed to go on from this very step; returns the weights that are to be used.

        No state of a random generator is among it: what is random in a step follows from seed, step and process alone.
        """
        model, optimizer = get_state_dict(self.module, self.optimizer.optimizer, options=GATHERED)
        average = None if self.average is None else get_model_state_dict(self.average.module, options=GATHERED)
        for weights in (model, average or {}):
            self._check(weights)
        scaler = self.machine.accelerator.scaler
        state = {
            "training": json.dumps(self.record["training"]),
            "model": model, "optimizer": optimizer,
            "average": average,
            "scaler": None if scaler is None else scaler.state_dict(),
            "history": self.history, "epoch": self.epoch, "done": self.done, "before": self.before,
            "tally": self.tally.tolist(), "seconds": self.seconds, "processes": processes.count(),
            "class_names": list(self.data.class_names), "pictures": self.plan.pictures,
        }  # fmt: skip
        if processes.is_first():
            try:
                write_state(self.folder, state)
            except OSError as error:
                raise fail_to_save(error, self._kept()) from error
        self.saved, self.kept = time.monotonic(), (self.epoch, self.done)
        return model if average is None else average

    def _check(self, weights: dict[str, Any]) -> None:
        """Keep nothing that is no number; of several processes the first alone holds the weights."""
        if not all(bool(each.isfinite().all()) for each in weights.values() if each.is_floating_point()):
            raise self._diverged("a weight is no longer a number")

    kept: tuple[int, int] | None = None  # whole epochs and further steps that the state on the disk holds

    def _kept(self) -> str:
        if self.kept is None:
            return "no epoch was finished"
        epoch, done = self.kept
        steps = f"step {done} of epoch {epoch + 1}" if done else f"epoch {epoch}"
        return f"{steps} is kept in '{self.folder}'"

    def _diverged(self, what: str) -> DivergedError:
        epoch = self.epoch + 1 if self.done else self.epoch
        return DivergedError(
            f"{what} at step {self.before + self.done} (epoch {epoch}); {self._kept()}. "
            f"Lower the learning rate (now {self.config.optim.lr}) and train again into another folder"
        )

    def resume(self) -> None:
        """Take up the state of an interrupted run, where there is one."""
        if processes.is_first():
            for name in (STATE, WEIGHTS, RECORD, HISTORY):
                remove_leftovers(self.folder / name)
        state = read_state(self.folder)
        if state is None:
            return
        refuse_other_run(self.folder, state["training"], self.config)
        refuse_other_pictures(self.folder, state, self.data, self.plan)
        set_state_dict(
            self.module, self.optimizer.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"],
            options=StateDictOptions(full_state_dict=True),
        )  # fmt: skip
        if self.average is not None:
            set_model_state_dict(self.average.module, state["average"], options=StateDictOptions(full_state_dict=True))
        if state["scaler"] is not None and self.machine.accelerator.scaler is not None:
            self.machine.accelerator.scaler.load_state_dict(state["scaler"])
        self.history, self.epoch, self.done, self.before = (
            state[name] for name in ("history", "epoch", "done", "before")
        )
        self.tally, self.seconds = self.tally + torch.tensor(state["tally"]).to(self.tally), state["seconds"]
        self.kept = (self.epoch, self.done)
        processes.wait()  # before the first one writes another state
