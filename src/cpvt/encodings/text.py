"""Encodings as text, such as "learned+peg(at=(1, 2))": names and options. Imports no torch."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Sequence
from typing import Any

from cpvt.encodings.table import TABLE, groups

COLON = ".__of__."  # stands for the colon of "module:Class" while Python's parser reads the rest


def split_encoding(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and options of the encodings of a sum; ValueError for a name that is neither in TABLE nor module:Class."""
    try:
        node: ast.expr = ast.parse(re.sub(r"\b([\w.]+):([\w.]+)", rf"\1{COLON}\2", text), mode="eval").body
    except SyntaxError as error:
        raise ValueError(unknown_encoding(text)) from error
    terms: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        terms.insert(0, node.right)
        node = node.left
    return [_split_term(term) for term in [node, *terms]]


def _split_term(term: ast.expr) -> tuple[str, dict[str, Any]]:
    called = term if isinstance(term, ast.Call) else None
    name_node = called.func if called else term
    name = ast.unparse(name_node).replace(COLON, ":")
    if not isinstance(name_node, (ast.Name, ast.Attribute)) or (name not in TABLE and ":" not in name):
        raise ValueError(unknown_encoding(ast.unparse(term).replace(COLON, ":")))
    if called is None:
        return name, {}
    if called.args:
        raise ValueError(f"encoding '{name}' does not take options without a name; write them as in peg(at=(1, 2))")
    try:
        return name, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in called.keywords}
    except ValueError as error:
        raise ValueError(
            f"options of '{name}' must be plain numbers, texts in quotes, tuples or dictionaries of them"
        ) from error


def write_term(name: str, options: dict[str, Any]) -> str:
    """One encoding of a sum as text, which `split_encoding` reads."""
    return name + (f"({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else "")


def expand_groups(texts: Sequence[str]) -> tuple[str, ...]:
    """The encodings, with the names of groups replaced by their members; each once, in the order given."""
    known = groups()
    return tuple(dict.fromkeys(_respelled(name) for text in texts for name in known.get(text, (text,))))


def _respelled(text: str) -> str:
    """An encoding as all its spellings are written, with the same spaces and quotes; an unknown one as it is."""
    try:
        terms = split_encoding(text)
    except ValueError:  # which building it says, with what it is for
        return text
    return "+".join(write_term(name, options) for name, options in terms)


def unknown_encoding(text: str) -> str:
    """The message for a name that is not in TABLE."""
    known = groups()
    members = known.get(text.partition("(")[0])
    if members:
        return (
            f"'{text}' is a group of encodings, which only `cpvt compare --encodings` takes, alone and without options"
            f"; name one of it here: {', '.join(members)}"
        )
    near = difflib.get_close_matches(text.partition("(")[0], (*TABLE, *known), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (
        f"unknown encoding '{text}'{hint}; known: {', '.join(TABLE)}, sums such as learned+peg, "
        "options as in peg(at=(1, 2)), one's own as mypackage.module:MyEncoding; "
        f"groups for `cpvt compare`: {', '.join(known)}"
    )
