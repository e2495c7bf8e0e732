"""Interrupted runs: the state is written atomically, verified when read, and the previous one is kept as well."""

from __future__ import annotations

import io
import json
import os
import pickle
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
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
from cpvt.models import fastest
from cpvt.results.checkpoints import read_record, save_checkpoint
from cpvt.results.folders import CHECKPOINT, HISTORY, PREVIOUS_STATE, STATE, WEIGHTS, has_state
from cpvt.runtime import distributed
from cpvt.runtime.files import read_json, remove_leftovers, replacing, write_lines
from cpvt.training.metrics import Metrics

try:
    import fcntl
except ImportError:  # on Windows, where folders are not locked
    fcntl = None  # type: ignore[assignment]

BROKEN = (  # raised by reading a damaged file
    OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError,
    zipfile.BadZipFile, zlib.error, pickle.UnpicklingError,
)  # fmt: skip
GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)  # full, in the main process
FULL = StateDictOptions(full_state_dict=True)
# options that may differ between a run and the command that resumes it
PATIENCE = 20  # half seconds that a training waits for another to leave its folder
FREE = ("out", "device", "workers", "on_bad_image", "max_image_pixels", *(each.name for each in fields(RuntimeConfig)))


class DivergedError(FloatingPointError):
    """The loss is no longer finite; the message gives the step, and what is saved."""


class Parts(NamedTuple):
    """The parts of a training that have state."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None  # moving average of the weights
    scaler: Any  # of the loss, under fp16


@dataclass
class Progress:
    """The progress of a training."""

    epoch: int = 0  # complete epochs
    step: int = 0  # steps done in the current epoch
    before: int = 0  # steps of the complete epochs
    seconds: float = 0.0  # in this epoch
    metrics: Metrics = field(default_factory=Metrics)  # of this epoch and all processes
    history: list[dict[str, Any]] = field(default_factory=list)  # an entry for each complete epoch

    @property
    def total(self) -> int:
        """Steps done in total."""
        return self.before + self.step

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.before, self.epoch, self.step = self.total, self.epoch + 1, 0
        self.seconds, self.metrics = 0.0, Metrics()


class Checkpointer:
    """Saves a training in its folder: the state to resume from, and weights, record and history."""

    def __init__(self, config: TrainConfig, parts: Parts, record: dict[str, Any], images: int) -> None:
        """record: content of checkpoint.json. images: size of the data set, which must not change."""
        self.config, self.parts, self.record, self.images = config, parts, record, images
        self.folder, self.last_save = Path(config.out), time.monotonic()
        self.saved: tuple[int, int] | None = None  # complete epochs and further steps of the state on disk
        self.best: dict[str, Any] | None = None  # weights of the best epoch, in the main process under keep_best

    @property
    def is_due(self) -> bool:
        """Whether `save_minutes` have passed since the last save."""
        return time.monotonic() - self.last_save > 60 * self.config.runtime.save_minutes

    def save(self, progress: Progress) -> None:
        """Write the state to resume from, then weights, record and history, each file atomically."""
        weights = self.save_state(progress)
        self._write(lambda: save_checkpoint(self.folder, weights, {**self.record, "epoch": progress.epoch}))
        self.write_history(progress)

    def keep_best(self, progress: Progress) -> None:
        """Have the folder hold the epoch that is best on the validation part (the first of equals), if any is tested.

        To be called after `save`, and after the test of the epoch where one is due. The history marks the epoch, the
        record says why it is kept, and the state holds its weights, so that an interrupted run still has them.
        """
        tested = [line for line in progress.history if "validation_accuracy" in line]
        if not tested:
            return
        best = max(tested, key=lambda line: float(line["validation_accuracy"]))
        for line in progress.history:
            line.pop("kept", None)
        best["kept"] = True
        kept = {name: best[name] for name in ("epoch", "validation_accuracy")} | {"why": "best in validation"}

        def write() -> None:
            if best is progress.history[-1] or self.best is None:
                self.best = safetensors.torch.load((self.folder / WEIGHTS).read_bytes())
            save_checkpoint(self.folder, self.best, {**self.record, "epoch": progress.epoch, "kept": kept})

        self._write(write)
        self.write_history(progress)

    def write_history(self, progress: Progress) -> None:
        """Write the history of epochs."""
        self._write(lambda: write_lines(self.folder / HISTORY, progress.history))

    def save_state(self, progress: Progress) -> dict[str, Any]:
        """Write the state to resume from this step; returns the weights to use, averaged where configured.

        It has no state of random generators, as the randomness of a step follows from seed, step and process.
        """
        module, optimizer, average, scaler = self.parts
        _share_state(optimizer)
        model, state_of_optimizer = get_state_dict(module, optimizer, options=GATHERED)
        averaged = None if average is None else get_model_state_dict(average, options=GATHERED)
        weights: list[Any] = [*model.values(), *(averaged or {}).values()]  # in the main process
        finite = all(bool(each.isfinite().all()) for each in weights if each.is_floating_point())
        if distributed.all_reduce_max(float(not finite)):  # in every process, so that none waits for another
            raise self.diverged("a weight is no longer a number", progress)
        state = {
            "training": json.dumps(self.record["training"]),
            "model": model, "optimizer": state_of_optimizer, "average": averaged,
            "scaler": None if scaler is None else scaler.state_dict(),
            "history": progress.history, "epoch": progress.epoch, "done": progress.step, "before": progress.before,
            "metrics": vars(progress.metrics), "seconds": progress.seconds, "processes": distributed.world_size(),
            "class_names": self.record["class_names"], "images": self.images, "best": self.best,
            "fastest": json.dumps(fastest.choices()),
        }  # fmt: skip
        self._write(lambda: write_state(self.folder, state))
        self.last_save, self.saved = time.monotonic(), (progress.epoch, progress.step)
        return model if averaged is None else averaged

    def restore(self, streamed: bool) -> Progress:
        """Load the state of an interrupted run, where there is one, and return its progress.

        Raises ValueError where configuration or images differ.
        """
        if distributed.is_main_process():
            for name in (STATE, WEIGHTS, CHECKPOINT, HISTORY):
                remove_leftovers(self.folder / name)
        state = read_state(self.folder)
        if state is None:
            self._refuse_lost_state()
            return Progress()
        refuse_other_run(self.folder, state["training"], self.config)
        self._refuse_other_images(state, streamed)
        module, optimizer, average, scaler = self.parts
        set_state_dict(
            module, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=FULL
        )
        if average is not None:
            set_model_state_dict(average, state["average"], options=FULL)
        if state["scaler"] is not None and scaler is not None:
            scaler.load_state_dict(state["scaler"])
        metrics = Metrics(**state["metrics"]) if "metrics" in state else Metrics(*state["tally"][:5])  # older states
        self.saved, self.best = (state["epoch"], state["done"]), state.get("best")
        fastest.adopt(json.loads(state.get("fastest", "[]")))  # the same ways give the same bits
        distributed.barrier()  # before the main process writes another state
        return Progress(*self.saved, state["before"], state["seconds"], metrics, state["history"])

    def _refuse_lost_state(self) -> None:
        """Raise ValueError where a run has begun and what it resumes from is gone."""
        if not (self.folder / CHECKPOINT).exists():
            return
        epoch = read_json(self.folder / CHECKPOINT).get("epoch")
        if isinstance(epoch, int) and epoch < self.config.optim.epochs:
            raise ValueError(
                f"'{self.folder}' holds {epoch} of {self.config.optim.epochs} epochs, but the state to resume from "
                f"({STATE}) is gone: put it back, train elsewhere with --initial-checkpoint '{self.folder}', or delete "
                "the folder"
            )

    def describe_saved(self) -> str:
        """A message about the state on disk."""
        if self.saved is None:
            return "no epoch was completed"
        epoch, step = self.saved
        return f"{f'step {step} of epoch {epoch + 1}' if step else f'epoch {epoch}'} is saved in '{self.folder}'"

    def diverged(self, what: str, progress: Progress) -> DivergedError:
        """The error for a loss or weight that is no longer finite."""
        epoch = progress.epoch + 1 if progress.step else progress.epoch
        return DivergedError(
            f"{what} at step {progress.total} (epoch {epoch}); {self.describe_saved()}. "
            f"Lower the learning rate (now {self.config.optim.lr}) and train again into another folder"
        )

    def _write(self, write: Callable[[], None]) -> None:
        """Have the main process write; its error, such as that of a full disk, ends every process."""
        failure: Exception | None = None
        if distributed.is_main_process():
            try:
                with self._saving():
                    write()
            except Exception as error:
                failure = error
        if distributed.all_reduce_max(float(failure is not None)):
            raise failure or OSError("saving failed in the main process, which says why")

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Add to an OSError what is saved and what to do."""
        try:
            yield
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            raise OSError(
                error.errno, f"saving failed ({why}); {self.describe_saved()}. "
                "Free some space (or fix the disk), then run the same command again",
            ) from error  # fmt: skip

    def _refuse_other_images(self, state: dict[str, Any], streamed: bool) -> None:
        """Raise ValueError where the images differ from those of the interrupted run."""
        for name, now in (("class_names", self.record["class_names"]), ("images", self.images)):
            then = state["pictures"] if name not in state else state[name]  # the key of early 0.1.0
            if then != now:
                change = f"{name.replace('_', ' ')}: {_short(then)} before, {_short(now)} now"
                raise ValueError(
                    f"the run in '{self.folder}' began with other images ({change}); restore those, or train in "
                    "another folder (from these weights: --initial-checkpoint)"
                )
        before, now = state["processes"], distributed.world_size()
        if streamed and state["done"] and before != now and distributed.is_main_process():
            warnings.warn(
                f"{now} processes now share the stream, {before} did before: until the end of this epoch "
                "some images are repeated and some are missing", stacklevel=2,
            )  # fmt: skip


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a folder until the end; ValueError in every process where another one holds it.

    Where the disk knows no locks, nothing is kept out.
    """
    lock, taken, existed = None, False, folder.exists()
    if distributed.is_main_process() and fcntl is not None:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        taken = _is_taken(lock)
    try:
        if distributed.all_reduce_max(float(taken)):
            raise ValueError(
                f"another process trains in '{folder}' now: wait until it ends, and run the same command to see or "
                "resume it; or choose another --out"
            )
        yield
    finally:
        if lock is not None:
            os.close(lock)
            if not existed:
                with suppress(OSError):  # it holds something now
                    folder.rmdir()


def _is_taken(lock: int) -> bool:
    """Whether another process holds a folder, also some seconds from now: what a killed one left ends by itself."""
    for pause in (*[0.5] * PATIENCE, 0):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
        except OSError:
            return False
        else:
            return False
    return True


def is_finished(config: TrainConfig) -> bool:
    """Whether the folder holds this run, finished; ValueError where it holds another one."""
    folder = Path(config.out)
    if not (folder / CHECKPOINT).exists():
        return False
    record = read_record(folder)
    refuse_other_run(folder, {"retrofit": record.get("retrofit"), **record["training"]}, config)  # early 0.1.0
    return bool(record["epoch"] == config.optim.epochs) and not has_state(folder)


def refuse_other_run(folder: Path, before: dict[str, Any], config: TrainConfig) -> None:
    """Raise ValueError where the folder holds a run with another configuration."""
    plain, advice = replace(config, retrofit=None), "choose another --out"
    if (folder / CHECKPOINT).exists():
        advice = f"choose another --out; to train on from its weights, also pass --initial-checkpoint {folder}"
    refuse_other(folder, "a run with another configuration", {**before, "retrofit": None}, plain, FREE, advice)
    asked = config.retrofit
    known: Any = before.get("retrofit", asdict(asked) if asked else None)  # missing in older states
    if (known is None) != (asked is None) or (asked and differences(known, asked)):
        raise ValueError(f"'{folder}' holds a run with another retrofit; choose another --out")


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a state atomically and keep the previous one; an OSError (disk full) changes nothing."""
    buffer = io.BytesIO()  # torch.save into a file hides why a write failed
    torch.save(state, buffer)
    with replacing(folder / STATE, keep=folder / PREVIOUS_STATE) as file:
        file.write(buffer.getbuffer())


def read_state(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest intact state, None where none was written.

    A damaged file is skipped with a warning. Raises ValueError where all files are damaged.
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
            warnings.warn(f"{broken[0]} is damaged; resuming from '{path}', which was saved before it", stacklevel=2)
        return state
    if broken:
        raise ValueError(
            f"every saved state is damaged: {', '.join(broken)}. Delete them to train from the start. The weights of "
            f"the last complete epoch, if any, are in '{folder}'; --initial-checkpoint starts another run from them"
        )
    return None


def remove_state(folder: Path) -> None:
    """Delete the states, which only an unfinished training needs."""
    for name in (PREVIOUS_STATE, STATE):  # in this order, so that an interruption leaves the newer one
        (folder / name).unlink(missing_ok=True)


def _share_state(optimizer: Any) -> None:
    """Show torch the state of what timm's Lookahead wraps: where it sees none, it takes a step to make one."""
    if (wrapped := getattr(optimizer, "_base_optimizer", None)) is not None:
        optimizer.state = wrapped.state


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # torch does not verify the checksums
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"its entry '{damaged}' is damaged")
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    state["training"] = json.loads(state["training"])
    return state


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 120 else f"{text[:100]}... ({len(value)})"
