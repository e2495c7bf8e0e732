"""Conditional positional encodings for vision transformers that work on pictures of any size."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "PEG": "cpvt.encodings",
    "create_model": "cpvt.models",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cpvt' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from cpvt.encodings import PEG as PEG
    from cpvt.models import create_model as create_model
