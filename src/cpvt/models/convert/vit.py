"""Turns weights of DeiT and of timm's vision transformers into those of our models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cpvt.config.base import some_names
from cpvt.grids import Grid
from cpvt.models.convert.checkpoint import unwrap_checkpoint
from cpvt.models.timm_interface import PREFIX

KNOWN = re.compile(
    r"(cls|dist)_token|pos_embed"
    r"|(patch_embed\.proj|norm|head|head_dist|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12]))\.(weight|bias)"
)
LAYER_SCALE = re.compile(r"(blocks\.\d+)\.(?:ls([12])\.gamma|gamma_([12]))")  # timm's name, then DeiT's own
BRANCH_END = {"1": "attn.proj", "2": "mlp.fc2"}  # the layer whose output a LayerScale multiplies


def from_timm(checkpoint: Mapping[str, Any], grid: Grid | None = None) -> dict[str, Tensor]:
    """Turn weights of a DeiT or timm ViT into what `create_model('deit_tiny', encoding='learned')` loads.

    checkpoint: a state dict, or what a training script saved around one ({'model': ...}, {'state_dict': ...}, averaged
    weights, names with 'module.'). grid: (h, w) of the position table, needed where it is not square.
    The class token's own position is added to the class token, the distillation token's to that. LayerScale is
    multiplied into the layer before it, and a missing bias becomes zero. Logits equal those of timm's model up to
    rounding. Without a position table the result is for encoding='none', without a class token for global_pool='avg',
    and a distilled checkpoint for `distilled=True`.
    Unchecked, as checkpoints do not hold them: the activation (GELU here) and the norms' epsilon (1e-6, as DeiT).
    Raises ValueError that names weights without a counterpart in the model (registers, norms of queries and keys, ...).
    """
    state = unwrap_checkpoint(checkpoint)
    _fold_layer_scale(state)
    unknown = [name for name in state if not KNOWN.fullmatch(name)]
    if unknown or "patch_embed.proj.weight" not in state:
        what = f"no counterpart of {some_names(unknown)}" if unknown else "no patch_embed.proj.weight in it"
        raise ValueError(
            f"expected a plain DeiT or timm ViT (class token, learned positions, pre-norm blocks); there is {what}. "
            "cpvt.retrofit adds PEGs to timm's own model instead"
        )
    _place_positions(state, grid)
    for name in [name for name in state if name.endswith(".weight")]:
        state.setdefault(name.replace(".weight", ".bias"), state[name].new_zeros(len(state[name])))
    return state


def _fold_layer_scale(state: dict[str, Tensor]) -> None:
    """Multiply x + gamma * (W a + b) out: W and b take gamma in."""
    for name in list(state):
        match = LAYER_SCALE.fullmatch(name)
        if not match:
            continue
        gamma, end = state.pop(name), f"{match[1]}.{BRANCH_END[match[2] or match[3]]}"
        for part in (f"{end}.weight", f"{end}.bias"):
            if part in state:
                state[part] = state[part] * gamma.reshape(-1, *[1] * (state[part].ndim - 1))


def _place_positions(state: dict[str, Tensor], grid: Grid | None) -> None:
    """Split the table into the rows of the prefix tokens, which those take in, and the patches', `encoding.table`.

    A table has a row for each of the prefix tokens or for none of them (timm's no_embed_class).
    """
    tokens = [name for name in PREFIX if name in state]
    prefix = len(tokens)
    table = state.pop("pos_embed", None)
    if table is None:
        return
    rows = table.shape[1] if table.ndim == 3 else 0
    if grid is not None:
        extra = rows - math.prod(grid)
    else:
        extra = next((count for count in (prefix, 0) if math.isqrt(max(0, rows - count)) ** 2 == rows - count), -1)
    if extra not in (0, prefix):
        given = f"the grid {grid[0]}x{grid[1]}" if grid else "a square grid; say which with grid=(rows, columns)"
        raise ValueError(
            f"a position table of shape {tuple(table.shape)} with {prefix} tokens before it does not fit {given}"
        )
    for row, name in enumerate(tokens[:extra]):
        state[name] = state[name] + table[:, row : row + 1]
    state["encoding.table"] = table[:, extra:].clone()
