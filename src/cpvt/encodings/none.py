"""No positions at all: the model sees a bag of patches."""

from cpvt.encodings.base import SYMMETRIES, ModelShape, PositionalEncoding


class NoEncoding(PositionalEncoding):
    """No positions: the model sees a bag of patches, the control of every comparison."""

    symmetries = frozenset(SYMMETRIES)

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
