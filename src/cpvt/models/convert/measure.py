"""Runs a layer on random numbers: its residual, its borders and its norms do not show in weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from cpvt import ops
from cpvt.models.convert.convolutions import Convolution, build_peg, join
from cpvt.models.convert.forms import REPARAM, Form

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CLOSE = 1e-9  # absolute and relative, in float64


def epsilons(module: nn.Module) -> dict[str, float]:
    """The epsilon of every BatchNorm in a module."""
    return {name: float(each.eps) for name, each in module.named_modules() if hasattr(each, "running_mean")}


@torch.no_grad()
def measure(layer: nn.Module, parts: Sequence[Convolution]) -> Form | None:
    """The form of a layer, by its output on random numbers; None if no call is known, ValueError if it is no PEG's.

    parts: its convolutions with their norms, named within the layer. A copy with random weights is run: zeros would
    hide an activation, and a norm that was never trained changes nothing.
    """
    trial = copy.deepcopy(layer).to("cpu", torch.float64).eval()
    _check(trial, parts)
    state, generator, called = trial.state_dict(), torch.Generator().manual_seed(0), False
    for name, tensor in state.items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(values.abs() + 0.1 if name.endswith("running_var") else values)
    weight = state[join(parts[0].name, "weight")]
    image = torch.randn(1, len(weight), *[5] * (weight.ndim - 2), generator=generator, dtype=torch.float64)
    leaves = [""] if all(each.name.rpartition(".")[2] != REPARAM for each in parts) else [REPARAM, ""]
    forms = [Form(type(layer).__name__, holds_input=leaf, causal=causal) for leaf in leaves for causal in (False, True)]
    pegs = [build_peg(state, parts, form, epsilons(trial)) for form in forms]
    for output in _outputs(trial, image):
        called = True
        for (form, peg), residual in product(zip(forms, pegs), (True, False)):
            ours = ops.convolve(image, peg.kernel(), peg.bias, residual=residual, causal=peg.causal)
            if output.shape == ours.shape and torch.allclose(output, ours, atol=CLOSE, rtol=CLOSE):
                return form._replace(residual=residual)
    if called:
        raise ValueError(
            f"on random numbers {type(layer).__name__} gives neither its convolution nor that plus its input: an "
            "activation, a factor, another stride or padding, or layers one after the other? A PEG has none of these"
            + (f"; got {layer}" if isinstance(layer, CONVOLUTIONS) else "")
        )
    return None


def _check(module: nn.Module, parts: Sequence[Convolution]) -> None:
    """Refuse what the options of a convolution tell: strides, dilation, other borders, other channels."""
    for each in parts:
        layer = module.get_submodule(each.name)
        if not isinstance(layer, CONVOLUTIONS):
            continue
        if {*layer.stride, *layer.dilation} != {1} or layer.padding_mode != "zeros":
            raise ValueError(
                "a PEG keeps the grid and sees zeros beyond it, so the convolution's stride and dilation must be 1 and "
                f"its padding_mode 'zeros'; got {layer}"
            )
        if len({layer.in_channels, layer.out_channels, layer.groups}) > 1:
            raise ValueError(
                "a PEG has one kernel for each channel, so the convolution's in_channels, out_channels and groups must "
                f"be equal; got {layer}"
            )


def _outputs(layer: nn.Module, image: Tensor) -> Iterator[Tensor]:
    """What a layer gives for an image (1, D, ...), called in each way that layers are called, where it takes that."""
    grid, last = tuple(image.shape[2:]), image.movedim(1, -1)
    tokens = last.flatten(1, -2)  # (1, N, D)
    calls: list[tuple[Tensor, tuple[Any, ...], int]] = [(image, (), 0), (last, (), 0)]
    for prefix in (0, 1):  # a class token first
        given = torch.cat([tokens[:, :prefix], tokens], dim=1)
        calls += [(given, where, prefix) for where in ((), (grid,), grid)]
    for given, where, prefix in calls:
        try:
            output = layer(given, *where)
            if given is not image:
                output = output[:, prefix:].reshape(last.shape).movedim(-1, 1)
        except Exception:  # whatever it is, the layer is called in another way
            continue
        if isinstance(output, Tensor):
            yield output
