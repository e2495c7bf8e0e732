"""What a training starts from: the model that is asked for, its first weights, and how its pictures are seen."""

from __future__ import annotations

import functools
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from cpvt import processes
from cpvt.checkpoint import (
    RECORD,
    as_subject,
    build_model,
    is_run,
    published_weights,
    read_record,
    starting_weights,
    transform_from_json,
)
from cpvt.config import (
    POOLS,
    ForeignConfig,
    ModelConfig,
    OptimConfig,
    Retrofit,
    RuntimeConfig,
    Size,
    TrainConfig,
    Watch,
    ignore_progress,
    refuse_other,
    sides,
)
from cpvt.data import DataSet, Transform, View
from cpvt.data.variations import Variation
from cpvt.models.shipped import shipped_names
from cpvt.models.zoo import model_config
from cpvt.retrofitting import parameter_groups
from cpvt.retrofitting import retrofit as retrofit_model
from cpvt.subjects import describe, is_foreign, open_subject
from cpvt.training.learning import Teacher, check_teacher
from cpvt.training.plan import Plan, plan_training
from cpvt.training.saving import has_state

PUBLISHED = "published"  # weights to start from: those that a library publishes
# may differ between a run and the command that goes on with it
FREE = ("out", "device", "workers", *(each.name for each in fields(RuntimeConfig)))


def plan_of(config: TrainConfig, data: DataSet, settings: ModelConfig | ForeignConfig) -> Plan:
    """Which pictures each step learns from; ValueError for a size below a patch."""
    patch_size = settings.patch_size if isinstance(settings, ModelConfig) else 1
    train_size, recipe = sides(settings.img_size), config.optim
    sizes = [sides(size) for size in config.train_sizes] or [train_size]
    small = [f"{height}x{width}" for height, width in sizes if min(height, width) < patch_size]
    if small:
        raise ValueError(
            f"--train-sizes must not be below a patch, {patch_size}x{patch_size} pixels in this model; got {', '.join(small)}"
        )
    return plan_training(
        _count_pictures(config, data), recipe.batch_size, recipe.aug_repeats, config.seed, train_size, sizes, patch_size
    )


def _count_pictures(config: TrainConfig, data: DataSet) -> int:
    """Pictures of an epoch; ValueError where a stream does not say, or for what a stream cannot do."""
    if data.train is not None:
        return len(data.train)
    assert data.train_stream is not None  # `check` refuses a set without either
    if config.optim.aug_repeats > 1 or config.train_sizes:
        raise ValueError(
            f"'{data.name}' is read as it comes, each picture once and at one size: leave --aug-repeats and --train-sizes out, "
            "or bring the pictures into folders or shards"
        )
    count = config.dataset.train_num_samples or data.train_stream.length
    if count is None:
        raise ValueError(f"'{data.name}' does not say how many pictures it has: say --train-num-samples")
    return count


def open_teacher(config: TrainConfig, data: DataSet, transform: Transform, device: str) -> Teacher | None:
    """The teacher that a configuration names, ready to answer; ValueError where it knows other classes.

    transform: how the student's pictures are read.
    """
    if config.teacher is None:
        return None
    subject = as_subject(config.teacher, config.teacher_checkpoint, device)
    check_teacher(subject, data.class_names)
    return Teacher(subject, transform)


def starting_model(
    config: TrainConfig,
    settings: ModelConfig | ForeignConfig,
    class_names: tuple[str, ...],
    watch: Watch = ignore_progress,
) -> nn.Module:
    """The model with the weights that its training starts from; `watch` is told what became of them."""

    def say(words: str) -> None:
        watch("start", 1, 1, words)

    start = start_of(config)
    if start is None:
        model = build_model(settings)
    elif start == PUBLISHED:
        assert isinstance(settings, ForeignConfig)  # `check` refuses others
        model = published_weights(settings, say)
    else:
        model = starting_weights(settings, start, class_names, say)
    if config.teacher is not None:
        ask_for_both_heads(model, config.model)
    return model


def start_of(config: TrainConfig) -> str | None:
    """What a training starts from; the published weights of one of our own models are those that come with the package."""
    return (
        config.model
        if config.initial_checkpoint == PUBLISHED and config.model in shipped_names()
        else config.initial_checkpoint
    )


def ask_for_both_heads(model: Any, name: str) -> None:
    """Have a distilled model give the logits of both its heads in training."""
    if not hasattr(model, "set_distilled_training"):
        raise ValueError(
            f"--teacher needs a model with a head for the teacher's answers; '{name}' has none: take one of ours, or timm's "
            "distilled ones, such as timm:deit_tiny_distilled_patch16_224"
        )
    model.set_distilled_training(True)


def retrofitted(
    model: nn.Module, settings: ModelConfig | ForeignConfig, wanted: Retrofit
) -> tuple[nn.Module, ForeignConfig]:
    """The model with PEGs put in, and the configuration that says so."""
    assert isinstance(settings, ForeignConfig)  # `check` refuses others
    model = retrofit_model(model, wanted.at, wanted.absolute, wanted.kernel_size)
    done: dict[str, Any] = model.retrofitted  # type: ignore[assignment]
    return model, replace(settings, retrofit=done)


def settings_of(config: TrainConfig, data: DataSet) -> ModelConfig | ForeignConfig:
    """The model that a configuration asks for, fit for the pictures; ValueError for a choice that does not exist."""
    return _foreign_config(config, data) if is_foreign(config.model) else _model_config(config, data)


def _model_config(config: TrainConfig, data: DataSet) -> ModelConfig:
    options: dict[str, Any] = {"num_classes": len(data.class_names), "in_chans": len(data.mean)}
    if config.optim.drop_path:
        options["drop_path_rate"] = config.optim.drop_path
    if config.teacher is not None:
        options["distilled"] = True
    if config.encoding is not None:
        options["encoding"] = config.encoding
    if config.pool is not None:
        if config.pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}; got '{config.pool}'")
        options["global_pool"] = POOLS[config.pool]
    if config.img_size is not None:
        options["img_size"] = config.img_size
    return model_config(config.model, **options)


def _foreign_config(config: TrainConfig, data: DataSet) -> ForeignConfig:
    """A model of another library; what its own constructor decides is refused here."""
    own = {"--encoding": config.encoding, "--pool": config.pool, "--drop-path": config.optim.drop_path}
    for option, value in own.items():
        if value:
            raise ValueError(
                f"{option} is for our own models; options of '{config.model}' go in brackets, as in timm:NAME(depth=4)"
            )
    classes, channels = len(data.class_names), len(data.mean)
    size = config.img_size or _described(config.model, classes, channels)[0]
    if size is None:
        raise ValueError(f"'{config.model}' does not say for which size of pictures it is: say --img-size")
    return ForeignConfig(config.model, classes, size, channels)


@functools.lru_cache(maxsize=16)
def _described(name: str, classes: int, channels: int) -> tuple[Size | None, Transform | None]:
    """Training size and normalisation that another library says of a model, which must be built for that."""
    subject = describe(name, classes, channels)
    return subject.train_size, subject.transform


def _transform_of(config: TrainConfig, data: DataSet, settings: ModelConfig | ForeignConfig) -> Transform:
    """How pictures are read, in training and test: as for the weights that training starts from, else as fits the data."""
    known, source = _reading(config, data) or Transform(data.mean, data.std, data.crop_ratio), config.dataset
    crop_ratio = known.crop_ratio if source.crop_pct is None else source.crop_pct
    longest_side = source.longest_side or 4 * max(sides(settings.img_size))
    return Transform(known.mean, known.std, crop_ratio, source.interpolation, longest_side)


def _reading(config: TrainConfig, data: DataSet) -> Transform | None:
    """How the pictures were read for the weights that training starts from; None where that is not known."""
    start = start_of(config)
    if start is not None and is_run(start) and not Path(start).is_file():
        return transform_from_json(read_record(start)["transform"])
    if start is None or not is_foreign(config.model):
        return None
    if start == PUBLISHED:
        return open_subject(config.model).transform
    return _described(config.model, len(data.class_names), len(data.mean))[1]


def training_view(config: TrainConfig, data: DataSet, settings: ModelConfig | ForeignConfig) -> View:
    """How training pictures are seen."""
    transform = _transform_of(config, data, settings)
    augment = config.optim.augment or data.augment
    kind = {"none": "canvas", "native": "native-mirrored"}.get(augment, augment)
    recipe = config.optim
    variation = Variation(recipe.aa, recipe.color_jitter, recipe.reprob)
    view = View(transform, kind, sides(settings.img_size), recipe.crop_scale, variation)
    if view.stacks or transform.longest_side is None:
        return view
    return view.at((transform.longest_side, transform.longest_side))


def create_optimizer(
    model: nn.Module, recipe: OptimConfig, retrofit: Retrofit | None, fused: bool
) -> torch.optim.Optimizer:
    """timm's optimizer; of a retrofitted model on the parameters that are to learn, its PEGs at a rate of their own."""
    learns: Any = model
    if retrofit is not None:
        learns = parameter_groups(model, retrofit.train_only, recipe.lr, recipe.weight_decay, retrofit.peg_lr_scale)
    options: dict[str, Any] = {"fused": fused} if recipe.opt in ("adam", "adamw") else {}
    if recipe.layer_decay is not None:
        options["layer_decay"] = recipe.layer_decay
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        learns, recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, **options
    )
    return optimizer


def is_finished(config: TrainConfig, retrofit: Retrofit | None = None) -> bool:
    """Whether the folder holds this very run, trained to its end; ValueError where it holds another one."""
    folder = Path(config.out)
    if not (folder / RECORD).exists():
        return False
    record = read_record(folder)
    refuse_other_run(folder, record["training"], config)
    if record.get("retrofit") != (None if retrofit is None else plain(retrofit)):
        raise ValueError(
            f"'{folder}' holds a run retrofitted in another way; choose another --out, or delete the folder"
        )
    return bool(record["epoch"] == config.optim.epochs) and not has_state(folder)


def plain(retrofit: Retrofit) -> dict[str, Any]:
    """As JSON gives it back."""
    return {**asdict(retrofit), "at": list(retrofit.at)}


def refuse_other_run(folder: Path, before: dict[str, Any], config: TrainConfig) -> None:
    """Raise ValueError where the folder holds a run that another configuration made."""
    refuse_other(folder, "a run with another configuration", before, config, FREE)


def refuse_other_pictures(folder: Path, state: dict[str, Any], data: DataSet, plan: Plan) -> None:
    """Raise ValueError where the pictures are not those that an interrupted run began with."""
    for name, now in (("class_names", list(data.class_names)), ("pictures", plan.pictures)):
        if state[name] != now:
            raise ValueError(
                f"the run in '{folder}' began with other pictures ({name.replace('_', ' ')}: {_short(state[name])} then, "
                f"{_short(now)} now); bring those back, or train into another folder (from these weights: --initial-checkpoint)"
            )
    if data.train is None and state["done"] and state["processes"] != processes.count() and processes.is_first():
        warnings.warn(
            f"the stream is now dealt out to {processes.count()} processes, not to {state['processes']} as before: until the "
            "epoch ends, some pictures come a second time and some not at all", stacklevel=2,
        )  # fmt: skip


def _short(value: Any) -> str:
    words = str(value)
    return words if len(words) < 120 else f"{words[:100]}... ({len(value)})"
