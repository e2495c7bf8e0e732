"""Loads weights from a file into a model of any library; only tensors are unpickled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from cpvt.models.convert.checkpoint import read_weights, unwrap_checkpoint

SHOWN = 8  # names of each kind that a message lists
HINTS = tuple(  # what to do about a weight of another shape, by its name
    (re.compile(pattern), hint)
    for pattern, hint in (
        (
            r"(^|\.)(head|head_dist|heads\.\w+|fc|classifier|heads)\.(weight|bias)$",
            "The head is for another number of classes: build the model with as many, num_classes=N, and replace the "
            "head afterwards (reset_classifier), or train with --initial-checkpoint RUN, which does so for a run.",
        ),
        (
            r"pos_embed|position_embedding|pos_embedding|relative_position|(^|\.)table$",
            "Positions are of another training size: build the model for it, img_size=SIDE.",
        ),
        (r"patch_embed|conv_proj|patch_embeddings", "Patches are of another size, or images of other channels."),
    )
)


def load_weights_file(model: nn.Module, path: Path) -> None:
    """Put the weights of a .safetensors or torch file into a model; ValueError names what does not fit.

    The weights may be stored under 'model', 'state_dict', 'model_ema' or 'state_dict_ema', as training scripts write
    them, and with 'module.' before every name.
    """
    load_weights(model, unwrap_checkpoint(read_weights(path)), f"in '{path}'")


def load_weights(model: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """Put weights into a model; ValueError names what does not fit, where it comes from and what to do."""
    wanted = model.state_dict()
    if not wanted.keys() & state.keys() and all(name.startswith("model.") for name in state):
        state = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    misfits = [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
    complaints = {
        "missing": [name for name in wanted if name not in state],
        "not expected": [name for name in state if name not in wanted],
        "of another shape": [
            f"{name}: expected shape {tuple(wanted[name].shape)}, got {tuple(state[name].shape)}" for name in misfits
        ],
    }
    if any(complaints.values()):
        shown = [f"\n  {title}: {_some(names)}" for title, names in complaints.items() if names]
        hints = [f"\n{hint}" for pattern, hint in HINTS if any(pattern.search(name) for name in misfits)]
        raise ValueError(f"the weights {where} do not fit the model:{''.join(shown + hints)}")
    model.load_state_dict(state)


def _some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    return "; ".join(names[:SHOWN]) + (f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
