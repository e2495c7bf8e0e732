"""Loads weights from a file into a model of any library; only tensors are unpickled."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from cpvt.models.convert import unwrap_checkpoint


def says(error: BaseException) -> str:
    """The first line of what an error says."""
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0] if words else 'no reason given'}"


def load_weights_file(model: nn.Module, path: Path) -> None:
    """Put the weights of a .safetensors or torch file into a model; ValueError names what does not fit.

    The weights may be stored under 'model', 'state_dict', 'model_ema' or 'state_dict_ema', as training scripts write
    them, and with 'module.' before every name.
    """
    load_weights(model, unwrap_checkpoint(_read(path)), f"in '{path}'")


def load_weights(model: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """Put weights into a model; ValueError names what does not fit and where it comes from."""
    wanted = model.state_dict()
    complaints = [f"missing: {name}" for name in wanted if name not in state]
    complaints += [f"not expected: {name}" for name in state if name not in wanted]
    complaints += [
        f"{name}: expected shape {tuple(wanted[name].shape)}, got {tuple(state[name].shape)}"
        for name in wanted
        if name in state and wanted[name].shape != state[name].shape
    ]
    if complaints:
        shown = "\n  ".join([*complaints[:20], *([f"and {len(complaints) - 20} more"] if len(complaints) > 20 else [])])
        raise ValueError(f"the weights {where} do not fit the model:\n  {shown}")
    model.load_state_dict(state)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # options that scripts save, too
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"the weights '{path}' are missing") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"'{path}' is not a whole safetensors file ({error})") from error
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(
            f"'{path}' holds more than tensors, or is broken, and is not opened ({says(error)}); "
            "save the state_dict alone, best as .safetensors"
        ) from error
