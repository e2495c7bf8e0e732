"""THE TABLE of test protocols, by name. A new one is one file here and one line below. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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
    "check_protocols",
    "check_read",
    "describe",
    "describe_protocols",
    "find_protocol",
    "keeps_sizes",
    "options_read",
]

TABLE: dict[str, type[Protocol]] = {"canvas": Canvas, "resize": Resize, "native": Native}
TRAINING: dict[str, type[Protocol]] = {"resized-crop": ResizedCrop, "crop": Crop, "native-mirrored": NativeMirrored}
AUGMENTS = {"none": "canvas", "native": "native-mirrored"}  # names of --augment for protocols with another name
OPTIONS = {  # what a protocol may read of the transform -> the option that sets it
    "crop_ratio": "crop_pct",
    "interpolation": "interpolation",
    "longest_side": "longest_side",
}


def find_protocol(name: str) -> type[Protocol]:
    """The class of a test or training protocol; ValueError for an unknown name."""
    found = TABLE.get(name) or TRAINING.get(name)
    if found is None:
        known = ", ".join(dict.fromkeys((*TABLE, *TRAINING, *AUGMENTS)))
        raise ValueError(f"unknown protocol or augmentation '{name}'; known: {known}")
    return found


def check_protocols(names: Sequence[str], to_compare: bool = False) -> None:
    """Raise ValueError for a name that is no test protocol, or where there are none; to_compare: for comparisons."""
    known = [name for name, each in TABLE.items() if each.multiples or not to_compare]
    for name in names or ("none",):
        if name not in known:
            raise ValueError(f"protocols must be among {', '.join(known)}; got '{name}'")


def keeps_sizes(augment: str | None) -> bool:
    """Whether training images keep their own sizes under this `--augment`; None is the data set's default."""
    return augment is not None and not find_protocol(AUGMENTS.get(augment, augment)).stacks


def options_read(name: str) -> tuple[str, ...]:
    """Which options of the transform have an effect under a protocol; none under an unknown one."""
    return TABLE[name].reads if name in TABLE else ()


def check_read(changed: Collection[str], protocols: Sequence[str]) -> None:
    """Raise ValueError for changes of the transform that none of the protocols reads, by the names of their options."""
    read = {name for each in protocols for name in options_read(each)}
    unread = [option for name, option in OPTIONS.items() if name in changed and name not in read]
    if unread:
        raise ValueError(f"under {' and '.join(protocols)} {' and '.join(unread)} has no effect; leave it out")


def describe(name: str) -> str:
    """The title of a protocol in figures, tables and pages; its name alone for an unknown one."""
    return f"{name}: {TABLE[name].title}" if name in TABLE else name


def describe_protocols() -> dict[str, str]:
    """Name -> one line for a newcomer."""
    return {name: protocol.title for name, protocol in TABLE.items()}
