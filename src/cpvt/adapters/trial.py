"""Runs a model once on a blank image, to see what its blocks take and return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from cpvt.adapters import adapter_of
from cpvt.config import sides

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


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Evaluates inside; afterwards every part is in training or evaluation mode as before, also after an error."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
