"""The precision in which a model computes: its weights are cast, or PyTorch casts as it goes where they cannot be."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from cpvt.adapters.base import ERRORS, ModelAdapter
from cpvt.adapters.own import OwnAdapter
from cpvt.config import Precision, Size, sides

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # instructions of x86 and ARM, by torch's names


def in_precision(adapter: ModelAdapter, precision: Precision, sizes: Sequence[Size] = ()) -> ModelAdapter:
    """An adapter whose model computes in a precision; the model that was given stays as it is.

    Under fp32 it is the adapter itself. Else our own models get weights of that precision, and so does a model of
    another library that runs with them at its training size and at each of `sizes` that it takes; where one does not,
    and for a function, it runs under autocast. Logits are float32 in each case. Raises ValueError for an unknown
    precision, and for fp16 on a CPU.
    """
    if precision not in DTYPES:
        raise ValueError(f"precision must be one of {', '.join(DTYPES)}; got '{precision}'")
    check_precision(precision, adapter.device.type == "cpu")
    if precision == "fp32":
        return adapter
    if isinstance(adapter.model, nn.Module):
        cast = replace(adapter, model=copy.deepcopy(adapter.model).to(DTYPES[precision]))
        if isinstance(adapter, OwnAdapter) or _replaces(cast, adapter, sizes):
            return cast
    return replace(adapter, autocast=DTYPES[precision])


def check_precision(precision: Precision, on_cpu: bool) -> None:
    """Raise ValueError for fp16 on a CPU, and warn of bf16 on one that is slower with it than in float32."""
    if precision == "fp16" and on_cpu:
        raise ValueError("--precision fp16 needs a GPU, and this would run on a CPU: choose bf16 or fp32")
    if precision == "bf16" and on_cpu and not any(torch.cpu.get_capabilities().get(name) for name in BF16):
        warnings.warn(
            "this CPU has no bfloat16 instructions, so --precision bf16 is slower here than fp32", stacklevel=3
        )


def precision_of(adapter: ModelAdapter) -> Precision:
    """The precision in which an adapter's model computes, in the words of the options; fp32 also for float64."""
    computed = adapter.autocast or adapter.dtype
    return next((name for name, dtype in DTYPES.items() if dtype == computed), "fp32")


def _replaces(cast: ModelAdapter, adapter: ModelAdapter, sizes: Sequence[Size]) -> bool:
    """Whether a model with cast weights runs wherever the one it was copied from does: one without any does not."""
    known = {sides(size) for size in (adapter.train_size, *sizes) if size is not None}
    return cast.dtype != adapter.dtype and bool(known) and all(_runs(cast, x) or not _runs(adapter, x) for x in known)


def _runs(adapter: ModelAdapter, size: tuple[int, int]) -> bool:
    """Whether a model takes a blank image of a size (height, width)."""
    try:
        adapter.at_size(size)._run(torch.zeros(1, adapter.channels or 3, *size, device=adapter.device), "__call__")
    except ERRORS:
        return False
    return True
