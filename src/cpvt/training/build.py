"""The parts of a training: model and first weights, preprocessing, sampler and optimizer."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from cpvt.adapters import describe, is_external, open_adapter
from cpvt.adapters.retrofit import parameter_groups, retrofit
from cpvt.adapters.trial import name_for_sizes
from cpvt.config import (
    POOL_NAMES,
    POOLS,
    ExternalConfig,
    ModelConfig,
    OptimConfig,
    Retrofit,
    Size,
    TrainConfig,
    sides,
    split_options,
)
from cpvt.data import DataSet, Transform
from cpvt.data.augmentation import Augmentation
from cpvt.data.protocols import AUGMENTS, Protocol, find_protocol
from cpvt.models import VisionTransformer
from cpvt.models.hub import check_hub_options
from cpvt.models.pretrained import shipped_names
from cpvt.models.sizes import model_config
from cpvt.results.checkpoints import (
    as_adapter,
    is_run,
    published_weights,
    read_record,
    starting_weights,
    transform_from_json,
)
from cpvt.results.checkpoints import build_model as build_fresh_model
from cpvt.results.folders import CHECKPOINT
from cpvt.results.provenance import provenance
from cpvt.runtime import distributed
from cpvt.training.loss import Teacher, check_teacher
from cpvt.training.sampler import BatchSampler, Sides, create_sampler

logger = logging.getLogger(__name__)
PUBLISHED = "published"  # start from the weights that a library publishes
DEFAULT_MODEL = "cpvt_micro"


class TrainingSetup(NamedTuple):
    """The model, preprocessing and sampler of a checked configuration and its data."""

    model: ModelConfig | ExternalConfig
    preprocessing: Protocol  # of training images
    sampler: BatchSampler
    views: tuple[Sides, ...]  # sizes at which a step shows its images, the largest first; none: as they were read
    name: str = ""  # of the training among several, for messages


def build_setup(config: TrainConfig, data: DataSet) -> TrainingSetup:
    """The model, preprocessing and sampler of a configuration; ValueError for an unknown choice."""
    model = _external_config(config, data) if is_external(config.model) else _model_config(config, data)
    views = _views(config)
    sampler = _build_sampler(config, data, model, views)
    return TrainingSetup(model, _training_protocol(config, data, model), sampler, views)


def _views(config: TrainConfig) -> tuple[Sides, ...]:
    """The sizes that a step shows of each image, the largest first; none where a step shows one size."""
    if config.optim.sizes_per_step == "one":
        return ()
    sizes = sorted(dict.fromkeys(map(sides, config.train_sizes)), key=lambda size: size[0] * size[1], reverse=True)
    if len(sizes) < 2:
        raise ValueError("--sizes-per-step all needs two --train-sizes or more, such as --train-sizes 64 96")
    for height, width in sizes[1:]:
        if height > sizes[0][0] or width > sizes[0][1]:
            raise ValueError(
                "--sizes-per-step all makes every view from the largest, so no side may exceed its sides: "
                f"{height}x{width} does not fit in {sizes[0][0]}x{sizes[0][1]}"
            )
    return tuple(sizes)


def _build_sampler(
    config: TrainConfig, data: DataSet, model: ModelConfig | ExternalConfig, views: Sequence[Sides]
) -> BatchSampler:
    """The images of each step; ValueError for a size below a patch."""
    patch_size = model.patch_size if isinstance(model, ModelConfig) else 1
    train_size, recipe = sides(model.img_size), config.optim
    sizes = [sides(size) for size in config.train_sizes] or [train_size]
    small = [f"{height}x{width}" for height, width in sizes if min(height, width) < patch_size]
    if small:
        raise ValueError(
            "training sizes (--img-size, --train-sizes) must not be below a patch, "
            f"{patch_size}x{patch_size} pixels in this model; got {', '.join(small)}"
        )
    images = _count_images(config, data)
    if views:  # read at the largest size, as many as at the training size
        return BatchSampler(
            images, recipe.batch_size, recipe.aug_repeats, config.seed, train_size, (views[0],), (recipe.batch_size,)
        )
    return create_sampler(images, recipe.batch_size, recipe.aug_repeats, config.seed, train_size, sizes, patch_size)


def _count_images(config: TrainConfig, data: DataSet) -> int:
    """Images in an epoch; ValueError for a stream of unknown length, or options that streams do not support."""
    if data.train is not None:
        return len(data.train)
    assert data.train_stream is not None  # `check` rejects a set without either
    if config.optim.aug_repeats > 1 or config.train_sizes:
        raise ValueError(
            f"'{data.name}' is streamed, each image once and at one size: leave out --aug-repeats and "
            "--train-sizes, or put the images into folders or shards"
        )
    count = config.dataset.train_num_samples or data.train_stream.length
    if count is None:
        raise ValueError(f"'{data.name}' does not say how many images it has: pass --train-num-samples")
    return count


def open_teacher(config: TrainConfig, data: DataSet, transform: Transform, device: str) -> Teacher | None:
    """The configured teacher; ValueError where its classes differ. transform: of the student's images."""
    if config.teacher is None:
        return None
    adapter = as_adapter(config.teacher, config.teacher_checkpoint, device)
    check_teacher(adapter, data.class_names)
    return Teacher(adapter, transform)


def build_model(
    config: TrainConfig, wanted: ModelConfig | ExternalConfig, data: DataSet
) -> tuple[nn.Module, ModelConfig | ExternalConfig]:
    """The model with its first weights, retrofitted where asked, and its configuration.

    How loaded weights were adapted is logged. The configuration may differ from `wanted`: some encodings note another
    training size.
    """

    def log(message: str) -> None:
        if distributed.is_main_process():
            logger.info(message)

    start = start_of(config)
    if start is None:
        model = build_fresh_model(wanted)
    elif start == PUBLISHED:
        assert isinstance(wanted, ExternalConfig)  # `check` rejects others
        model = published_weights(wanted, log)
    else:
        model = starting_weights(wanted, start, data.class_names, log)
    if config.teacher is not None:
        _enable_both_heads(model, config.model)
    if isinstance(model, VisionTransformer):
        return model, model.config
    assert isinstance(wanted, ExternalConfig)  # the models of other libraries
    wished = config.retrofit
    if wished is not None:
        scale = config.scale or _default_scale(config, data) or "fit"
        model = retrofit(model, wished.at, wished.absolute, wished.kernel_size, scale=scale)
    return model, replace(wanted, retrofit=getattr(model, "retrofitted", None))


def make_record(config: TrainConfig, setup: TrainingSetup, model: nn.Module, data: DataSet) -> dict[str, Any]:
    """The content of checkpoint.json, without the epoch."""
    retrofitted = getattr(model, "retrofitted", {"at": ()})
    at = model.encoding.at if isinstance(model, VisionTransformer) else retrofitted["at"]
    return {
        "model": asdict(setup.model),
        "transform": asdict(replace(setup.preprocessing.transform, size=setup.model.img_size)),
        "class_names": list(data.class_names),
        "at": list(at),
        "passed_data": data.name if data.name != config.dataset.name else None,  # a DataSet, which no name opens
        "training": asdict(config),
        "resolved": resolved_options(config, setup, data),
        "provenance": {**provenance(), "processes": distributed.world_size()},
        "started_from": _earlier_training(config),
    }


def _earlier_training(config: TrainConfig) -> dict[str, Any] | None:
    """How the run was trained that a training starts from, back to its first training; None for other weights."""
    start = _starting_run(config)
    record = read_record(start) if start is not None else {}
    kept = ("model", "training", "epoch", "provenance", "started_from")
    return {key: record[key] for key in kept if key in record} if "training" in record else None


def augment_of(config: TrainConfig, data: DataSet) -> str:
    """The augmentation of a training: its own, or the data set's."""
    return config.optim.augment or data.augment


def resolved_options(config: TrainConfig, setup: TrainingSetup, data: DataSet) -> dict[str, Any]:
    """The values of options of the recipe whose default follows from the data, for records and pages."""
    protocol = setup.preprocessing
    return {"augment": augment_of(config, data), "hflip": protocol.hflip if protocol.mirrors else 0.0}


def start_of(config: TrainConfig) -> str | None:
    """What a training starts from; for our own models, 'published' means the weights in the package."""
    shipped = config.initial_checkpoint == PUBLISHED and config.model in shipped_names()
    return config.model if shipped else config.initial_checkpoint


def _starting_run(config: TrainConfig) -> str | None:
    """The run, or the model that comes with weights, that a training starts from; None for a file and for none."""
    start = start_of(config)
    return start if start is not None and is_run(start) and not Path(start).is_file() else None


def with_model(config: TrainConfig) -> TrainConfig:
    """A configuration that names its model: what it does not say is as in the run that it starts from."""
    if config.model:
        return config
    start = _starting_run(config)
    record = read_record(start) if start is not None else {}
    made = record.get("model", {})
    trained = made.get("img_size")
    size = trained if config.img_size is None and isinstance(trained, int) else config.img_size
    if "name" in made:
        return replace(config, model=made["name"], img_size=size)
    if "training" not in record:  # no run, or a model of timm's config.json, which has no name of ours
        return replace(config, model=DEFAULT_MODEL)
    check_hub_options(record["training"]["model"], str(start))
    return replace(
        config, model=record["training"]["model"], encoding=config.encoding or made["encoding"],
        pool=config.pool or POOL_NAMES[made["global_pool"]], img_size=size,
    )  # fmt: skip


def _enable_both_heads(model: Any, name: str) -> None:
    """Let a distilled model return the logits of both heads in training."""
    if not hasattr(model, "set_distilled_training"):
        raise ValueError(
            f"--teacher needs a model with a distillation head; '{name}' has none: use one of ours, or a "
            "distilled one of timm, such as timm:deit_tiny_distilled_patch16_224"
        )
    model.set_distilled_training(True)


def _model_config(config: TrainConfig, data: DataSet) -> ModelConfig:
    """The configuration of one of our own models."""
    if config.pool is not None and config.pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}; got '{config.pool}'")
    options = {
        "num_classes": len(data.class_names), "in_chans": len(data.mean), "img_size": config.img_size,
        "encoding": config.encoding, "global_pool": POOLS.get(config.pool or ""),
        "drop_path_rate": config.optim.drop_path or None, "distilled": config.teacher is not None or None,
        "scale": config.scale or _default_scale(config, data),
    }  # fmt: skip
    return model_config(config.model, **{name: value for name, value in options.items() if value is not None})


def _default_scale(config: TrainConfig, data: DataSet) -> str | None:
    """The object scale that a model is given where nobody says: None for its own default.

    Weights that were trained without scale stay so. Crops at their own scale keep the pixels of objects, unless
    a step shows them at several sizes, which are made from the largest.
    """
    if "scale" in split_options(config.model)[1]:
        return None
    if (Path(config.out) / CHECKPOINT).is_file():  # a run that resumes keeps its own
        record = read_record(config.out)["model"]
        kept = (record.get("retrofit") or {}) if "name" in record else record
        return kept.get("scale") if isinstance(kept.get("scale"), str) else None
    start, augment = _starting_run(config), augment_of(config, data)
    if start is not None and read_record(start)["model"].get("scale") == "paper":
        return "paper"
    if config.optim.sizes_per_step == "all":
        return None
    return "pixels" if find_protocol(AUGMENTS.get(augment, augment)).scale_rule == "pixels" else None


def _external_config(config: TrainConfig, data: DataSet) -> ExternalConfig:
    """The configuration of an external model; ValueError for options that belong to its own constructor."""
    own = {"--encoding": config.encoding, "--pool": config.pool, "--drop-path": config.optim.drop_path}
    for option, value in own.items():
        if value:
            raise ValueError(
                f"{option} is for our own models; options of '{config.model}' go in brackets, as in timm:NAME(depth=4)"
            )
    classes, channels = len(data.class_names), len(data.mean)
    size = config.img_size or _described(config.model, classes, channels)[0]
    if size is None:
        raise ValueError(f"'{config.model}' has no known training size: pass --img-size")
    name = config.model
    if config.train_sizes:
        name = name_for_sizes(name, classes, channels, size, config.train_sizes)
    return ExternalConfig(name, classes, size, channels, _earlier_retrofit(config))


def _earlier_retrofit(config: TrainConfig) -> dict[str, Any] | None:
    """The options of the retrofit of the run that a training starts from, if its model is retrofitted."""
    start = _starting_run(config)
    options: dict[str, Any] | None = read_record(start)["model"].get("retrofit") if start is not None else None
    return options if options is None or config.scale is None else {**options, "scale": config.scale}


@functools.lru_cache(maxsize=16)
def _described(name: str, classes: int, channels: int) -> tuple[Size | None, Transform | None]:
    """Training size and normalisation of an external model, which has to be built for that."""
    adapter = describe(name, classes, channels)
    return adapter.train_size, adapter.transform


def _transform_of(config: TrainConfig, data: DataSet, settings: ModelConfig | ExternalConfig) -> Transform:
    """The transform of training and test: what the options say, else that of the initial weights, else the data's."""
    known, source = _known_transform(config, data) or Transform(data.mean, data.std, data.crop_ratio), config.dataset
    size = settings.img_size
    kept = known.longest_side if known.size is not None and sides(known.size) == sides(size) else None
    options = {"crop_ratio": source.crop_pct, "interpolation": source.interpolation}
    said: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    longest_side = source.longest_side or kept or 4 * max(sides(size))
    return replace(known, **said, longest_side=longest_side, reduced_jpegs=source.reduced_jpegs)


def _known_transform(config: TrainConfig, data: DataSet) -> Transform | None:
    """The transform of the initial weights; None where it is unknown."""
    run, start = _starting_run(config), start_of(config)
    if run is not None:
        return transform_from_json(read_record(run)["transform"])
    if start is None or not is_external(config.model):
        return None
    if start == PUBLISHED:
        return open_adapter(config.model).transform
    return _described(config.model, len(data.class_names), len(data.mean))[1]


def _training_protocol(config: TrainConfig, data: DataSet, settings: ModelConfig | ExternalConfig) -> Protocol:
    """The protocol of training images."""
    transform = _transform_of(config, data, settings)
    augment = augment_of(config, data)
    protocol, recipe = find_protocol(AUGMENTS.get(augment, augment)), config.optim
    augmentation = Augmentation(recipe.aa, recipe.color_jitter, recipe.reprob)
    hflip = 0.5 if recipe.hflip is None else recipe.hflip
    preprocessing = protocol(transform, sides(settings.img_size), recipe.crop_scale, augmentation, hflip)
    if preprocessing.stacks or transform.longest_side is None:
        return preprocessing
    return preprocessing.at((transform.longest_side, transform.longest_side))


def create_optimizer(
    model: nn.Module, recipe: OptimConfig, retrofitted: Retrofit | None, fused: bool
) -> torch.optim.Optimizer:
    """timm's optimizer; of a retrofitted model on the trainable parameters, with a learning rate for the PEGs."""
    parameters: Any = model
    if retrofitted is not None:
        scale = retrofitted.peg_lr_scale
        parameters = parameter_groups(model, retrofitted.train_only, recipe.lr, recipe.weight_decay, scale)
    options: dict[str, Any] = {"fused": fused} if recipe.opt in ("adam", "adamw") else {}
    if recipe.layer_decay is not None:
        options["layer_decay"] = recipe.layer_decay
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        parameters, recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, **options
    )
    return optimizer
