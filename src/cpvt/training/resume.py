"""Interrupted runs: their state is written whole, read back only if whole, and the one before is kept beside it."""

from __future__ import annotations

import io
import json
import os
import pickle
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from cpvt.config import RuntimeConfig, TrainConfig, differences, refuse_other
from cpvt.results.checkpoints import read_record, save_checkpoint
from cpvt.results.folders import CHECKPOINT, HISTORY, PREVIOUS_STATE, STATE, WEIGHTS
from cpvt.runtime import distributed
from cpvt.runtime.files import remove_leftovers, replacing, write_lines
from cpvt.training.metrics import Metrics

BROKEN = (  # what reading a damaged file raises
    OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError,
    zipfile.BadZipFile, zlib.error, pickle.UnpicklingError,
)  # fmt: skip
GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)  # whole, in the first process
WHOLE = StateDictOptions(full_state_dict=True)
# may differ between a run and the command that resumes it
FREE = ("out", "device", "workers", *(each.name for each in fields(RuntimeConfig)))


class DivergedError(FloatingPointError):
    """The loss is no longer a number; the message says when, and what is left."""


class Parts(NamedTuple):
    """What changes in training."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None  # with the moving average of the weights
    scaler: Any  # of the loss, under fp16


@dataclass
class Progress:
    """How far a training has come."""

    epoch: int = 0  # whole epochs
    step: int = 0  # steps done of the next epoch
    before: int = 0  # steps of the whole epochs
    seconds: float = 0.0  # that this epoch has taken
    metrics: Metrics = field(default_factory=Metrics)  # of this epoch, over all processes
    history: list[dict[str, Any]] = field(default_factory=list)  # a line for each whole epoch

    @property
    def total(self) -> int:
        """Steps done in all."""
        return self.before + self.step

    def next_epoch(self) -> None:
        """End the epoch and begin the next one."""
        self.before, self.epoch, self.step = self.total, self.epoch + 1, 0
        self.seconds, self.metrics = 0.0, Metrics()


class Checkpointer:
    """Keeps a training in its folder: the state to resume from, and the weights, record and history to use."""

    def __init__(self, config: TrainConfig, parts: Parts, record: dict[str, Any], images: int) -> None:
        """record: what checkpoint.json is to hold. images: of the data set; a resumed run must have as many."""
        self.config, self.parts, self.record, self.images = config, parts, record, images
        self.folder, self.saved = Path(config.out), time.monotonic()
        self.kept: tuple[int, int] | None = None  # whole epochs and further steps that the state on the disk holds

    @property
    def is_due(self) -> bool:
        """Whether the last save is older than it may be."""
        return time.monotonic() - self.saved > 60 * self.config.runtime.save_minutes

    def save(self, progress: Progress) -> None:
        """Write the state to resume from, then what is used (weights, record, history), each file whole."""
        weights = self.save_state(progress)
        if distributed.is_main_process():
            with self._saving():
                save_checkpoint(self.folder, weights, {**self.record, "epoch": progress.epoch})
        self.write_history(progress)

    def write_history(self, progress: Progress) -> None:
        """Write what is known of each epoch."""
        if distributed.is_main_process():
            write_lines(self.folder / HISTORY, progress.history)

    def save_state(self, progress: Progress) -> dict[str, Any]:
        """Write all that is needed to resume from this very step; returns the weights that are to be used.

        No state of a random generator is among it: what is random in a step follows from seed, step and process alone.
        """
        module, optimizer, average, scaler = self.parts
        model, state_of_optimizer = get_state_dict(module, optimizer, options=GATHERED)
        averaged = None if average is None else get_model_state_dict(average, options=GATHERED)
        weights: list[Any] = [*model.values(), *(averaged or {}).values()]  # of several processes the first holds them
        if not all(bool(each.isfinite().all()) for each in weights if each.is_floating_point()):
            raise self.diverged("a weight is no longer a number", progress)
        state = {
            "training": json.dumps(self.record["training"]),
            "model": model, "optimizer": state_of_optimizer, "average": averaged,
            "scaler": None if scaler is None else scaler.state_dict(),
            "history": progress.history, "epoch": progress.epoch, "done": progress.step, "before": progress.before,
            "metrics": vars(progress.metrics), "seconds": progress.seconds, "processes": distributed.world_size(),
            "class_names": self.record["class_names"], "images": self.images,
        }  # fmt: skip
        if distributed.is_main_process():
            with self._saving():
                write_state(self.folder, state)
        self.saved, self.kept = time.monotonic(), (progress.epoch, progress.step)
        return model if averaged is None else averaged

    def restore(self, streamed: bool) -> Progress:
        """Take up the state of an interrupted run, where there is one; returns how far it had come.

        Raises ValueError where the state is of another configuration or of other images.
        """
        if distributed.is_main_process():
            for name in (STATE, WEIGHTS, CHECKPOINT, HISTORY):
                remove_leftovers(self.folder / name)
        state = read_state(self.folder)
        if state is None:
            return Progress()
        refuse_other_run(self.folder, state["training"], self.config)
        self._refuse_other_images(state, streamed)
        module, optimizer, average, scaler = self.parts
        set_state_dict(
            module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=WHOLE
        )
        if average is not None:
            set_model_state_dict(average, state["average"], options=WHOLE)
        if state["scaler"] is not None and scaler is not None:
            scaler.load_state_dict(state["scaler"])
        metrics = Metrics(**state["metrics"]) if "metrics" in state else Metrics(*state["tally"][:5])  # older states
        self.kept = (state["epoch"], state["done"])
        distributed.barrier()  # before the first one writes another state
        return Progress(*self.kept, state["before"], state["seconds"], metrics, state["history"])

    def describe_kept(self) -> str:
        """What the folder holds to resume from, in words."""
        if self.kept is None:
            return "no epoch was finished"
        epoch, step = self.kept
        return f"{f'step {step} of epoch {epoch + 1}' if step else f'epoch {epoch}'} is kept in '{self.folder}'"

    def diverged(self, what: str, progress: Progress) -> DivergedError:
        """The error to raise where something is no longer a number."""
        epoch = progress.epoch + 1 if progress.step else progress.epoch
        return DivergedError(
            f"{what} at step {progress.total} (epoch {epoch}); {self.describe_kept()}. "
            f"Lower the learning rate (now {self.config.optim.lr}) and train again into another folder"
        )

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Have an OSError say what happened, what is kept and what to do."""
        try:
            yield
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            raise OSError(
                error.errno, f"saving failed ({why}); {self.describe_kept()}. "
                "Make room (or mend the disk), then run the same command again",
            ) from error  # fmt: skip

    def _refuse_other_images(self, state: dict[str, Any], streamed: bool) -> None:
        """Raise ValueError where the images are not those that an interrupted run began with."""
        for name, now in (("class_names", self.record["class_names"]), ("images", self.images)):
            then = state["pictures"] if name not in state else state[name]  # as version 0.1.0 called them at first
            if then != now:
                change = f"{name.replace('_', ' ')}: {_short(then)} then, {_short(now)} now"
                raise ValueError(
                    f"the run in '{self.folder}' began with other images ({change}); bring those back, or train into "
                    "another folder (from these weights: --initial-checkpoint)"
                )
        if (
            streamed
            and state["done"]
            and state["processes"] != distributed.world_size()
            and distributed.is_main_process()
        ):
            warnings.warn(
                f"the stream is now dealt out to {distributed.world_size()} processes, not to {state['processes']} as before: "
                "until the epoch ends, some images come a second time and some not at all", stacklevel=2,
            )  # fmt: skip


def is_finished(config: TrainConfig) -> bool:
    """Whether the folder holds this very run, trained to its end; ValueError where it holds another one."""
    folder = Path(config.out)
    if not (folder / CHECKPOINT).exists():
        return False
    record = read_record(folder)
    refuse_other_run(
        folder, {"retrofit": record.get("retrofit"), **record["training"]}, config
    )  # once beside, now inside
    return bool(record["epoch"] == config.optim.epochs) and not has_state(folder)


def refuse_other_run(folder: Path, before: dict[str, Any], config: TrainConfig) -> None:
    """Raise ValueError where the folder holds a run that another configuration made."""
    plain = replace(config, retrofit=None)
    refuse_other(folder, "a run with another configuration", {**before, "retrofit": None}, plain, FREE)
    asked = config.retrofit
    known: Any = before.get("retrofit", asdict(asked) if asked else None)  # an older state does not say
    if (known is None) != (asked is None) or (asked and differences(known, asked)):
        raise ValueError(
            f"'{folder}' holds a run retrofitted in another way; choose another --out, or delete the folder"
        )


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a training; the last one stays beside it. An OSError (a full disk) changes nothing."""
    whole = io.BytesIO()  # torch.save into a file would hide why a write failed
    torch.save(state, whole)
    with replacing(folder / STATE, keep=folder / PREVIOUS_STATE) as file:
        file.write(whole.getbuffer())


def read_state(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest state that is whole, None where none was written.

    A broken file is passed over with a warning. Raises ValueError where there are files and none is whole.
    """
    broken: list[str] = []
    for path in (folder / STATE, folder / PREVIOUS_STATE):
        if not path.exists():
            continue
        try:
            state = _read(path, device)
        except BROKEN as error:
            broken.append(f"'{path}' ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
            continue
        if broken:
            warnings.warn(f"{broken[0]} is not whole; going on from '{path}', which was saved before it", stacklevel=2)
        return state
    if broken:
        raise ValueError(
            f"no state to go on from is whole: {', '.join(broken)}. Delete them to train from the start again; the "
            f"weights of the last whole epoch, if any, are in '{folder}' and can be given to --initial-checkpoint of another run"
        )
    return None


def remove_state(folder: Path) -> None:
    """Delete what only an unfinished training needs."""
    for name in (PREVIOUS_STATE, STATE):  # this order: an interruption leaves the newer one
        (folder / name).unlink(missing_ok=True)


def has_state(folder: Path) -> bool:
    """Whether an unfinished training left something to go on from."""
    return (folder / STATE).exists() or (folder / PREVIOUS_STATE).exists()


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # torch reads damaged tensors without a word; the archive has check sums
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"'{damaged}' in it is damaged")
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    state["training"] = json.loads(state["training"])
    return state


def _short(value: Any) -> str:
    words = str(value)
    return words if len(words) < 120 else f"{words[:100]}... ({len(value)})"
