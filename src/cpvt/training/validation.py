"""Checks before a training starts: unknown options, combinations, and what this machine cannot do."""

from __future__ import annotations

import difflib
import functools
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from timm.optim import list_optimizers
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from cpvt.adapters import RANDOM, is_external
from cpvt.adapters.precision import check_precision
from cpvt.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from cpvt.data import DataSet
from cpvt.data.protocols import TRAINING, keeps_sizes
from cpvt.models import VisionTransformer
from cpvt.results.checkpoints import is_run
from cpvt.results.folders import CHECKPOINT, WEIGHTS, has_state
from cpvt.runtime import distributed
from cpvt.runtime.files import check_writable
from cpvt.training.build import (
    PUBLISHED,
    TrainingSetup,
    augment_of,
    build_setup,
    create_optimizer,
    start_of,
    with_model,
)

LOOKAHEAD = "lookahead_"  # timm's prefix that wraps any optimizer
ON_GPUS = ("bnb", "fused")  # prefixes of optimizers for GPUs only


def check(config: TrainConfig, data: DataSet) -> TrainingSetup:
    """The model, preprocessing and sampler of a configuration.

    Raises ValueError for unknown or incompatible options; cheap, and the same on every machine.
    """
    config = with_model(config)
    if data.train is None and data.train_stream is None:
        raise ValueError(f"'{data.name}' has no train/ to train on")
    if len(data.class_names) < 2:
        held = f"one, '{data.class_names[0]}'" if data.class_names else "none"
        raise ValueError(
            f"training needs two classes or more, and '{data.name}' has {held}: in folders, a class is a folder "
            "of its own, as in train/cat/1.jpg and train/dog/2.jpg"
        )
    if config.test_every and not data.has_test:
        raise ValueError(f"--test-every needs images to test on, and {data.lacks_test}")
    if config.keep_best and data.validation is None:
        raise ValueError(
            f"--keep-best chooses by a validation part, and '{data.name}' has none: it takes validation/ (or val/) "
            "next to test/. The test images cannot choose, as their accuracy would then be too good to be true"
        )
    _check_start(config)
    _check_recipe(config)
    _check_unused(config, data)
    setup = build_setup(config, data)
    if config.optim.hflip and not setup.preprocessing.mirrors:
        raise ValueError(
            f"--hflip {config.optim.hflip} does nothing under --augment {augment_of(config, data)}, which never "
            f"mirrors: choose {', '.join(name for name, each in TRAINING.items() if each.stacks)} or native, or leave "
            "the option out"
        )
    if isinstance(setup.model, ModelConfig):
        with torch.device("meta"):  # builds without memory or random numbers
            VisionTransformer(setup.model)
    elif keeps_sizes(config.optim.augment):
        raise ValueError(
            f"--augment {config.optim.augment} passes lists of images, which only our own models take; "
            f"for '{setup.model.name}' use {', '.join(name for name, each in TRAINING.items() if each.stacks)} or none"
        )
    external = None if isinstance(setup.model, ModelConfig) else setup.model
    if config.scale not in (None, "paper") and external is not None and not (config.retrofit or external.retrofit):
        raise ValueError(
            f"'{external.name}' has no PEG, so it takes no scale ({config.scale}); leave --scale out, or "
            "add PEGs by cpvt retrofit"
        )
    if config.retrofit is not None and isinstance(setup.model, ModelConfig):
        raise ValueError(
            "our own models take PEG by name: train with --encoding learned+peg (and --initial-checkpoint)"
        )
    if config.retrofit is not None and config.optim.layer_decay is not None:
        raise ValueError("--layer-decay does not work with a retrofit, whose PEGs have their own learning rate")
    return setup


def check_here(config: TrainConfig) -> None:
    """Raise ValueError for what this machine cannot do: a precision, an optimizer, a folder."""
    if not config.out:
        raise ValueError("out (--out) is empty: is a variable of the shell unset?")
    folder = Path(config.out)
    check_writable(folder)
    if (folder / WEIGHTS).exists() and not (folder / CHECKPOINT).exists() and not has_state(folder):
        raise ValueError(
            f"'{folder}' holds {WEIGHTS} but no {CHECKPOINT}, so it is not a run, and training would overwrite it: "
            "choose another --out"
        )
    if distributed.launched() and ":" in config.device:
        raise ValueError(
            f"each process of a launcher gets a GPU of its own: pass --device cuda; got '{config.device}' "
            "(CUDA_VISIBLE_DEVICES chooses among GPUs)"
        )
    on_cpu = not torch.cuda.is_available() if config.device == "auto" else config.device.startswith("cpu")
    check_precision(config.optim.precision, on_cpu)
    _try_optimizer(config.optim.opt, config.optim.lr, config.optim.weight_decay)


def _check_start(config: TrainConfig) -> None:
    """Raise ValueError for initial weights that do not exist."""
    start = start_of(config)
    words = (None, PUBLISHED, RANDOM) if is_external(config.model) else (None, PUBLISHED)
    if start not in words and not (is_run(str(start)) or Path(str(start)).exists()):
        raise ValueError(f"there are no initial weights at '{start}': pass the folder of a run or a file")
    if start == PUBLISHED and not is_external(config.model):
        raise ValueError(
            f"there are no published weights of '{config.model}'; start from the folder of a run or a file"
        )


def _check_recipe(config: TrainConfig) -> None:
    """Raise ValueError for parts of a recipe that are unknown or incompatible."""
    recipe = config.optim
    _check_optimizer(recipe.opt)
    if keeps_sizes(recipe.augment) and (recipe.mixup or recipe.cutmix or config.train_sizes):
        raise ValueError(
            f"images at their own sizes (--augment {recipe.augment}) cannot be mixed or resized to --train-sizes; "
            "leave out mixup, cutmix and --train-sizes, or use --augment resized-crop or crop"
        )


def _check_optimizer(name: str) -> None:
    """Raise ValueError for an optimizer unknown to timm."""
    known = list_optimizers()
    if name.removeprefix(LOOKAHEAD) not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"timm knows no optimizer '{name}'.{hint} Known: {', '.join(known)}")


def _check_unused(config: TrainConfig, data: DataSet) -> None:
    """Raise ValueError for an option that was set but has no effect."""
    mixes, streamed = [config.optim.mixup > 0, config.optim.cutmix > 0], data.train is None
    teacher, stream = "a --teacher", "a streamed data set (hfids/NAME)"
    readers: list[tuple[TrainConfig | OptimConfig | DataConfig, str, bool, str]] = [
        (config, "teacher_checkpoint", config.teacher is not None, teacher),
        (config.optim, "distillation_alpha", config.teacher is not None, teacher),
        (config.optim, "mixup_prob", any(mixes), "--mixup or --cutmix"),
        (config.optim, "mixup_switch_prob", all(mixes), "both --mixup and --cutmix"),
        (config.optim, "crop_scale", augment_of(config, data) == "resized-crop", "--augment resized-crop"),
        (config.optim, "warmup_lr", config.optim.warmup_ratio > 0, "a warm-up (--warmup-ratio above 0)"),
        (config.optim, "consistency", config.optim.sizes_per_step == "all", "--sizes-per-step all"),
        (config.dataset, "train_num_samples", streamed, stream),
        (config.dataset, "shuffle_buffer", streamed, stream),
    ]
    for part, name, is_read, reader in readers:
        given, default = getattr(part, name), getattr(type(part), name)
        if given != default and not is_read:
            raise ValueError(
                f"--{name.replace('_', '-')} {given} does nothing without {reader}: add that, or leave the option out "
                f"(its default is {default})"
            )


@functools.cache
def _try_optimizer(name: str, lr: float, weight_decay: float) -> None:
    """Raise ValueError for an optimizer that cannot take a step, be saved or be resumed; tried on a tiny model."""
    _check_optimizer(name)
    recipe, action = OptimConfig(opt=name, lr=lr, min_lr=0.0, weight_decay=weight_decay), "be created"
    device = "cuda" if name.startswith(ON_GPUS) and torch.cuda.is_available() else "cpu"
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")  # the training shows them
        tiny = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(2, 2)).to(device)
        try:
            optimizer: Any = create_optimizer(tiny, recipe, None, fused=False)
            action = "take a step"
            if getattr(optimizer, "is_second_order", False):
                raise TypeError("it needs second derivatives, and training computes only the first")
            tiny(torch.ones(1, 2, 1, 1, device=device)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            action = "be saved and resumed"
            options, saved = StateDictOptions(full_state_dict=True), io.BytesIO()
            torch.save(get_state_dict(tiny, optimizer, options=options), saved)
            saved.seek(0)
            weights, state = torch.load(saved, weights_only=True)
            resumed = create_optimizer(tiny, recipe, None, fused=False)
            set_state_dict(tiny, resumed, model_state_dict=weights, optim_state_dict=state, options=options)
        except Exception as error:  # optimizers raise many types
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"--opt {name} cannot {action} here ({why}); choose another, such as adamw") from error
