"""Adapts a trained model of another library to another training size or other classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from cpvt.adapters import build
from cpvt.adapters.retrofit import retrofit
from cpvt.adapters.weights import load_weights
from cpvt.config import ExternalConfig, sides
from cpvt.runtime.errors import error_line


def continue_external(
    model: nn.Module, wanted: ExternalConfig, same_classes: bool = True, where: str = "to start from"
) -> tuple[nn.Module, list[str]]:
    """A new model as wanted with the weights of the given one, and messages about what changed.

    The given model is consumed. Models of timm change their training size by their own `set_input_size`. Heads are
    reinitialised where the number of classes differs, or with `same_classes=False` the classes themselves.
    where: where the weights are from, for an error. Raises ValueError that names the weights that do not fit.
    """
    if wanted.retrofit is not None:  # the scale stays 1 where it was, whatever the new training size
        grid = getattr(model, "scale_grid", None)
        wanted = replace(wanted, retrofit={**wanted.retrofit, "scale_grid": grid})
    fresh = build_external(wanted)
    if _other_shapes(model, fresh):
        _resize(model, wanted)
    words, state = list[str](), model.state_dict()
    other = _other_shapes(model, fresh)
    if other or not same_classes:
        heads = _other_shapes(build_external(replace(wanted, num_classes=wanted.num_classes + 1)), fresh)
        if other & heads or not same_classes:
            words.append(f"other classes, {wanted.num_classes} now: the head starts afresh")
            expected = fresh.state_dict()
            state |= {name: expected[name] for name in heads}
    load_weights(fresh, state, where)
    return fresh, words


def build_external(config: ExternalConfig) -> nn.Module:
    """A fresh model of another library, retrofitted if the configuration says so."""
    height, width = sides(config.img_size)
    model = build(config.name, config.num_classes, height if height == width else None, config.in_chans)
    return model if config.retrofit is None else retrofit(model, **config.retrofit)


def _resize(model: nn.Module, wanted: ExternalConfig) -> None:
    """Change a model's training size by its own method, where it has one."""
    resize: Any = getattr(model, "set_input_size", None)
    if not callable(resize):
        return
    try:
        resize(sides(wanted.img_size))
    except (AssertionError, ValueError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"'{wanted.name}' cannot be brought to {wanted.img_size} pixels: {error_line(error)}"
        ) from error


def _other_shapes(model: nn.Module, other: nn.Module) -> set[str]:
    """Names of the weights that both models have, in different shapes."""
    state, expected = model.state_dict(), other.state_dict()
    return {name for name in state if name in expected and state[name].shape != expected[name].shape}
