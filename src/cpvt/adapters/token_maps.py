"""Reads what encoders return (tensors, dicts, tuples; with or without prefix tokens) as maps of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from cpvt.adapters.errors import UnsupportedError

TOKEN_KEYS = ("x_norm_patchtokens", "patch_tokens", "last_hidden_state", "tokens", "features", "feature_map", "out")

MOST_PREFIX = 16  # class, distillation and register tokens together


def find_tokens(output: Any, name: str) -> Tensor:
    """The tokens in what an encoder returns, (B, N, D) or of four axes. UnsupportedError where there are none."""
    tensors = list(_tensors(output))
    by_key = {key: tensor for key, tensor in tensors if key}
    for key in TOKEN_KEYS:
        if key in by_key and by_key[key].ndim in (3, 4):
            return by_key[key]
    spatial = [tensor for _, tensor in tensors if tensor.ndim in (3, 4)]
    if not spatial:
        shapes = ", ".join(f"{key + ' ' if key else ''}{tuple(tensor.shape)}" for key, tensor in tensors) or "no tensor"
        raise UnsupportedError(f"'{name}' returns no tokens of shape (B, N, D) or (B, D, h, w); it returned {shapes}")
    return spatial[-1]


def _tensors(output: Any, key: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield key, output
    elif hasattr(output, "items"):
        for name, value in output.items():
            yield from _tensors(value, str(name))
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value, key)


def as_map(tokens: Tensor, sides: tuple[int, int], patch_size: int | None, name: str) -> Tensor:
    """Tokens of images with these sides as (B, h, w, D): the prefix is cut off, the grid follows from the sides.

    Three axes are (B, P + N, D); four are (B, D, h, w) or (B, h, w, D), whichever has the image's aspect ratio.
    """
    if tokens.ndim == 3:
        h, w = _grid(tokens.shape[1], sides, patch_size, name)
        return tokens[:, tokens.shape[1] - h * w :].unflatten(1, (h, w))
    grids = set(_grids(sides))
    first, last = tuple(tokens.shape[2:]), tuple(tokens.shape[1:3])
    if first not in grids and last in grids:
        return tokens
    return tokens.permute(0, 2, 3, 1)


def _grids(sides: tuple[int, int], patches: Iterable[int] | None = None) -> Iterator[tuple[int, int]]:
    """Every grid of patches (by default of any side) on an image, its last row and column padded or dropped."""
    height, width = sides
    for side in range(1, max(sides) + 1) if patches is None else patches:
        yield -(-height // side), -(-width // side)
        yield height // side, width // side


def _grid(count: int, sides: tuple[int, int], patch_size: int | None, name: str) -> tuple[int, int]:
    """The grid of `count` tokens, a few of which may be a prefix.

    It is that of the known patch size, else of patches that divide both sides, else of any patch; of several grids the
    one with the smallest prefix.
    """
    height, width = sides
    known = [] if patch_size is None else [patch_size]
    whole = [side for side in range(1, min(sides) + 1) if height % side == width % side == 0]
    for candidates in (_grids(sides, known), _grids(sides, whole), _grids(sides)):
        fitting = [(count - h * w, (h, w)) for h, w in candidates if 0 <= count - h * w <= MOST_PREFIX and h * w]
        if fitting:
            return min(fitting)[1]
    raise UnsupportedError(f"'{name}' gives {count} tokens for images of {height}x{width}; no grid has so many")
