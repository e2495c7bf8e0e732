"""Subclasses that a retrofit makes of other libraries' classes: with a scale rule, or with a fading table."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from cpvt.config.scale import ScaleRule, parse_scale

SHARE = "peg_absolute_share"  # name of the buffer that holds the factor of the absolute table


@functools.cache
def changed_class(kind: Any, table: str = "", takes_scale: bool = False) -> Any:
    """A subclass of `kind` with a fading table of that name, and for a whole model the attribute `scale`."""

    def reduce(module: Any) -> tuple[Any, ...]:
        return _rebuild, (kind, table, takes_scale), module.__dict__

    def read(model: Any) -> ScaleRule:
        rule: ScaleRule = model.retrofitted["scale"]
        return rule

    def write(model: Any, rule: ScaleRule) -> None:
        model.retrofitted["scale"] = parse_scale(rule)

    own: dict[str, Any] = {"__doc__": kind.__doc__, "__module__": kind.__module__, "__reduce__": reduce}
    own |= _fading(kind, table) if table else {}
    own |= {"scale": property(read, write)} if takes_scale else {}
    return type(kind.__name__, (kind,), own)


def _fading(kind: Any, name: str) -> dict[str, Any]:
    """What a subclass of `kind` needs, whose table is multiplied by its factor wherever the model reads it.

    A property is needed because timm reads the table outside of `forward`, where hooks do not run; parametrize would
    rename the parameter. Underneath, the parameter keeps its name and values, so checkpoints and optimisers still fit.
    """

    def read(module: Any) -> Tensor:
        table, share = module._parameters[name], getattr(module, SHARE)
        rows = module.peg_table_prefix
        return torch.cat([table[:, :rows], table[:, rows:] * share], dim=1) if rows else table * share

    def write(module: Any, table: nn.Parameter) -> None:
        module._parameters[name] = table

    def set_input_size(module: Any, *args: Any, **options: Any) -> None:  # timm's: reads the table, writes it resized
        share = getattr(module, SHARE).clone()
        getattr(module, SHARE).fill_(1)
        kind.set_input_size(module, *args, **options)
        getattr(module, SHARE).copy_(share)

    own: dict[str, Any] = {name: property(read, write)}
    return own | ({"set_input_size": set_input_size} if hasattr(kind, "set_input_size") else {})


def _rebuild(kind: Any, table: str, takes_scale: bool) -> Any:
    """An empty module of the subclass, for copies and pickles to fill."""
    changed = changed_class(kind, table, takes_scale)
    return changed.__new__(changed)
