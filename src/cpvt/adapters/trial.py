"""Runs a model once on a blank image, to see what its blocks take and return, and which sizes it takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from cpvt.adapters import TABLE, adapter_of, build
from cpvt.adapters.base import kept_modes
from cpvt.config import Size, sides, size_label
from cpvt.runtime.errors import error_line

SIDE = 224  # pixels, for models that do not state their training size


class BlockCall(NamedTuple):
    """What a block received and what it returned, its first output where there are several."""

    inputs: tuple[Any, ...]
    output: Any


def try_blocks(model: nn.Module, blocks: Sequence[nn.Module]) -> dict[nn.Module, BlockCall] | None:
    """The calls of these blocks in one forward at the training size; None where the model does not run by itself.

    Leaves the model as it was: its modes, and the state of random numbers.
    """
    calls = dict[nn.Module, BlockCall]()

    def note(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[block] = BlockCall(inputs, output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(note) for block in blocks]
    try:
        with kept_modes(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            adapter = adapter_of(model)
            size = (1, adapter.channels or 3, *sides(adapter.train_size or SIDE))
            model(torch.zeros(size, dtype=adapter.dtype, device=adapter.device))
    except Exception:  # the model's own: it may want other inputs
        return None
    finally:
        for handle in handles:
            handle.remove()
    return calls


@lru_cache(maxsize=16)
def name_for_sizes(name: str, num_classes: int, in_chans: int, train_size: Size, sizes: tuple[Size, ...]) -> str:
    """The name of another library's model with which one build of it takes images of all these sizes.

    That is the name itself, or the name with an option that the library has for it, such as timm's dynamic_img_size;
    tried with random weights, one blank image at each size. Raises ValueError where the model takes one size only.
    """
    height, width = sides(train_size)
    side, refusals = height if height == width else None, list[Exception]()
    options = [option for option in TABLE[name.partition(":")[0]].several_sizes if option.partition("=")[0] not in name]
    with torch.random.fork_rng(devices=[]):
        for each in (name, *(_with_option(name, option) for option in options)):
            try:
                model = build(each, num_classes, side, in_chans)
            except Exception:  # in the library's words: an unknown name, or no such option
                if each == name:
                    raise
                continue
            refusal = _refusal(model, in_chans, sizes)
            if refusal is None:
                return each
            refusals.append(refusal)
    words = error_line((refusals[1:2] or refusals)[0]).rstrip(".")  # with an option, if it has one, else as it is
    raise ValueError(
        f"'{name}' cannot be trained at the sizes {', '.join(map(size_label, sizes))} ({words}): train it at one size, "
        "without --train-sizes, or take a model that takes several, as cpvt's own, most plain ViTs of timm and Hugging "
        "Face and convolutional networks do"
    )


def _refusal(model: nn.Module, in_chans: int, sizes: Sequence[Size]) -> Exception | None:
    """The error, of any kind, with which a model refuses the first size that it does not take."""
    try:
        with kept_modes(model), torch.no_grad():
            for size in sizes:
                model(torch.zeros(1, in_chans, *sides(size)))
    except Exception as error:
        return error
    return None


def _with_option(name: str, option: str) -> str:
    """timm:vit_tiny(depth=4) -> timm:vit_tiny(depth=4, dynamic_img_size=True)."""
    stem = name.removesuffix("()")
    return f"{stem[:-1]}, {option})" if stem.endswith(")") else f"{stem}({option})"
