"""Finds the depth-wise convolutions that models use as positional encoding, and turns each into a PEG."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from cpvt import ops
from cpvt.config.base import some_names
from cpvt.encodings import PEG
from cpvt.models.convert.checkpoint import read_weights, unwrap_checkpoint
from cpvt.models.convert.convolutions import (
    Convolution,
    build_peg,
    find_depthwise,
    join,
    kernel_text,
    make_peg,
    names_of,
)
from cpvt.models.convert.forms import REFUSED, TABLE, Form
from cpvt.runtime.errors import error_line
from cpvt.runtime.files import write_bytes

Source = nn.Module | Mapping[str, Any] | str | Path
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
METADATA = "cpvt_pegs"  # key in the header of a safetensors file
USAGE = {
    True: "peg(x, grid)",
    False: "peg.encoding(x, grid)",
    None: "peg(x, grid) if the model adds x to the convolution, else peg.encoding(x, grid)",
}
RESIDUAL = {True: "residual", False: "no residual", None: "residual unknown"}


class ConvertedPEG(NamedTuple):
    """A positional convolution of another model as a PEG, and how that model uses it.

    residual: whether the model adds the tokens to their convolution, so that `peg(x, grid)` is its layer and not
    `peg.encoding(x, grid)`; None where names do not tell. model: whose form it is, or the class of a layer that was
    run; empty where unknown. batch_norm: whether one is folded into the weights.
    """

    name: str
    peg: PEG
    residual: bool | None
    model: str = ""
    batch_norm: bool = False

    @property
    def usage(self) -> str:
        """The call that gives what the model's own layer gives."""
        return USAGE[self.residual]

    def record(self) -> dict[str, Any]:
        """All but the weights, as JSON holds it; kernel: its sides along each axis."""
        sides = list(self.peg.weight.shape[2:])
        return {
            "name": self.name, "kernel": sides, "width": self.peg.dim, "causal": self.peg.causal,
            "residual": self.residual, "batch_norm": self.batch_norm, "model": self.model,
        }  # fmt: skip

    def __str__(self) -> str:
        kernel = f"{kernel_text(self.peg.weight)}, {RESIDUAL[self.residual]}"
        more = ", causal" * self.peg.causal + ", BatchNorm folded" * self.batch_norm
        return f"{self.name or 'the layer'}: {kernel}{more}{f' ({self.model})' * bool(self.model)}: {self.usage}"


def find_pegs(source: Source, prefix: str = "", layout: str = "NLC", eps: float | None = None) -> list[ConvertedPEG]:
    """Turn the positional convolutions of a model into PEGs with the same output; BatchNorm is folded into weights.

    source: a layer, a block or a whole model, its state dict, or a file of one (.safetensors, or torch's with tensors
    alone). Found are the forms of `cpvt.models.convert.forms.TABLE`, by name. A layer that is a convolution and nothing
    else is run on random numbers instead, which shows its residual, and whether it is causal.
    prefix: only what is named so; there every depth-wise convolution counts where no form is known. An activation after
    it does not show in weights. layout: the PEG's; 'NCHW' for images. eps: BatchNorm's, by default the module's own, in
    a state dict 1e-3 for YOLO and else 1e-5.
    Raises ValueError where nothing is found, naming what there is, and for convolutions that no PEG computes.
    """
    module = source if isinstance(source, nn.Module) else None
    state = source.state_dict() if isinstance(source, nn.Module) else _open(source)
    state = {name: tensor for name, tensor in state.items() if not prefix or name.startswith(f"{prefix}.")}
    found = find_depthwise(state)
    bare = bool(found) and not set(state) - set(names_of(found))  # nothing but convolutions and their norms
    layers = _known(found, state)
    run = _measure(module.get_submodule(prefix)) if bare and module is not None and not (prefix and layers) else None
    if run is not None:
        layers = [(prefix, run, found)]
    elif layers and module is not None:
        layers = [(name, _confirmed(module, name, form), parts) for name, form, parts in layers]
    elif (bare or prefix) and not layers:
        layers = [(each.name, Form(""), [each]) for each in found]
    if not layers:
        raise ValueError(_nothing(state, found, prefix))
    own = {} if eps is not None or module is None else _epsilons(module)
    converted = []
    for name, form, parts in layers:
        if module is not None:
            _check(module, parts)
        peg = build_peg(state, parts, form.causal, own, form.eps if eps is None else eps, layout)
        weight = state[join(parts[0].name, "weight")]
        norm = any(each.norm for each in parts)
        converted.append(ConvertedPEG(name, peg.to(weight.device, weight.dtype), form.residual, form.model, norm))
    return converted


def convert_peg(source: Source, prefix: str = "", layout: str = "NLC", eps: float | None = None) -> ConvertedPEG:
    """Turn the one positional convolution of a layer into a PEG, as `find_pegs` does; ValueError if there are more."""
    found = find_pegs(source, prefix, layout, eps)
    if len(found) > 1:
        raise ValueError(
            f"expected one positional convolution; got {some_names([each.name for each in found])}: name one with "
            "prefix=, or take them all with find_pegs"
        )
    return found[0]


def save_pegs(path: Path, pegs: Sequence[ConvertedPEG]) -> None:
    """Write PEGs to a .safetensors file, weights by name and the rest in its header; `load_pegs` reads it."""
    names = [each.name for each in pegs]
    if len(set(names)) < len(names):
        raise ValueError(
            f"expected a name for each PEG; got {some_names(list(map(repr, names)))}: rename them with _replace(name=...)"
        )
    state = {
        join(each.name, name): tensor.contiguous() for each in pegs for name, tensor in each.peg.state_dict().items()
    }
    records = json.dumps([each.record() for each in pegs])
    write_bytes(path, safetensors.torch.save(state, metadata={METADATA: records}))


def load_pegs(path: str | Path, layout: str = "NLC") -> list[ConvertedPEG]:
    """Read the PEGs that `cpvt convert` or `save_pegs` wrote; ValueError for another file."""
    state, pegs = read_weights(Path(path)), []  # by the names as written: 'module.' may be part of one
    try:
        with safetensors.safe_open(path, "pt") as file:
            records = json.loads(file.metadata()[METADATA])
        for each in records:
            weight, bias = state[join(each["name"], "weight")], state.get(join(each["name"], "bias"))
            peg = make_peg(weight, bias, each["causal"], layout)
            pegs.append(ConvertedPEG(each["name"], peg, each["residual"], each["model"], each["batch_norm"]))
    except (safetensors.SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"'{path}' was not written by `cpvt convert`, or was changed ({error_line(error)}); find_pegs reads weights "
            "of other models"
        ) from error
    return pegs


def _open(source: Mapping[str, Any] | str | Path) -> dict[str, Tensor]:
    return unwrap_checkpoint(read_weights(Path(source)) if isinstance(source, (str, Path)) else source)


def _known(found: Sequence[Convolution], state: Mapping[str, Tensor]) -> list[tuple[str, Form, list[Convolution]]]:
    """The layers of known forms, each with its convolutions; ValueError for one that holds other weights too."""
    layers: dict[str, tuple[str, Form, list[Convolution]]] = {}
    for each in found:
        for form in TABLE:
            name = form.find(each.name)
            if name is not None:
                layers.setdefault(name, (name, form, []))[2].append(each)
                break
    for name, form, parts in layers.values():
        others = {each for each in state if each.startswith(f"{name}.")} - set(names_of(parts))
        if others:
            raise ValueError(
                f"'{name}' is called as in {form.model}, but is more than convolutions with a BatchNorm each: "
                f"{some_names(sorted(others))}"
            )
    return list(layers.values())


def _epsilons(module: nn.Module) -> dict[str, float]:
    """The epsilon of every BatchNorm in a module."""
    return {name: float(each.eps) for name, each in module.named_modules() if hasattr(each, "running_mean")}


def _check(module: nn.Module, parts: Sequence[Convolution]) -> None:
    """Refuse what weights do not show: strides, dilation, other borders."""
    for each in parts:
        layer = module.get_submodule(each.name)
        plain = isinstance(layer, CONVOLUTIONS) and {*layer.stride, *layer.dilation} == {1}
        if isinstance(layer, CONVOLUTIONS) and not (plain and layer.padding_mode == "zeros"):
            raise ValueError(
                "a PEG keeps the grid and sees zeros beyond it, so the convolution's stride and dilation must be 1 and "
                f"its padding_mode 'zeros'; got {layer}"
            )


def _confirmed(module: nn.Module, name: str, form: Form) -> Form:
    """The form of a layer in a module, once it was run: the model may add the tokens after it, the layer itself may."""
    run = _measure(module.get_submodule(name))
    return form if run is None else form._replace(residual=form.residual or run.residual, causal=run.causal)


@torch.no_grad()
def _measure(layer: nn.Module) -> Form | None:
    """The form of a layer, by its output on random numbers; None if no call is known, ValueError if it is no PEG's."""
    trial = copy.deepcopy(layer).to("cpu", torch.float64).eval()
    state, generator = trial.state_dict(), torch.Generator().manual_seed(0)
    parts, own = find_depthwise(state), _epsilons(trial)
    _check(trial, parts)
    weight, called = state[join(parts[0].name, "weight")], False
    image = torch.randn(1, len(weight), *[5] * (weight.ndim - 2), generator=generator, dtype=torch.float64)
    pegs = [build_peg(state, parts, causal, own, 0) for causal in (False, True)]
    for output in _outputs(trial, image):
        called = True
        for peg in pegs:
            for residual in (True, False):
                ours = ops.convolve(image, peg.kernel(), peg.bias, residual=residual, causal=peg.causal)
                if output.shape == ours.shape and torch.allclose(output, ours, atol=1e-9):
                    return Form(type(layer).__name__, residual=residual, causal=peg.causal)
    if called:
        raise ValueError(
            f"on random numbers {type(layer).__name__} gives neither its convolution nor that plus its input: an "
            "activation, a factor, another stride or padding, or layers one after the other? A PEG has none of these"
        )
    return None


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


def _nothing(state: Mapping[str, Tensor], found: Sequence[Convolution], prefix: str) -> str:
    """Why nothing was converted, and what there is."""
    if not state:
        return f"there are no weights under '{prefix}'" if prefix else "there are no weights"
    reasons = []
    for pattern, why in REFUSED.items():
        first = next((name for name in state if re.search(pattern, name)), None)
        reasons += [] if first is None else [f"'{first}' makes no PEG: {why}"]
    if found:
        listed = [f"{each.name} ({kernel_text(state[join(each.name, 'weight')])})" for each in found]
        reasons += [f"no known positional convolution; depth-wise convolutions: {some_names(listed)}"]
        return "; ".join(reasons) + ". To convert one, name it with prefix= (--prefix)"
    mixing = [(name, each.shape) for name, each in state.items() if each.ndim in (3, 4, 5) and each.shape[1] > 1]
    for name, shape in [] if reasons else mixing[:1]:
        reasons.append(f"'{name}' {tuple(shape)} reads {shape[1]} channels for each of its outputs")
    reasons.append("no depth-wise convolution (D, 1, k, ...) with odd k, and a PEG has one kernel for each channel")
    return "; ".join(reasons)
