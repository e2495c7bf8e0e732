"""Converts weights of timm: vision transformers, and the positional convolutions of Twins, CoaT, DaViT, FastViT."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cpvt import ops
from cpvt.config.base import some_names
from cpvt.encodings import PEG
from cpvt.grids import Grid
from cpvt.models.timm_interface import PREFIX

WRAPPERS = (  # where training scripts keep weights; averaged ones first, as in timm
    "state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "module", "net",
)  # fmt: skip
PREFIXES = re.compile(r"^(module\.)+|(?<![^.])_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
HOME = re.compile(
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
    homeless = [name for name in state if not HOME.fullmatch(name)]
    if homeless or "patch_embed.proj.weight" not in state:
        what = f"no home for {some_names(homeless)}" if homeless else "no patch_embed.proj.weight in it"
        raise ValueError(
            f"expected a plain DeiT or timm ViT (class token, learned positions, pre-norm blocks); there is {what}. "
            "cpvt.retrofit adds PEGs to timm's own model instead"
        )
    _place_positions(state, grid)
    for name in [name for name in state if name.endswith(".weight")]:
        state.setdefault(name.replace(".weight", ".bias"), state[name].new_zeros(len(state[name])))
    return state


def peg_from_timm(layer: nn.Module | Mapping[str, Tensor], layout: str = "NLC") -> PEG:
    """Turn one positional convolution of timm's Twins, CoaT, DaViT or FastViT into a PEG with the same output.

    layer: the module (Twins' `pos_block[i]`, CoaT's `cpe1`, DaViT's `cpe1`, FastViT's `pos_emb`), or its state dict.
    layout: 'NLC' for tokens with a grid (and CoaT's class token, `prefix_tokens=1`); 'NCHW' for images, as DaViT's
    and FastViT's own layers take them. FastViT's kernel may be folded for inference; the residual is taken out again.
    Raises ValueError for a layer that is no depth-wise convolution with a residual, or holds more than one.
    """
    if isinstance(layer, nn.Module):
        _check_layer(layer)
    state = layer.state_dict() if isinstance(layer, nn.Module) else layer
    kernels = {name: tensor for name, tensor in state.items() if tensor.ndim == 4}
    if len(kernels) != 1 or len(state) - len(kernels) > 1:
        raise ValueError(
            f"expected one convolution, a weight and a bias at most; got {some_names(list(state)) or 'nothing'}"
        )
    ((name, kernel),) = kernels.items()
    bias = next((tensor for tensor in state.values() if tensor.ndim != 4), None)
    if kernel.shape[1] != 1 or kernel.shape[2] != kernel.shape[3]:
        raise ValueError(f"a PEG has a kernel (D, 1, k, k), one for each channel; '{name}' has {tuple(kernel.shape)}")
    if "reparam_conv" in name:
        kernel = kernel - ops.identity_kernel(kernel)
    peg = PEG(
        len(kernel), kernel.shape[2], layout=layout, bias=bias is not None, device=kernel.device, dtype=kernel.dtype
    )
    peg.load_state_dict({"weight": kernel} if bias is None else {"weight": kernel, "bias": bias})
    return peg


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
    strangers = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strangers:
        raise ValueError(
            f"expected tensors by name, or those under one of {', '.join(WRAPPERS)}; got {some_names(strangers)}"
        )
    return {name: tensor.detach() for name, tensor in state.items()}


def _clean(name: str) -> str:
    """The name of a weight without what wrappers for several processes and compilers add, in any order."""
    while (shorter := PREFIXES.sub("", name)) != name:
        name = shorter
    return name


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


def _check_layer(layer: nn.Module) -> None:
    """Refuse what its weights do not show: no residual, strides, activations after the convolution."""
    if isinstance(layer, nn.Conv2d):
        raise ValueError(
            "a PEG adds the tokens to their convolution; a convolution alone does not: pass the layer around it"
        )
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            if set(module.stride) != {1} or set(module.dilation) != {1}:
                raise ValueError(
                    f"a PEG keeps the grid, so the convolution's stride and dilation must be 1; got {module}"
                )
        elif not list(module.children()) and not isinstance(module, nn.Identity):
            raise ValueError(
                f"a PEG is a convolution and a residual alone; the layer also holds {type(module).__name__}"
            )
