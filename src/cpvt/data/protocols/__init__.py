"""THE TABLE: every protocol to test by, by name. A new one is one file here and one line below. Imports no torch."""

from __future__ import annotations

from cpvt.data.protocols.base import Protocol
from cpvt.data.protocols.canvas import Canvas
from cpvt.data.protocols.native import Native
from cpvt.data.protocols.resize import Resize
from cpvt.data.protocols.training import Crop, NativeMirrored, ResizedCrop

__all__ = [
    "AUGMENTS",
    "TABLE",
    "TRAINING",
    "Protocol",
    "describe",
    "describe_protocols",
    "find_protocol",
    "keeps_sizes",
    "options_read",
]

TABLE: dict[str, type[Protocol]] = {"canvas": Canvas, "resize": Resize, "native": Native}
TRAINING: dict[str, type[Protocol]] = {"resized-crop": ResizedCrop, "crop": Crop, "native-mirrored": NativeMirrored}
AUGMENTS = {"none": "canvas", "native": "native-mirrored"}  # words of --augment for protocols of another name


def find_protocol(name: str) -> type[Protocol]:
    """The class of a protocol to test or train by; ValueError for a name that neither table has."""
    found = TABLE.get(name) or TRAINING.get(name)
    if found is None:
        known = ", ".join(dict.fromkeys((*TABLE, *TRAINING, *AUGMENTS)))
        raise ValueError(f"unknown protocol or augmentation '{name}'; known: {known}")
    return found


def keeps_sizes(augment: str | None) -> bool:
    """Whether training images keep their own sizes under this `--augment`; None stands for the data set's own."""
    return augment is not None and not find_protocol(AUGMENTS.get(augment, augment)).stacks


def options_read(name: str) -> tuple[str, ...]:
    """Which options of the transform have an effect under a protocol; none under one of a later version."""
    return TABLE[name].reads if name in TABLE else ()


def describe(name: str) -> str:
    """A protocol as figures, tables and pages call it; its name alone for one of a later version."""
    return f"{name}: {TABLE[name].title}" if name in TABLE else name


def describe_protocols() -> dict[str, str]:
    """Name -> one line for a newcomer."""
    return {name: protocol.title for name, protocol in TABLE.items()}
