"""Positional encodings, their one interface and THE TABLE of them. Imports no torch before it is needed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cpvt.encodings.table import TABLE, Entry

_HOMES = {
    "ModelShape": "base",
    "PEG": "peg",
    "PositionalEncoding": "base",
    "change_encoding": "naming",
    "create_encoding": "naming",
    "describe_encodings": "naming",
    "find_builder": "naming",
    "markdown_table": "naming",
    "parse_encoding": "naming",
}
__all__ = ["TABLE", "Entry", *_HOMES]


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is first used: reports and the command line read TABLE without it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cpvt.encodings' has no attribute '{name}'")
    return getattr(import_module(f"cpvt.encodings.{_HOMES[name]}"), name)


if TYPE_CHECKING:
    from cpvt.encodings.base import ModelShape as ModelShape
    from cpvt.encodings.base import PositionalEncoding as PositionalEncoding
    from cpvt.encodings.naming import change_encoding as change_encoding
    from cpvt.encodings.naming import create_encoding as create_encoding
    from cpvt.encodings.naming import describe_encodings as describe_encodings
    from cpvt.encodings.naming import find_builder as find_builder
    from cpvt.encodings.naming import markdown_table as markdown_table
    from cpvt.encodings.naming import parse_encoding as parse_encoding
    from cpvt.encodings.peg import PEG as PEG
