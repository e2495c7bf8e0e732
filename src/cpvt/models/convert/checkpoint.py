"""What files of weights hold: tensors by name, without what training scripts and wrappers put around them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cpvt.config.base import some_names
from cpvt.runtime.errors import error_line

WRAPPERS = (  # where training scripts keep weights; averaged ones first, as in timm
    "state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "module", "net",
)  # fmt: skip
PREFIXES = re.compile(r"^(module\.)+|(?<![^.])_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")


def read_weights(path: Path) -> Any:
    """What a .safetensors or torch file holds, tensors only; ValueError for code, and for what cannot be read."""
    try:
        if path.is_dir():
            raise IsADirectoryError
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # options that scripts save, too
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"the weights '{path}' are missing") from error
    except IsADirectoryError as error:
        raise ValueError(f"expected a file of weights; got the folder '{path}': name the file in it") from error
    except Exception as error:  # libraries raise KeyError, IndexError, struct.error and more for what is no such file
        what = "is not a whole safetensors file", "fetch or save it again"
        if path.suffix != ".safetensors":
            what = (
                "holds more than tensors, or is broken, and is not opened",
                ("expected a state_dict of torch.save: save that alone, best as .safetensors, or fetch the file again"),
            )
        raise ValueError(f"'{path}' {what[0]} ({error_line(error)}); {what[1]}") from error


def unwrap_checkpoint(checkpoint: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of what a training script saved around one; ValueError where there are others.

    Averaged weights are preferred, and what wrappers add to names, 'module.' and '_orig_mod.', is removed.
    """
    for wrapper in WRAPPERS:
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(wrapper), Mapping):
            checkpoint = checkpoint[wrapper]
            break
    state: dict[str, Any] = {type(checkpoint).__name__: None}
    if isinstance(checkpoint, Mapping):
        state = {_clean(str(name)): value for name, value in checkpoint.items()}
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"expected tensors by name, or those under one of {', '.join(WRAPPERS)}; got {some_names(others)}"
        )
    return {name: tensor.detach() for name, tensor in state.items()}


def _clean(name: str) -> str:
    """The name of a weight without what wrappers for several processes and compilers add, in any order."""
    while (shorter := PREFIXES.sub("", name)) != name:
        name = shorter
    return name
