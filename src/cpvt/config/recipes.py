"""Recipes: Python files that say how a model is trained, as `config = TrainConfig(...)`."""

from __future__ import annotations

import runpy
import traceback
from pathlib import Path
from typing import Any

from cpvt.config import RENAMED, DataConfig, OptimConfig, RuntimeConfig, TrainConfig

DEIT_EPOCHS, DEIT_WARMUP = 300, 5


def deit(batch_size: int = 2048, epochs: int = DEIT_EPOCHS, **others: Any) -> OptimConfig:
    """DeiT's recipe for ImageNet, which CPVT's authors took over untuned; `others` go over it.

    The rate goes with the batch; the warm-up is five epochs, of fewer than ten epochs half. Left out, as in both papers:
    clipping of gradients. Weights are averaged as DeiT does.
    Source: Touvron et al., arXiv 2012.12877, table 9; Chu et al., arXiv 2102.10882, section 4.1.
    """
    plain: dict[str, Any] = dict(
        epochs=epochs, batch_size=batch_size, opt="adamw", lr=5e-4 * batch_size / 512, min_lr=1e-5,
        warmup_ratio=min(0.5, DEIT_WARMUP / max(epochs, 1)), warmup_lr=1e-6, weight_decay=0.05, smoothing=0.1, drop_path=0.1,
        augment="resized-crop", crop_scale=(0.08, 1.0), aa="rand-m9-mstd0.5-inc1", color_jitter=0.4, reprob=0.25,
        aug_repeats=3, mixup=0.8, cutmix=1.0, mixup_prob=1.0, mixup_switch_prob=0.5, model_ema_decay=0.99996, precision="bf16",
    )  # fmt: skip
    return OptimConfig(**{**plain, **others})


def imagenet(model: str, **others: Any) -> TrainConfig:
    """A training on ImageNet by DeiT's recipe, tested every ten epochs and logged to TensorBoard; `others` go over it."""
    plain: dict[str, Any] = dict(
        model=model, test_every=10, runtime=RuntimeConfig(report_to=("tensorboard",)), optim=deit(),
        dataset=DataConfig(data="/data/imagenet", on_bad_image="skip", workers=8),
    )  # fmt: skip
    return TrainConfig(**{**plain, **others})


def read_recipe(path: str | Path) -> TrainConfig:
    """The configuration that a recipe file holds; options of the command line go over it.

    The file is run, as a script of the user's own. Raises ValueError, with the line, where it defines no `config` or
    Python stumbles over an option.
    """
    if not Path(path).is_file():
        raise ValueError(f"no such recipe: '{path}'; a recipe is a Python file with config = TrainConfig(...)")
    try:
        config = runpy.run_path(str(path)).get("config")
    except SyntaxError as error:
        raise ValueError(f"recipe '{path}', line {error.lineno}: {error.msg}") from error
    except TypeError as error:  # an option that does not exist, is missing, or has no name
        renamed = [f" ('{old}' is now '{new}')" for old, new in RENAMED.items() if f"'{old}'" in str(error)]
        raise ValueError(
            f"recipe {_place(path, error)}: {error}{''.join(renamed)}. Options go by their names, as in epochs=3; "
            "`cpvt train --help` lists those of each part"
        ) from error
    except ValueError as error:
        raise ValueError(f"recipe {_place(path, error)}: {error}") from error
    if not isinstance(config, TrainConfig):
        got = "nothing of that name" if config is None else type(config).__name__
        raise ValueError(f"recipe '{path}' must define config = TrainConfig(...), from cpvt.config; it defines {got}")
    return config


def _place(path: str | Path, error: Exception) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"'{path}', line {lines[-1]}" if lines else f"'{path}'"
