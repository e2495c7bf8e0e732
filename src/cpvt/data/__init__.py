"""Data sets by name or folder, readable at any height and width."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "Augmentation",
    "BadImageError",
    "Batch",
    "DataSet",
    "Encoded",
    "LoadOptions",
    "SampleSpec",
    "Split",
    "Stream",
    "Transform",
    "check_on_bad_image",
    "check_usable",
    "decode",
    "describe_datasets",
    "load_batches",
    "load_packs",
    "load_plan",
    "load_stream",
    "open_data",
    "open_stream",
    "pixel_limit",
    "with_hint",
]  # fmt: skip

_HOMES = ("base", "decoding", "augmentation", "transform", "loading", "datasets")


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that reports read the table of protocols without torch."""
    for home in _HOMES if name in __all__ else ():
        found = getattr(import_module(f"cpvt.data.{home}"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module 'cpvt.data' has no attribute '{name}'")


if TYPE_CHECKING:
    from cpvt.data.augmentation import Augmentation
    from cpvt.data.base import DataSet, Encoded, Split, Stream
    from cpvt.data.datasets import describe_datasets, open_data, open_stream
    from cpvt.data.decoding import BadImageError, check_usable, decode, pixel_limit, with_hint
    from cpvt.data.loading import (
        Batch,
        LoadOptions,
        SampleSpec,
        check_on_bad_image,
        load_batches,
        load_packs,
        load_plan,
        load_stream,
    )
    from cpvt.data.transform import Transform
