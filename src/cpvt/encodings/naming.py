"""Builds encodings by name ("peg(at=(1, 2))", "learned+peg", "mypackage.module:MyEncoding") or from a class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from operator import attrgetter
from typing import Any

from torch import nn

from cpvt.config import encoding_name
from cpvt.encodings.base import HOOKS, ModelShape, PositionalEncoding
from cpvt.encodings.compose import SumEncoding
from cpvt.encodings.table import TABLE
from cpvt.encodings.text import split_encoding, unknown_encoding, write_term

Builder = Callable[..., PositionalEncoding]  # (shape, **options) -> encoding


def create_encoding(what: str | Builder | PositionalEncoding, shape: ModelShape) -> PositionalEncoding:
    """Build an encoding for a model of this shape, by name or from a class of one's own.

    what: a name with options, or a sum, such as "peg", "peg(at=(1, 2), kernel_size=5)", "learned+peg"; an encoding from
    outside the package as "mypackage.module:MyEncoding"; a class or function that takes the shape; or an instance,
    which is used as it is. Raises ValueError for an unknown name or option, listing the known ones, or for a model
    that the encoding does not fit.
    """
    if isinstance(what, PositionalEncoding):
        return _checked(what, type(what).__name__)
    if not isinstance(what, str):
        _check_builder(what, encoding_name(what))
        return _checked(what(shape), encoding_name(what))
    parts = [_checked(find_builder(name)(shape, **options), name) for name, options in parse_encoding(what)]
    return parts[0] if len(parts) == 1 else SumEncoding(parts)


def is_named(what: str | Builder | PositionalEncoding) -> bool:
    """Whether a name says how the encoding is built; no instance, partial or lambda has one."""
    return isinstance(what, str) or "<lambda>" not in getattr(what, "__qualname__", "<lambda>")


def _checked(encoding: Any, name: str) -> PositionalEncoding:
    if not isinstance(encoding, PositionalEncoding):
        raise ValueError(f"'{name}' must build a cpvt.PositionalEncoding; it gave {type(encoding).__name__}")
    if not encoding.active_hooks and "permutation" not in encoding.symmetries:
        raise ValueError(
            f"'{name}' overrides none of {', '.join(HOOKS)}, so it encodes nothing: is one of its methods misspelt? "
            "Where that is meant, declare symmetries = frozenset({'permutation'})"
        )
    if "tokens" in encoding.active_hooks and not encoding.at:
        raise ValueError(
            f"'{name}' overrides `tokens`, which is never called as `at` is empty: set at = (0,) for the patch "
            "embeddings, (1,) for after block 1, ..."
        )
    return encoding


def find_builder(name: str) -> Builder:
    """The class or function behind a name of TABLE or "module:Class"; ValueError where it cannot be imported."""
    module, colon, attribute = (TABLE[name].builder if name in TABLE else name).partition(":")
    if not colon:
        raise ValueError(unknown_encoding(name))
    try:
        found: Builder = attrgetter(attribute)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the encoding '{name}' cannot be imported here ({error}); install its package, or put its folder on "
            "PYTHONPATH"
        ) from error
    _check_builder(found, name)
    return found


def _check_builder(found: Any, name: str) -> None:
    """Raise ValueError for what cannot build an encoding."""
    if isinstance(found, (list, tuple)):
        raise ValueError(f"several encodings are one text, joined by +, such as 'rope+peg'; got {found!r}")
    if not callable(found):
        raise ValueError(f"'{name}' must be a class or a function that builds an encoding; got {type(found).__name__}")
    if isinstance(found, type) and issubclass(found, nn.Module) and not issubclass(found, PositionalEncoding):
        raise ValueError(
            f"'{name}' must be a subclass of cpvt.PositionalEncoding, which is built from the shape of the model; the "
            "layer cpvt.PEG is for models of your own, and the encoding of ours is 'peg'"
        )


def parse_encoding(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Split "learned+peg(at=1)" into [("learned", {}), ("peg", {"at": 1})]; names and options are checked."""
    terms = split_encoding(text)
    for name, options in terms:
        known = [parameter for parameter in inspect.signature(find_builder(name)).parameters if parameter != "shape"]
        unknown = [option for option in options if option not in known]
        if unknown:
            listed = ", ".join(known) or "none at all"
            raise ValueError(f"encoding '{name}' does not take option '{unknown[0]}'; known options: {listed}")
    return terms


def change_encoding(
    encoding: PositionalEncoding, text: str, change: Callable[[PositionalEncoding], dict[str, Any]]
) -> str:
    """Change each encoding of a sum, by `set_grid` or `prune`; returns the text that now describes them."""
    parts, named = encoding.encodings() if isinstance(encoding, SumEncoding) else [encoding], split_encoding(text)
    described = len(parts) == len(named)  # else a builder of one's own makes a sum, whose text stays as it is
    terms = []
    for part, (name, options) in zip(parts, named if described else [("none", {}) for _ in parts]):
        options |= change(part)
        if "at" in options:
            name = "peg" if name == "peg5" else name  # peg5 takes no `at`
            name, options = (name, options) if options["at"] else ("none", {})
        terms.append(write_term(name, options))
    encoding.at = tuple(sorted({depth for part in parts for depth in part.at}))
    return "+".join(terms) if described else text


def describe_encodings() -> dict[str, str]:
    """Name -> one line for a newcomer, from the first line of each docstring."""
    return {name: (inspect.getdoc(find_builder(name)) or "").splitlines()[0] for name in TABLE}


def markdown_table() -> str:
    """The encodings as a table in Markdown."""
    lines = [f"| `{name}` | {words} |" for name, words in describe_encodings().items()]
    return "\n".join(["| name | what it does |", "|---|---|", *lines])
