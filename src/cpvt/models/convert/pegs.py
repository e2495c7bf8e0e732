"""Finds the depth-wise convolutions that models use as positional encoding, and turns each into a PEG."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor, nn

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
from cpvt.models.convert.measure import epsilons, measure
from cpvt.runtime.errors import error_line
from cpvt.runtime.files import write_bytes

Source = nn.Module | Mapping[str, Any] | str | Path
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


class Layer(NamedTuple):
    """A layer to convert: its name, how it uses its convolutions, and those."""

    name: str
    form: Form
    parts: list[Convolution]


def find_pegs(source: Source, prefix: str = "", layout: str = "NLC", eps: float | None = None) -> list[ConvertedPEG]:
    """Turn the positional convolutions of a model into PEGs with the same output; BatchNorm is folded into weights.

    source: a layer, a block or a whole model, its state dict, or a file of one (.safetensors, or torch's with tensors
    alone). Found are the forms of `cpvt.models.convert.forms.TABLE`, by name. A layer that is a convolution and nothing
    else is found without a name. Layers of a module are run on random numbers: that shows residual, causality and
    whether a BatchNorm belongs to it. In a state dict one does that the form names, or that is next in a sequence.
    prefix: only what is named so; there every depth-wise convolution counts where no form is known. An activation after
    it does not show in weights. layout: the PEG's; 'NCHW' for images. eps: BatchNorm's, by default the module's own, in
    a state dict 1e-3 for YOLO and else 1e-5.
    Raises ValueError where nothing is found, naming what there is, and for convolutions that no PEG computes.
    """
    module = source if isinstance(source, nn.Module) else None
    state = source.state_dict() if isinstance(source, nn.Module) else _open(source)
    state = {name: tensor for name, tensor in state.items() if not prefix or name.startswith(f"{prefix}.")}
    own = {} if eps is not None or module is None else epsilons(module)
    converted = []
    for name, form, parts in _layers(state, prefix, module):
        peg = build_peg(state, parts, form if eps is None else form._replace(eps=eps), own, layout)
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
        given = some_names([repr(name) for name in names])
        raise ValueError(f"expected a name for each PEG; got {given}: rename them with _replace(name=...)")
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
            f"'{path}' was not written by `cpvt convert`, or was changed ({error_line(error)}); find_pegs reads "
            "weights of other models"
        ) from error
    return pegs


def _open(source: Mapping[str, Any] | str | Path) -> dict[str, Tensor]:
    return unwrap_checkpoint(read_weights(Path(source)) if isinstance(source, (str, Path)) else source)


def _layers(state: Mapping[str, Tensor], prefix: str, module: nn.Module | None) -> list[Layer]:
    """The layers to convert, as they are run where there is a module; ValueError if there are none."""
    found = find_depthwise(state)
    bare = bool(found) and not set(state) - set(names_of(found))  # nothing but convolutions and their norms
    layers = _known(found, state)
    if module is not None and bare and not (prefix and layers):
        try:
            run = _run(module, Layer(prefix, Form(""), found))
        except ValueError:
            if not layers:  # else it is a block of several things, and a name tells which is positional
                raise
        else:
            if run is not None:
                return [Layer(prefix, run, found)]
    if not layers and (bare or prefix):
        layers = [Layer(each.name, Form(""), [each]) for each in found]
    if not layers:
        raise ValueError(_nothing(state, found, prefix))
    return [_confirmed(each, module) for each in layers]


def _known(found: Sequence[Convolution], state: Mapping[str, Tensor]) -> list[Layer]:
    """The layers of known forms, each with its convolutions; ValueError for one that holds other weights too."""
    layers: dict[str, Layer] = {}
    for each in found:
        for form in TABLE:
            name = form.find(each.name)
            if name is not None:
                layers.setdefault(name, Layer(name, form, [])).parts.append(_within(name, form, each))
                break
    for name, form, parts in layers.values():
        others = {each for each in state if each.startswith(f"{name}.")} - set(names_of(parts))
        if others:
            raise ValueError(
                f"'{name}' is called as in {form.model}, but is more than convolutions with a BatchNorm each: "
                f"{some_names(sorted(others))}"
            )
    return list(layers.values())


def _within(name: str, form: Form, part: Convolution) -> Convolution:
    """A convolution of a layer, with its BatchNorm if that is in the layer too."""
    if part.norm is None or not part.norm.startswith(f"{name}."):
        return Convolution(part.name)
    return part._replace(guessed=part.guessed and part.norm.rpartition(".")[2] != form.norm)


def _run(module: nn.Module, layer: Layer) -> Form | None:
    """What `measure` says of a layer in a module."""
    start = len(layer.name) + bool(layer.name)
    parts = [Convolution(each.name[start:], each.norm and each.norm[start:]) for each in layer.parts]
    return measure(module.get_submodule(layer.name), parts)


def _confirmed(layer: Layer, module: nn.Module | None) -> Layer:
    """A layer, once it was run: the model may add the tokens after it, the layer itself may.

    Without a known call its convolutions are run instead. ValueError where it is not known what comes after them.
    """
    name, form, parts = layer
    run = _run(module, layer) if module is not None and form.model else None
    if run is not None:
        residual = run.residual or form.residual
        return Layer(name, form._replace(residual=residual, causal=run.causal, holds_input=run.holds_input), parts)
    for each in parts:
        if each.guessed or (module is not None and not _in_sequence(module, each, form)):
            raise ValueError(
                f"the BatchNorm '{each.norm}' is next to '{each.name}', and weights do not show whether it comes after "
                "it: give the layer as a module, which is run, or the convolution alone with prefix="
                f"'{each.name}'"
            )
        if module is not None:
            alone = _run(module, Layer(each.name, form, [Convolution(each.name)]))
            if alone is None or (alone.residual and parts != [Convolution(each.name)]):
                raise ValueError(
                    f"neither '{name}' nor '{each.name}' runs as a convolution, so what it computes is not known; a "
                    "state dict is converted by names alone"
                )
            form = form._replace(causal=alone.causal, residual=alone.residual or form.residual)
    return Layer(name, form, parts)


def _in_sequence(module: nn.Module, part: Convolution, form: Form) -> bool:
    """Whether the BatchNorm after a convolution runs next, as the form or a Sequential says; True if there is none."""
    if part.norm is None:
        return True
    parent, _, leaf = part.norm.rpartition(".")
    return leaf == form.norm or isinstance(module.get_submodule(parent), nn.Sequential)


def _nothing(state: Mapping[str, Tensor], found: Sequence[Convolution], prefix: str) -> str:
    """Why nothing was converted, and what there is."""
    if not state:
        return f"there are no weights under '{prefix}'" if prefix else "there are no weights"
    reasons = []
    for pattern, why in REFUSED.items():
        first = next((name for name in state if re.search(pattern, name)), None)
        reasons += [] if first is None else [f"'{first}' makes no PEG: {why}"]
    if found:
        if any(re.search(r"(^|\.)peg(\.\d+)?$", each.name) for each in found):
            return (
                "these are PEGs of cpvt itself: load a run by cpvt.load, a retrofitted model by cpvt.retrofit(model, "
                "...).load_state_dict"
            )
        listed = [f"{each.name} ({kernel_text(state[join(each.name, 'weight')])})" for each in found]
        reasons += [f"no known positional convolution; depth-wise convolutions: {some_names(listed)}"]
        return "; ".join(reasons) + ". To convert one, name it with prefix= (--prefix)"
    mixing = [(name, each.shape) for name, each in state.items() if each.ndim in (3, 4, 5) and each.shape[1] > 1]
    for name, shape in [] if reasons else mixing[:1]:
        reasons.append(f"'{name}' {tuple(shape)} reads {shape[1]} channels for each of its outputs")
    reasons.append("no depth-wise convolution (D, 1, k, ...) with odd k, and a PEG has one kernel for each channel")
    return "; ".join(reasons)
