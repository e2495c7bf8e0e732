"""THE TABLE: every positional encoding by name. A new one is one file here and one line below. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """What the package needs to know of an encoding before it builds one."""

    builder: str
    """ "module:name" of the class, or of a function (shape, **options) -> encoding."""
    groups: tuple[str, ...]
    """Names by which `cpvt compare --encodings` takes several; a group is there once an entry names it."""
    colour: str | None = None
    """Of its lines in every figure; without one, each figure gives it a colour that is free. Those below are safe for
    colour-blind readers (Okabe and Ito), PEG's are the two reds."""
    quick: bool = False
    """Whether `cpvt compare --quick` trains it."""


TABLE: dict[str, Entry] = {  # the order of tables and legends
    "none": Entry("cpvt.encodings.none:NoEncoding", ("paper",), "#8c8c8c"),
    "learned": Entry("cpvt.encodings.learned:LearnedEncoding", ("paper", "absolute"), "#0072b2", quick=True),
    "sincos": Entry("cpvt.encodings.sincos:SinCosEncoding", ("paper", "absolute"), "#56b4e9"),
    "relative": Entry("cpvt.encodings.relative:RelativeEncoding", ("paper", "bias"), "#009e73"),
    "rope": Entry("cpvt.encodings.rope:RotaryEncoding", ("paper", "rotary"), "#cc79a7", quick=True),
    "peg": Entry("cpvt.encodings.peg:PEGEncoding", ("paper", "convolution"), "#d55e00", quick=True),
    "peg5": Entry("cpvt.encodings.peg:five_pegs", ("paper", "convolution"), "#7f2a00"),
}
DEFAULT_GROUP = "paper"  # what `cpvt compare` trains where no encodings are named


def groups() -> dict[str, tuple[str, ...]]:
    """Name of each group -> its encodings, in the order of TABLE; "all" holds every one."""
    names = dict.fromkeys(group for entry in TABLE.values() for group in entry.groups)
    members = {group: tuple(name for name, entry in TABLE.items() if group in entry.groups) for group in names}
    return {"all": tuple(TABLE), **members}
