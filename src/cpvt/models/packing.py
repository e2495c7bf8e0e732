"""Lists of pictures of several sizes: checked, padded to whole patches, and cut into packs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cpvt.config import ModelConfig
from cpvt.grids import patch_count, within_budget

PACK_ON_CPU = 2**20  # numbers (tokens times width) that a CPU takes at a time: more fall out of its caches


def check_sides(shape: Sequence[int], patch_size: int) -> None:
    """Raise ValueError for pictures (..., H, W) smaller than a patch."""
    if shape[-2] < patch_size or shape[-1] < patch_size:
        raise ValueError(
            f"a picture of {shape[-2]}x{shape[-1]} pixels is smaller than a patch; "
            f"the smallest size of this model is {patch_size}x{patch_size}"
        )


def check_batch(pictures: Tensor, in_chans: int, patch_size: int) -> Tensor:
    """The pictures themselves; ValueError unless they are (B, C, H, W) and not smaller than a patch."""
    if getattr(pictures, "ndim", None) != 4 or pictures.shape[1] != in_chans:
        got = tuple(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
        raise ValueError(f"the model needs pictures of shape (B, {in_chans}, H, W), or a list of pictures; got {got}")
    check_sides(pictures.shape, patch_size)
    return pictures


def pad_to_patches(pictures: Sequence[Tensor], config: ModelConfig) -> list[Tensor]:
    """The pictures (C, H_i, W_i), each with zeros on the right and at the bottom up to whole patches.

    Raises ValueError for an empty list, and for pictures of the wrong shape, too small, or of mixed dtypes or devices.
    """
    if not pictures:
        raise ValueError(f"the model needs at least one picture ({config.in_chans}, H, W); got an empty list")
    for number, picture in enumerate(pictures):
        if not isinstance(picture, Tensor):
            raise ValueError(
                f"a list needs tensors ({config.in_chans}, H, W); number {number} is {type(picture).__name__}"
            )
        if picture.ndim != 3 or picture.shape[0] != config.in_chans:
            raise ValueError(
                f"a list needs pictures of shape ({config.in_chans}, H, W); number {number} has {tuple(picture.shape)}"
            )
        check_sides(picture.shape, config.patch_size)
    for what in ("dtype", "device"):
        kinds = sorted({str(getattr(picture, what)) for picture in pictures})
        if len(kinds) > 1:
            raise ValueError(f"the pictures of a list must have one {what}; got {' and '.join(kinds)}")
    patch = config.patch_size
    return [F.pad(picture, (0, -picture.shape[2] % patch, 0, -picture.shape[1] % patch)) for picture in pictures]


def plan_packs(shapes: Sequence[torch.Size], config: ModelConfig, device: torch.device) -> list[list[int]]:
    """Numbers of the pictures (C, H, W) that go into each pack, equal sizes side by side; all in one but on the CPU."""
    order = sorted(range(len(shapes)), key=lambda number: (shapes[number].numel(), shapes[number]))
    if device.type != "cpu" or shapes[order[0]] == shapes[order[-1]]:
        return [order]

    def tokens(number: int) -> int:
        return patch_count(shapes[number], config.patch_size)

    return list(within_budget(order, tokens, PACK_ON_CPU // config.embed_dim))
