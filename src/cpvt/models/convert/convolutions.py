"""Depth-wise convolutions among the weights of a model, with the BatchNorm after each, and PEGs made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cpvt import ops
from cpvt.config.base import some_names
from cpvt.encodings import PEG
from cpvt.models.convert.forms import Form

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class Convolution(NamedTuple):
    """A depth-wise convolution among weights: its name, and that of the BatchNorm after it."""

    name: str
    norm: str | None = None
    guessed: bool = False  # the BatchNorm is next to it, and whether it comes after it is not known


def join(name: str, part: str) -> str:
    """The name of a part of what is called so; '' stands for the module itself."""
    return f"{name}.{part}" if name else part


def kernel_text(weight: Tensor) -> str:
    """Kernel and width of a depth-wise convolution, in words."""
    return f"{'x'.join(map(str, weight.shape[2:]))} kernel, {weight.shape[0]} channels"


def find_depthwise(state: Mapping[str, Tensor]) -> list[Convolution]:
    """The depth-wise convolutions among weights whose kernels have odd sides and see neighbours."""
    found = []
    for name, tensor in state.items():
        *_, leaf = name.split(".")
        if leaf != "weight" or tensor.ndim not in (3, 4, 5) or tensor.shape[1] != 1:
            continue
        if max(tensor.shape[2:]) > 1 and all(side % 2 for side in tensor.shape[2:]):
            stem = name.removesuffix("weight").removesuffix(".")
            found.append(_with_norm(state, stem))
    return found


def _with_norm(state: Mapping[str, Tensor], stem: str) -> Convolution:
    """A convolution and the BatchNorm after it: the next of a sequence, or, guessed, one next to it."""
    parent, _, leaf = stem.rpartition(".")
    width, beside = state[join(stem, "weight")].shape[:1], []
    for name, tensor in state.items():
        norm, _, last = name.rpartition(".")
        if last == "running_mean" and tensor.shape == width and norm.rpartition(".")[0] == parent:
            beside.append(norm)
    if leaf.isdecimal():
        following = join(parent, str(int(leaf) + 1))
        return Convolution(stem, following if following in beside else None)
    beside.sort(key=lambda norm: norm != join(parent, leaf.replace("conv", "bn")))
    return Convolution(stem, beside[0], guessed=True) if beside else Convolution(stem)


def names_of(found: Sequence[Convolution]) -> Iterator[str]:
    """The names of all weights of some convolutions and their norms."""
    for each in found:
        yield from (join(each.name, "weight"), join(each.name, "bias"))
        if each.norm is not None:
            yield from (f"{each.norm}.{part}" for part in BATCH_NORM)


def _folded(
    state: Mapping[str, Tensor], convolution: Convolution, form: Form, own: Mapping[str, float]
) -> tuple[Tensor, Tensor | None]:
    """Kernel and bias of a convolution with its BatchNorm, in float64: rounded once, where the result is stored."""
    name, norm, _ = convolution
    wide = {each: state[each].to("cpu", torch.float64) for each in names_of([convolution]) if each in state}
    kernel, bias = wide[join(name, "weight")], wide.get(join(name, "bias"))
    if form.holds_input and name.rpartition(".")[2] == form.holds_input:
        kernel = kernel - ops.identity_kernel(kernel)
    if norm is None:
        return kernel, bias
    mean, gain = wide[f"{norm}.running_mean"], (wide[f"{norm}.running_var"] + own.get(norm, form.eps)).rsqrt()
    gain = gain * wide.get(f"{norm}.weight", 1)
    shifted = (-mean if bias is None else bias - mean) * gain + wide.get(f"{norm}.bias", 0)
    return kernel * gain.view(-1, *[1] * (kernel.ndim - 1)), shifted


def build_peg(
    state: Mapping[str, Tensor], parts: Sequence[Convolution], form: Form, own: Mapping[str, float], layout: str = "NLC"
) -> PEG:
    """The PEG of one layer in float64, its kernels summed to one.

    own: the epsilon of each BatchNorm; the form's where it is not known.
    """
    kernels, biases = zip(*(_folded(state, each, form, own) for each in parts))
    if len({(kernel.ndim, len(kernel)) for kernel in kernels}) > 1:
        raise ValueError(
            f"expected one layer; got several of other widths, {some_names([each.name for each in parts])}"
        )
    ordered = sorted(kernels, key=lambda kernel: kernel.shape, reverse=True)
    sides = [tuple(kernel.shape[2:]) for kernel in ordered]
    several = PEG(len(ordered[0]), sides, dims=len(sides[0]), causal=form.causal, bias=False, device="meta")
    names = ["weight", *(f"smaller.{number}" for number in range(len(ordered) - 1))]
    several.load_state_dict(dict(zip(names, ordered)), assign=True)
    shifts = [bias for bias in biases if bias is not None]
    return make_peg(several.kernel().detach(), sum(shifts[1:], shifts[0]) if shifts else None, form.causal, layout)


def make_peg(kernel: Tensor, bias: Tensor | None, causal: bool, layout: str) -> PEG:
    """A PEG of these weights; made without drawing others first, which would move the random state."""
    sides = tuple(kernel.shape[2:])
    how = dict(dims=len(sides), causal=causal, layout=layout, bias=bias is not None)
    peg = PEG(len(kernel), (sides,), **how, device="meta")  # type: ignore[arg-type]
    state = {"weight": kernel} if bias is None else {"weight": kernel, "bias": bias}
    peg.load_state_dict({name: tensor.clone() for name, tensor in state.items()}, assign=True)
    return peg
