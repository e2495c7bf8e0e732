"""nn.Linear layers, computed by whichever of PyTorch's two CPU libraries is faster for their shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpvt.encodings.base import has_hooks
from cpvt.models.fastest import fastest, run_once

OWN, ONEDNN = "torch", "onednn"  # what CPVT_LINEAR may name
BOTH_THERE = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
TYPICAL = 1568  # tokens of 8 images of 224 pixels: what a compiled graph, which serves any number, is measured for

_plain = not BOTH_THERE


@contextmanager
def plain_linear() -> Iterator[None]:
    """Compute every layer by PyTorch's own product inside the context; also a decorator, `plain_linear()(function)`."""
    global _plain
    previous, _plain = _plain, True
    try:
        yield
    finally:
        _plain = previous


LONG = 1024  # tokens: for more in one row, whose number divides badly (2,729 is prime), oneDNN's gradient of the weight
# takes four times as long; filled up to a multiple of 16 the whole step gains 1.7 times
# In one thread and below 16 images PyTorch does not pass a kernel of 1 to oneDNN unless it is dilated, and takes more
# than twice as long. Dilation does not change what a kernel of 1 computes.
AS_IF_DILATED = (1, 2)


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's output for tokens (B, N, D), by whichever of PyTorch's two CPU libraries is faster; same numbers.

    PyTorch multiplies float32 matrices on the CPU with MKL. oneDNN, which computes its convolutions, is faster on some
    processors and for some shapes, so both are measured the first time that a shape is met (`cpvt.models.fastest`).
    Tokens (B, N, D) are a channels-last image without a copy, and nn.Linear is a convolution with a kernel of 1.
    Whatever has taken an nn.Linear's place is called: a quantised or sharded layer, an adapter, a layer with hooks.
    """
    if not isinstance(x, Tensor) or not _is_plain(layer):  # no Tensor: a graph is being traced
        return layer(x)
    if torch.onnx.is_in_onnx_export() and x.ndim == 3:  # of a matrix ONNX Runtime adds the bias within the product
        return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    if not _may_convolve(x, layer.weight) or not _convolves(layer, x):
        return layer(x)
    product = _choose_later if torch.compiler.is_compiling() else _convolve
    return product(x, layer.weight, layer.bias)


@torch.library.custom_op("cpvt::linear", mutates_args=())
def _choose_later(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product in a compiled graph, chosen when it runs, so that the graph serves all sizes.

    In the graph itself a convolution would be slower: Inductor lays tokens out channels first and copies them.
    """
    product = _convolve if _is_chosen(x, weight) else F.linear
    return product(x, weight, bias).contiguous()


@torch.library.custom_op("cpvt::linear_backward", mutates_args=())
def _choose_backward(gradient: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of tokens, weight and bias from that of the output, by the library that computed the output.

    Those that are not wanted are empty.
    """
    nothing = [x.new_empty(0) for _ in wanted]
    if not _is_chosen(x, weight):
        rows = gradient.flatten(0, 1)
        return (
            gradient @ weight if wanted[0] else nothing[0],
            rows.t() @ x.flatten(0, 1) if wanted[1] else nothing[1],
            rows.sum(0) if wanted[2] else nothing[2],
        )
    outer, image = (_as_image(_filled_up(each)) for each in (gradient, x))
    tokens, weights, bias = torch.ops.aten.convolution_backward(
        outer, image, weight[:, :, None, None], [len(weight)],
        [1, 1], [0, 0], AS_IF_DILATED, False, [0, 0], 1, wanted,  # stride, padding, dilation, not transposed, groups
    )  # fmt: skip
    return (
        _as_tokens(tokens)[:, : x.shape[1]].contiguous() if wanted[0] else nothing[0],
        weights[:, :, 0, 0].contiguous() if wanted[1] else nothing[1],
        bias if wanted[2] else nothing[2],
    )


@_choose_later.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@_choose_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (x.shape, weight.shape, weight.shape[:1])
    tokens, weights, bias = (x.new_empty(shape if want else (0,)) for shape, want in zip(shapes, wanted))
    return tokens, weights, bias


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad)
    found = _choose_backward(gradient.contiguous(), *ctx.saved_tensors, wanted)
    return tuple(each if want else None for each, want in zip(found, wanted))


_choose_later.register_autograd(_backward, setup_context=_save)


def _is_chosen(x: Tensor, weight: Tensor) -> bool:
    """Whether the convolution is the product for these tokens, while a compiled graph runs.

    Also in training by the time of the output alone: within an operator nothing has a gradient that could be timed.
    """
    return _suffices(x) and _choose(x.shape[0] > 1, x.shape[0] * x.shape[1], weight.shape[1], weight.shape[0], False)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    image = _as_image(_filled_up(x) if torch.is_grad_enabled() else x)
    y = F.conv2d(image, weight[:, :, None, None], bias, dilation=AS_IF_DILATED)
    return _as_tokens(y)[:, : x.shape[1]]


def _filled_up(x: Tensor) -> Tensor:
    """Long tokens of one image, in a number that oneDNN's gradient divides well."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % 16)) if x.shape[0] == 1 and x.shape[1] > LONG else x


def _as_image(x: Tensor) -> Tensor:
    """Tokens (B, N, D) as (B, D, N, 1), with channels-last strides."""
    return x.unsqueeze(2).permute(0, 3, 1, 2)


def _as_tokens(image: Tensor) -> Tensor:
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer is nn.Linear and nothing else, so that its weights are all there is to it."""
    return type(layer) is nn.Linear and not has_hooks(layer)


def _may_convolve(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's convolution can be the product for tokens x; exported programs hold a plain product.

    A compiled graph asks again when it runs.
    """
    if _plain or type(weight) is not nn.Parameter or x.ndim != 3 or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if torch.compiler.is_exporting() or torch.is_autocast_enabled("cpu"):
        return False
    return torch.compiler.is_compiling() or (not torch._C._is_tracing() and _suffices(x))


def _suffices(x: Tensor) -> bool:
    """PyTorch does not use oneDNN for one image of up to 20,480 numbers; asked in a graph, this binds it to sizes."""
    return bool(torch.backends.mkldnn.enabled) and x.numel() > (20_480 if x.shape[0] == 1 else 0)


def _convolves(layer: nn.Linear, x: Tensor) -> bool:
    """Whether the convolution is the faster product, by measurement for the shape class of layer and tokens."""
    if torch.compiler.is_compiling():
        return _convolves_in_a_graph(layer.in_features, layer.out_features)
    learns = torch.is_grad_enabled() and (x.requires_grad or layer.weight.requires_grad)
    return _choose(x.shape[0] > 1, x.shape[0] * x.shape[1], layer.in_features, layer.out_features, learns)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _convolves_in_a_graph(in_features: int, out_features: int) -> bool:
    """One answer for a graph that serves all sizes."""
    return _choose(True, TYPICAL, in_features, out_features, False)


def _choose(several: bool, tokens: int, in_features: int, out_features: int, learns: bool) -> bool:
    shape = (several, tokens.bit_length(), in_features, out_features, learns)  # one class differs by less than 2 times
    ways = {OWN: partial(_prepare, F.linear, shape), ONEDNN: partial(_prepare, _convolve, shape)}
    return fastest("linear", shape, ways) == ONEDNN


def _prepare(product: Callable[..., Tensor], shape: tuple[bool, int, int, int, bool]) -> Callable[[], None]:
    several, size, in_features, out_features, learns = shape
    images = 8 if several else 1
    rows = max(1, 3 * 2 ** (size - 2) // images)  # the middle of the class
    shapes = ((images, rows, in_features), (out_features, in_features), (out_features,))
    inputs = [torch.full(each, 0.1, dtype=torch.float32, device="cpu") for each in shapes]
    return partial(run_once, product, [each.requires_grad_(learns) for each in inputs])
