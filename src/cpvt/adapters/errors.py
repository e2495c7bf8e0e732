"""What a model cannot do, as errors of their own.

ValueError
└── CpvtError                   every error of the package that a caller may want to tell from others
    ├── UnsupportedError        the model lacks what was asked for: spatial tokens, attention maps, an encoding
    └── UnsupportedSizeError    the model refuses images of this size
"""

from __future__ import annotations


class CpvtError(ValueError):
    """An error of the package that a caller may want to tell from other ValueErrors."""


class UnsupportedError(CpvtError):
    """The model lacks what was asked for; the message says what is missing."""


class UnsupportedSizeError(CpvtError):
    """The model refuses images of this size; the message is the model's own."""
