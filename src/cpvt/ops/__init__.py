"""Positional encoding generation as plain functions of tensors; needs torch alone (on GPUs, Triton where it is)."""

from cpvt.ops.dense import CONVOLUTIONS, PADDING_MODES, convolve, identity_kernel
from cpvt.ops.forms import peg
from cpvt.ops.packed import peg_packed
from cpvt.ops.scattered import peg_at

__all__ = ["CONVOLUTIONS", "PADDING_MODES", "convolve", "identity_kernel", "peg", "peg_at", "peg_packed"]
