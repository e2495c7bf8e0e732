"""THE TABLE: every positional encoding by name. A new one is one file here and one line below."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

from cpvt.encodings.base import ModelShape, PositionalEncoding
from cpvt.encodings.compose import SumEncoding
from cpvt.encodings.learned import LearnedEncoding
from cpvt.encodings.none import NoEncoding
from cpvt.encodings.peg import PEG, PEGEncoding, five_pegs
from cpvt.encodings.relative import RelativeEncoding
from cpvt.encodings.rope import RotaryEncoding
from cpvt.encodings.sincos import SinCosEncoding

TABLE: dict[str, Callable[..., PositionalEncoding]] = {
    "none": NoEncoding,
    "learned": LearnedEncoding,
    "sincos": SinCosEncoding,
    "relative": RelativeEncoding,
    "rope": RotaryEncoding,
    "peg": PEGEncoding,
    "peg5": five_pegs,
}

__all__ = [
    "PEG",
    "TABLE",
    "ModelShape",
    "PositionalEncoding",
    "change_encoding",
    "create_encoding",
    "describe_encodings",
    "markdown_table",
    "parse_encoding",
]


def create_encoding(text: str, shape: ModelShape) -> PositionalEncoding:
    """Build what `text` names for a model of this shape: "peg", "peg(at=(1, 2), kernel_size=5)", "learned+peg".

    Raises ValueError for a name or an option that does not exist (the known ones are listed), or for a model that
    the encoding does not fit.
    """
    parts = [TABLE[name](shape, **options) for name, options in parse_encoding(text)]
    return parts[0] if len(parts) == 1 else SumEncoding(parts)


def change_encoding(
    encoding: PositionalEncoding, text: str, change: Callable[[PositionalEncoding], dict[str, Any]]
) -> str:
    """Change each encoding of a sum, by `set_grid` or `prune`; returns the text that now describes them."""
    parts = encoding.encodings() if isinstance(encoding, SumEncoding) else [encoding]
    terms = []
    for part, (name, options) in zip(parts, parse_encoding(text)):
        options |= change(part)
        if "at" in options:
            name, options = ("peg", options) if options["at"] else ("none", {})  # peg5 takes no `at`
        terms.append(name + (f"({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else ""))
    encoding.at = tuple(sorted({depth for part in parts for depth in part.at}))
    return "+".join(terms)


def parse_encoding(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Split "learned+peg(at=1)" into [("learned", {}), ("peg", {"at": 1})]; names and options are checked."""
    try:
        node: ast.expr = ast.parse(text, mode="eval").body
        terms: list[ast.expr] = []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            terms.insert(0, node.right)
            node = node.left
        return [_parse_term(term) for term in [node, *terms]]
    except SyntaxError as error:
        raise ValueError(_unknown(text)) from error


def _parse_term(term: ast.expr) -> tuple[str, dict[str, Any]]:
    name_node = term.func if isinstance(term, ast.Call) else term
    if not isinstance(name_node, ast.Name) or name_node.id not in TABLE:
        raise ValueError(_unknown(ast.unparse(term)))
    name = name_node.id
    if not isinstance(term, ast.Call):
        return name, {}
    known = [parameter for parameter in inspect.signature(TABLE[name]).parameters if parameter != "shape"]
    unknown = [keyword.arg for keyword in term.keywords if keyword.arg not in known]
    if term.args or unknown:
        given = "options without a name" if term.args else f"option '{unknown[0]}'"
        raise ValueError(f"encoding '{name}' does not take {given}; known options: {', '.join(known) or 'none at all'}")
    try:
        return name, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in term.keywords}
    except ValueError as error:
        raise ValueError(
            f"options of '{ast.unparse(term)}' must be plain numbers, texts in quotes or tuples"
        ) from error


def describe_encodings() -> dict[str, str]:
    """Name -> one line for a newcomer, from the first line of each docstring."""
    return {name: (inspect.getdoc(build) or "").splitlines()[0] for name, build in TABLE.items()}


def markdown_table() -> str:
    """The encodings as the README's table."""
    lines = [f"| `{name}` | {words} |" for name, words in describe_encodings().items()]
    return "\n".join(["| name | what it does |", "|---|---|", *lines])


def _unknown(text: str) -> str:
    return (
        f"unknown encoding '{text}'; known: {', '.join(TABLE)}, sums such as learned+peg, options as in peg(at=(1, 2))"
    )
