"""Recipes: Python files that define `config = TrainConfig(...)`, and the settings of DeiT to build them from."""

from __future__ import annotations

import runpy
import traceback
from pathlib import Path
from typing import Any

from cpvt.config import RENAMED, DataConfig, OptimConfig, RuntimeConfig, TrainConfig

DEIT_EPOCHS, DEIT_WARMUP = 300, 5


def deit(batch_size: int = 2048, epochs: int = DEIT_EPOCHS, **overrides: Any) -> OptimConfig:
    """DeiT's recipe for ImageNet, which CPVT uses unchanged; `overrides` replace any option.

    The learning rate is proportional to the batch size. Warm-up takes five epochs, but at most half of all. Weights are
    averaged as in DeiT; gradients are not clipped, as in both papers.
    Source: Touvron et al., arXiv 2012.12877, table 9; Chu et al., arXiv 2102.10882, section 4.1.
    """
    options: dict[str, Any] = dict(
        epochs=epochs, batch_size=batch_size, opt="adamw", lr=5e-4 * batch_size / 512, min_lr=1e-5, warmup_lr=1e-6,
        warmup_ratio=min(0.5, DEIT_WARMUP / max(epochs, 1)), weight_decay=0.05, smoothing=0.1, drop_path=0.1,
        augment="resized-crop", crop_scale=(0.08, 1.0), aa="rand-m9-mstd0.5-inc1", color_jitter=0.4, reprob=0.25,
        aug_repeats=3, mixup=0.8, cutmix=1.0, mixup_prob=1.0, mixup_switch_prob=0.5, model_ema_decay=0.99996,
        precision="bf16",
    )  # fmt: skip
    return OptimConfig(**options | overrides)


def imagenet(model: str, **overrides: Any) -> TrainConfig:
    """Training on ImageNet by DeiT's recipe, tested every ten epochs, with TensorBoard; `overrides` replace options."""
    options: dict[str, Any] = dict(
        model=model, test_every=10, runtime=RuntimeConfig(report_to=("tensorboard",)), optim=deit(),
        dataset=DataConfig(data="/data/imagenet", on_bad_image="skip", workers=8),
    )  # fmt: skip
    return TrainConfig(**options | overrides)


def read_recipe(path: str | Path) -> TrainConfig:
    """Run a recipe file and return its `config`.

    Raises ValueError, with the line, for a file without `config`, a syntax error or an option that does not exist.
    """
    if not Path(path).is_file():
        raise ValueError(f"no such recipe: '{path}'; expected a Python file with config = TrainConfig(...)")
    try:
        config = runpy.run_path(str(path)).get("config")
    except SyntaxError as error:
        raise ValueError(f"recipe '{path}', line {error.lineno}: {error.msg}") from error
    except TypeError as error:  # an option that does not exist, is missing, or is positional
        renamed = [f" ('{old}' is now '{new}')" for old, new in RENAMED.items() if f"'{old}'" in str(error)]
        raise ValueError(
            f"recipe {_place(path, error)}: {error}{''.join(renamed)}. Pass options by name, as in epochs=3; "
            "`cpvt train --help` lists them"
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
