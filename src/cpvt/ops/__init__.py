"""Positional encoding generation as plain functions of tensors; needs torch alone."""

from cpvt.ops.dense import PADDING_MODES, convolve, peg

__all__ = ["PADDING_MODES", "convolve", "peg"]
