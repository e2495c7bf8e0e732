"""No positions at all: the model sees a bag of patches."""

from cpvt.encodings.base import ModelShape, PositionalEncoding


class NoEncoding(PositionalEncoding):
    """No positions: the model sees a bag of patches, the control of every comparison."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
