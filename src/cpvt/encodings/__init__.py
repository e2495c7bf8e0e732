"""THE TABLE: every positional encoding by name. A new one is one file here and one line below. Imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple


class Entry(NamedTuple):
    """What the package needs to know of an encoding before it builds one."""

    builder: str
    """ "module:name" of the class, or of a function (shape, **options) -> encoding."""
    colour: str
    """Of its lines in every figure; these are safe for colour-blind readers (Okabe and Ito), PEG's are the two reds."""
    default: bool = True
    """Whether `cpvt compare` trains it when no encodings are named."""
    quick: bool = False
    """Whether `cpvt compare --quick` trains it, too."""


TABLE: dict[str, Entry] = {  # the order of tables and legends
    "none": Entry("cpvt.encodings.none:NoEncoding", "#8c8c8c"),
    "learned": Entry("cpvt.encodings.learned:LearnedEncoding", "#0072b2", quick=True),
    "sincos": Entry("cpvt.encodings.sincos:SinCosEncoding", "#56b4e9"),
    "relative": Entry("cpvt.encodings.relative:RelativeEncoding", "#009e73"),
    "rope": Entry("cpvt.encodings.rope:RotaryEncoding", "#cc79a7", quick=True),
    "peg": Entry("cpvt.encodings.peg:PEGEncoding", "#d55e00", quick=True),
    "peg5": Entry("cpvt.encodings.peg:five_pegs", "#7f2a00"),
}

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
