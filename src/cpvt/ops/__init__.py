"""Positional encoding generation as plain functions of tensors; needs torch alone."""

from cpvt.ops.dense import CONVOLUTIONS, PADDING_MODES, convolve, identity_kernel, peg

__all__ = ["CONVOLUTIONS", "PADDING_MODES", "convolve", "identity_kernel", "peg"]
