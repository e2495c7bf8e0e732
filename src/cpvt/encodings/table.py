"""THE TABLE: every positional encoding by name. A new one is one file here and one line below. Imports no torch."""

from __future__ import annotations

from typing import NamedTuple


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
