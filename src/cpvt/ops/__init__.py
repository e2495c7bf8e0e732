"""PEG as plain functions of tensors; needs only torch (and uses Triton on GPUs where it is installed)."""

from cpvt.ops.dense import CONVOLUTIONS, PADDING_MODES, convolve, identity_kernel
from cpvt.ops.forms import peg
from cpvt.ops.packed import peg_packed
from cpvt.ops.scattered import peg_at

__all__ = ["CONVOLUTIONS", "PADDING_MODES", "convolve", "identity_kernel", "peg", "peg_at", "peg_packed"]
