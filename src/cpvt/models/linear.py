"""nn.Linear layers, computed faster on CPUs on which oneDNN beats MKL."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def processor() -> str:
    """The system's full description of its processor."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux, or no leave to read
        return platform.processor()


ONEDNN_IS_FASTER = (
    torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available() and "AuthenticAMD" in processor()
)


@contextmanager
def plain_linear() -> Iterator[None]:
    """Compute every layer by PyTorch's own product inside the context; also a decorator, `plain_linear()(function)`."""
    global ONEDNN_IS_FASTER
    previous, ONEDNN_IS_FASTER = ONEDNN_IS_FASTER, False
    try:
        yield
    finally:
        ONEDNN_IS_FASTER = previous


LONG = 1024  # tokens: for more in one row, whose number divides badly (2,729 is prime), oneDNN's gradient of the weight
# takes four times as long; filled up to a multiple of 16 the whole step gains 1.7 times
# In one thread and below 16 images PyTorch does not pass a kernel of 1 to oneDNN unless it is dilated, and takes more
# than twice as long. Dilation does not change what a kernel of 1 computes.
AS_IF_DILATED = (1, 2)


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's output for tokens (B, N, D), by whichever of PyTorch's two CPU libraries is faster; same numbers.

    PyTorch multiplies float32 matrices on the CPU with MKL, which does not use the widest instructions of AMD chips.
    oneDNN, which computes PyTorch's convolutions, does. Tokens (B, N, D) are a channels-last image without a copy, so
    on AMD an nn.Linear is computed as a convolution with a kernel of 1. Everywhere else the layer itself is called, and
    so is whatever has taken its place: a quantised or sharded layer, an adapter, a layer with hooks.
    """
    if not isinstance(x, Tensor) or not _is_plain(layer) or not _convolves(x):  # no Tensor: a graph is being traced
        return layer(x)
    weight, bias, tokens = layer.weight, layer.bias, x.shape[1]
    if x.shape[0] == 1 and tokens > LONG and torch.is_grad_enabled():
        x = F.pad(x, (0, 0, 0, -tokens % 16))
    image = x.unsqueeze(2).permute(0, 3, 1, 2)  # (B, D, N, 1), channels-last strides
    y = F.conv2d(image, weight[:, :, None, None], bias, dilation=AS_IF_DILATED)
    return y.permute(0, 2, 3, 1).flatten(1, 2)[:, :tokens]


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is nn.Linear and nothing else, so that its weights are all there is to it."""
    if type(layer) is not nn.Linear or type(layer.weight) is not nn.Parameter:
        return False
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return not any(hooks) and not nn.modules.module._has_any_global_hook()


def _convolves(x: Tensor) -> bool:
    """Whether oneDNN's convolution is the faster product for tokens x; exported programs hold a plain product.

    PyTorch does not use oneDNN for one image of up to 20,480 numbers; this test would bind a compiled graph to sizes.
    """
    if not ONEDNN_IS_FASTER or x.ndim != 3 or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if torch.compiler.is_exporting() or torch.is_autocast_enabled("cpu"):
        return False
    return (x.shape[0] > 1 and x.numel() > 0) or (not torch.compiler.is_compiling() and x.numel() > 20_480)
