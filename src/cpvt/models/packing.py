"""Checks lists of images of several sizes, pads them to whole patches and cuts them into packs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cpvt.config import ModelConfig
from cpvt.grids import patch_count, within_budget
from cpvt.ops.dense import takes_dtype

PACK_ON_CPU = 2**20  # numbers (tokens times width) in one pack on a CPU: more do not fit its caches


def check_sides(shape: Sequence[int], patch_size: int) -> None:
    """Raise ValueError for images (..., H, W) smaller than a patch."""
    if shape[-2] < patch_size or shape[-1] < patch_size:
        raise ValueError(
            f"an image of {shape[-2]}x{shape[-1]} pixels is smaller than a patch; "
            f"the smallest size of this model is {patch_size}x{patch_size}"
        )


def check_batch(images: Tensor, in_chans: int, patch_size: int, dtype: torch.dtype) -> Tensor:
    """The images, unchanged; ValueError unless they are (B, C, H, W), normalised and not smaller than a patch.

    dtype: that of the weights.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != in_chans:
        got, hint = type(images).__name__, ""
        if hasattr(images, "shape"):
            got = f"{got} of shape {tuple(images.shape)}"
        if not isinstance(images, Tensor):
            hint = ". torch.from_numpy makes a tensor of an array" if hasattr(images, "__array__") else ""
        elif images.ndim == 3 and images.shape[0] == in_chans:
            hint = ". One image goes in as image[None], or in a list"
        elif images.ndim == 4 and images.shape[3] == in_chans:
            hint = ". images.permute(0, 3, 1, 2) moves the channels"
        raise ValueError(f"the model needs images of shape (B, {in_chans}, H, W), or a list of images; got {got}{hint}")
    check_values(images, dtype)
    check_sides(images.shape, patch_size)
    return images


def check_values(images: Tensor, dtype: torch.dtype) -> None:
    """Raise ValueError for images of integers, and of another dtype than the weights that autocast does not cast."""
    if not images.is_floating_point():
        raise ValueError(
            f"the model needs normalised images of {dtype}; got {images.dtype}. The transform of a run makes them, as "
            "in cpvt.load(...).transform(image); else (images / 255 - mean) / std"
        )
    if not takes_dtype(dtype, images):
        raise ValueError(
            f"the images are {images.dtype} and the model's weights {dtype}: pass images.to({dtype}), or convert the "
            f"model, model.to({images.dtype})"
        )


def pad_to_patches(images: Sequence[Tensor], config: ModelConfig, dtype: torch.dtype) -> list[Tensor]:
    """The images (C, H_i, W_i), each padded with zeros on the right and at the bottom to whole patches.

    dtype: that of the weights. Raises ValueError for an empty list, and for images of the wrong shape, too small, of
    mixed dtypes or devices, or not normalised.
    """
    if not images:
        raise ValueError(f"the model needs at least one image ({config.in_chans}, H, W); got an empty list")
    for number, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise ValueError(
                f"a list needs tensors ({config.in_chans}, H, W); number {number} is {type(image).__name__}"
            )
        if image.ndim != 3 or image.shape[0] != config.in_chans:
            raise ValueError(
                f"a list needs images of shape ({config.in_chans}, H, W); number {number} has {tuple(image.shape)}"
            )
        check_sides(image.shape, config.patch_size)
    for what in ("dtype", "device"):
        kinds = sorted({str(getattr(image, what)) for image in images})
        if len(kinds) > 1:
            raise ValueError(f"the images of a list must have one {what}; got {' and '.join(kinds)}")
    check_values(images[0], dtype)
    patch = config.patch_size
    return [F.pad(image, (0, -image.shape[2] % patch, 0, -image.shape[1] % patch)) for image in images]


def plan_packs(shapes: Sequence[torch.Size], config: ModelConfig, device: torch.device) -> list[list[int]]:
    """Indices of the images (C, H, W) in each pack, equal sizes side by side; one pack except on the CPU."""
    order = sorted(range(len(shapes)), key=lambda number: (shapes[number].numel(), shapes[number]))
    if device.type != "cpu" or shapes[order[0]] == shapes[order[-1]]:
        return [order]

    def tokens(number: int) -> int:
        return patch_count(shapes[number], config.patch_size)

    return list(within_budget(order, tokens, PACK_ON_CPU // config.embed_dim))
