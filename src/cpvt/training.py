"""Training one model on one machine, from which it can be interrupted and gone on with at any epoch."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from cpvt.checkpoint import (
    RECORD,
    WEIGHTS,
    build_model,
    pick_device,
    provenance,
    read_record,
    save_checkpoint,
    transform_from_json,
)
from cpvt.config import (
    POOLS,
    ForeignConfig,
    ModelConfig,
    Recipe,
    Retrofit,
    TrainConfig,
    Watch,
    ignore_progress,
    refuse_other,
    sides,
)
from cpvt.data import VIEWS, DataSet, Transform, View, load_batches, open_data
from cpvt.models import VisionTransformer
from cpvt.models.zoo import model_config
from cpvt.results import replacing
from cpvt.retrofitting import fade_share, parameter_groups, set_absolute_share
from cpvt.retrofitting import retrofit as retrofit_model
from cpvt.subjects import describe, is_foreign, logits_of, open_subject
from cpvt.subjects.weights import load_weights, load_weights_file

STATE, HISTORY = "training.pt", "history.jsonl"
PUBLISHED = "published"  # weights to start from: those that a library publishes
FREE = ("out", "device", "loader_workers")  # may differ between a run and the command that goes on with it


class DivergedError(FloatingPointError):
    """The loss is no longer a number; the message says when, and what is left."""


def train(config: TrainConfig, watch: Watch = ignore_progress, retrofit: Retrofit | None = None) -> Path:
    """Train what `config` says and return the folder of the run, which `cpvt.load` reads.

    retrofit: PEGs to put into a model of another library before it is trained on (see `cpvt.retrofit`).

    The same configuration goes on where an interrupted run stopped (after its last whole epoch) and does nothing
    where it had finished. Same seed, machine and thread count give the same weights to the bit on the CPU.
    Raises ValueError where the folder holds another configuration, DivergedError where the loss is not a number.
    """
    folder = Path(config.out)
    if is_finished(config, retrofit):
        return folder
    data = open_data(config.source.data, config.source.data_root)
    device = pick_device(config.device)
    settings = check(config, data)
    torch.manual_seed(config.seed)
    model = starting_model(config, settings)
    if retrofit is not None:
        model, settings = _retrofitted(model, settings, retrofit)
    run = _Run(config, settings, model.to(device), data, device, retrofit)
    run.resume()
    if run.epoch:
        run.save()  # an interruption may have fallen between the files of the last save
    for epoch in range(run.epoch, config.recipe.epochs):
        run.train_epoch(epoch, watch)
        run.save()
    (folder / STATE).unlink(missing_ok=True)
    return folder


def check(config: TrainConfig, data: DataSet) -> ModelConfig | ForeignConfig:
    """The model that a configuration asks for; ValueError for anything in it that does not exist or fit, at no cost."""
    if data.train is None:
        raise ValueError(f"'{data.name}' has no train/ to train on")
    if config.start is not None and config.start != PUBLISHED and not Path(config.start).exists():
        raise ValueError(f"there are no weights to start from at '{config.start}': name a run's folder or a file")
    if config.start == PUBLISHED and not is_foreign(config.model):
        raise ValueError(f"no weights of '{config.model}' are published; start from a run's folder or a file")
    if is_foreign(config.model):
        settings: ModelConfig | ForeignConfig = _foreign_config(config, data)
    else:
        settings = _model_config(config, data)
        with torch.device("meta"):  # builds without memory or random numbers
            VisionTransformer(settings)
    _view(config, data, settings)
    return settings


def starting_model(config: TrainConfig, settings: ModelConfig | ForeignConfig) -> nn.Module:
    """The model with the weights that its training starts from."""
    model = build_model(settings)
    if config.start == PUBLISHED:
        published: Any = open_subject(config.model).model
        load_weights(model, published.state_dict(), f"published for {config.model}")
    elif config.start is not None:
        start = Path(config.start)
        load_weights_file(model, start / WEIGHTS if start.is_dir() else start)
    return model


def _retrofitted(
    model: nn.Module, settings: ModelConfig | ForeignConfig, wanted: Retrofit
) -> tuple[nn.Module, ForeignConfig]:
    if not isinstance(settings, ForeignConfig):
        raise ValueError("our own models take PEG by name: train with --encoding learned+peg (and --start)")
    model = retrofit_model(model, wanted.at, wanted.absolute, wanted.kernel_size)
    done: dict[str, Any] = model.retrofitted  # type: ignore[assignment]
    return model, replace(settings, retrofit=done)


def is_finished(config: TrainConfig, retrofit: Retrofit | None = None) -> bool:
    """Whether the folder holds this very run, trained to its end; ValueError where it holds another one."""
    folder = Path(config.out)
    if not (folder / RECORD).exists():
        return False
    record = read_record(folder)
    _refuse_other(folder, record["training"], config)
    if record.get("retrofit") != (None if retrofit is None else _plain(retrofit)):
        raise ValueError(
            f"'{folder}' holds a run retrofitted in another way; choose another --out, or delete the folder"
        )
    return bool(record["epoch"] == config.recipe.epochs) and not (folder / STATE).exists()


def _plain(retrofit: Retrofit) -> dict[str, Any]:
    """As JSON gives it back."""
    return {**asdict(retrofit), "at": list(retrofit.at)}


def _refuse_other(folder: Path, before: dict[str, Any], config: TrainConfig) -> None:
    refuse_other(folder, "a run with another configuration", before, config, FREE)


def _model_config(config: TrainConfig, data: DataSet) -> ModelConfig:
    options: dict[str, Any] = {
        "num_classes": len(data.class_names),
        "in_chans": len(data.mean),
        "drop_path_rate": config.recipe.drop_path_rate,
    }
    if config.encoding is not None:
        options["encoding"] = config.encoding
    if config.pool is not None:
        if config.pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}; got '{config.pool}'")
        options["global_pool"] = POOLS[config.pool]
    if config.train_size is not None:
        options["img_size"] = config.train_size
    return model_config(config.model, **options)


def _foreign_config(config: TrainConfig, data: DataSet) -> ForeignConfig:
    """A model of another library; what its own constructor decides is refused here."""
    own = {"--encoding": config.encoding, "--pool": config.pool, "--drop-path-rate": config.recipe.drop_path_rate}
    for option, value in own.items():
        if value:
            raise ValueError(
                f"{option} is for our own models; options of '{config.model}' go in brackets, as in timm:NAME(depth=4)"
            )
    classes, channels = len(data.class_names), len(data.mean)
    size = config.train_size or describe(config.model, classes, channels).train_size
    if size is None:
        raise ValueError(f"'{config.model}' does not say for which size of pictures it is: say --train-size")
    return ForeignConfig(config.model, classes, size, channels)


def transform_of(config: TrainConfig, data: DataSet, settings: ModelConfig | ForeignConfig) -> Transform:
    """How pictures are read, in training and test: as for the weights that training starts from, else as fits the data."""
    known, source = _reading(config) or Transform(data.mean, data.std, data.crop_ratio), config.source
    crop_ratio = known.crop_ratio if source.crop_ratio is None else source.crop_ratio
    longest_side = source.longest_side or 4 * max(sides(settings.img_size))
    return Transform(known.mean, known.std, crop_ratio, source.interpolation, longest_side)


def _reading(config: TrainConfig) -> Transform | None:
    """How the pictures were read for the weights that training starts from; None where that is not known."""
    if config.start is not None and Path(config.start).is_dir():
        return transform_from_json(read_record(Path(config.start))["transform"])
    if config.start is None or not is_foreign(config.model):
        return None
    return (open_subject(config.model) if config.start == PUBLISHED else describe(config.model)).transform


def _view(config: TrainConfig, data: DataSet, settings: ModelConfig | ForeignConfig) -> View:
    """How training pictures are seen."""
    transform = transform_of(config, data, settings)
    augment = config.recipe.augment or data.augment
    kind = "canvas" if augment == "none" else augment
    if kind == "native":
        raise ValueError(
            f"a batch to train on has one size, so augment must be one of {', '.join(VIEWS)}, none; got 'native'"
        )
    return View(transform, kind, sides(settings.img_size), config.recipe.crop_scale)


def _optimizer(model: nn.Module, recipe: Recipe, retrofit: Retrofit | None, fused: bool) -> torch.optim.Optimizer:
    """AdamW; of a retrofitted model on the parameters that are to learn, its PEGs at a rate of their own."""
    learns: Any = model
    if retrofit is not None:
        learns = parameter_groups(model, retrofit.train_only, recipe.lr, recipe.weight_decay, retrofit.peg_lr_scale)
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        learns, "adamw", lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused
    )
    return optimizer


class _Run:
    """The moving parts of one training."""

    def __init__(
        self,
        config: TrainConfig,
        settings: ModelConfig | ForeignConfig,
        model: nn.Module,
        data: DataSet,
        device: torch.device,
        retrofit: Retrofit | None = None,
    ) -> None:
        assert data.train is not None
        self.config, self.model, self.split, self.device = config, model, data.train, device
        self.folder, self.epoch, self.history = Path(config.out), 0, list[dict[str, Any]]()
        recipe = config.recipe
        self.steps_per_epoch = math.ceil(len(self.split) / recipe.batch_size)
        self.retrofit = retrofit
        self.optimizer = _optimizer(model, recipe, retrofit, fused=device.type in ("cpu", "cuda"))
        steps = self.steps_per_epoch * recipe.epochs
        self.schedule = CosineLRScheduler(
            self.optimizer, t_initial=steps, lr_min=recipe.min_lr, warmup_t=int(recipe.warmup_share * steps),
            warmup_lr_init=recipe.min_lr, t_in_epochs=False,
        )  # fmt: skip
        self.view = _view(config, data, settings)
        self.record = {
            "model": asdict(settings),
            "transform": asdict(self.view.transform),
            "class_names": list(data.class_names),
            "at": list(model.encoding.at if isinstance(model, VisionTransformer) else retrofit.at if retrofit else ()),
            "training": asdict(config),
            "retrofit": None if retrofit is None else _plain(retrofit),
            "provenance": provenance(),
        }

    def _fade(self, step: int) -> None:
        """Set how much of a table that fades is left."""
        if self.retrofit is not None and self.retrofit.absolute == "fade":
            steps = self.steps_per_epoch * self.config.recipe.epochs
            set_absolute_share(self.model, fade_share(step + 1, steps, end=self.retrofit.fade_end))

    def train_epoch(self, epoch: int, watch: Watch) -> None:
        """One pass over the pictures. All that is random in it follows from (seed, epoch)."""
        recipe, seed = self.config.recipe, self.config.seed
        torch.manual_seed(int(np.random.default_rng((seed, epoch)).integers(2**31)))  # for drop path
        order = np.random.default_rng((seed, epoch)).permutation(len(self.split))
        batches = load_batches(
            self.split, self.view, recipe.batch_size, order=order.tolist(), seed=seed, epoch=epoch,
            on_bad_picture=self.config.source.on_bad_picture, workers=self.config.source.loader_workers,
        )  # fmt: skip
        self.model.train()
        total_loss, correct, seen, skipped, shrunk, start = 0.0, 0, 0, 0, 0, time.perf_counter()
        for step, batch in enumerate(batches, start=epoch * self.steps_per_epoch):
            skipped, shrunk = skipped + len(batch.skipped), shrunk + batch.shrunk
            if len(batch.labels) == 0:
                continue
            self.schedule.step_update(step)
            self._fade(step)
            labels = batch.labels.to(self.device)
            logits = logits_of(self.model(batch.pictures_on(self.device)))
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            value = loss.item()
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value} at step {step + 1}", epoch + 1)
            self.optimizer.step()
            total_loss += value * len(labels)
            correct += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
            rate = seen / (time.perf_counter() - start)
            words = f"loss {total_loss / seen:.3f}  accuracy {correct / seen:.1%}  {rate:.0f} pictures/s"
            watch("train", step + 1, self.steps_per_epoch * recipe.epochs, words)
        if not seen:
            raise ValueError(f"none of the {len(self.split)} training pictures decodes")
        seconds = time.perf_counter() - start
        self.history.append(
            {"epoch": epoch + 1, "loss": total_loss / seen, "accuracy": correct / seen, "pictures": seen,
             "skipped": skipped, "shrunk": shrunk, "seconds": round(seconds, 3)}
        )  # fmt: skip
        self.epoch = epoch + 1

    def _diverged(self, what: str, epoch: int) -> DivergedError:
        kept = f"epoch {epoch - 1} is kept in '{self.folder}'" if epoch > 1 else "no epoch was finished"
        return DivergedError(
            f"{what} (epoch {epoch}); {kept}. "
            f"Lower the learning rate (now {self.config.recipe.lr}) and train again into another folder"
        )

    def save(self) -> None:
        """Write what goes on (training.pt), then what is used (weights, record, history), each file whole."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise self._diverged("a weight is no longer a number", self.epoch)
        state = {
            "training": json.dumps(self.record["training"]),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }
        with replacing(self.folder / STATE) as file:
            torch.save(state, file)
        save_checkpoint(self.folder, self.model, {**self.record, "epoch": self.epoch})
        with replacing(self.folder / HISTORY) as file:
            file.write("".join(json.dumps(line) + "\n" for line in self.history).encode())

    def resume(self) -> None:
        """Take up the state of an interrupted run, where there is one."""
        path = self.folder / STATE
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        _refuse_other(self.folder, json.loads(state["training"]), self.config)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]
        self.epoch = len(self.history)
