"""PEG on full grids in one Triton kernel, without copies or torch.cat, as custom operators of PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from cpvt.grids import Grid
from cpvt.ops import dense
from cpvt.ops.kernels import run

_TRIED: dict[int | None, bool] = {}  # GPU -> whether Triton works there


def peg(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grid: Grid,
    prefix_tokens: int = 0,
    residual: bool = True,
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """`cpvt.ops.peg` for grids (h, w) with zero padding, on a GPU or in Triton's interpreter.

    tokens: (B, P + N, D) in float32, bfloat16 or float16; weight (D, 1, k, k) and bias (D,) may have another of these.
    dilation: whole steps between taps, along rows and columns.
    Sums are kept in float32 and rounded once, to the dtype of the tokens, which is the result's; gradients come in the
    dtype of what they belong to. Gradients of gradients are defined; forward-mode derivatives and vmap are not.
    Raises ValueError where weight or bias are on another device than the tokens.
    """
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.device != tokens.device:
            raise ValueError(f"tokens are on {tokens.device}, so must {name} be; got {parameter.device}")
    return _peg(tokens, weight, bias, *grid, prefix_tokens, residual, list(dilation))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def exporting() -> bool:
    """Whether this is torch.export; asked outside the graph, since within one PyTorch 2.11 says so to any compiler."""
    return torch.compiler.is_exporting()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def works(index: int | None) -> bool:
    """Whether Triton works on this GPU; tried once, as it also needs a compiler for C, which small images lack."""
    if index not in _TRIED:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return False  # nothing can be tried while a graph is recorded
        _TRIED[index] = _try(index)
    return _TRIED[index]


def _try(index: int | None) -> bool:
    """Whether a small case, forward and backward, gives there what the convolution gives."""
    if torch.version.hip is None and torch.cuda.get_device_capability(index) < (8, 0):
        return False  # NVIDIA's before Ampere, which Triton no longer makes programs for
    try:
        with (
            _disable_current_modes(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cuda", enabled=False),
        ):
            wrong = _difference("cuda" if index is None else f"cuda:{index}")
    except Exception as error:  # whatever it is, there is the dense form
        wrong = repr(error)
    if wrong:
        warnings.warn(f"PEG is computed by a convolution, as Triton does not work here: {wrong}", stacklevel=2)
    return not wrong


def _difference(device: str) -> str:
    """How the fused form differs from the dense one on a small case; nothing if it does not."""
    generator = torch.Generator().manual_seed(0)
    sizes: list[tuple[int, ...]] = [(2, 1 + 5 * 7, 48), (48, 1, 3, 3), (48,)]
    tokens, weight, bias = inputs = [
        torch.randn(size, generator=generator).to(device).requires_grad_() for size in sizes
    ]
    found = []
    for form in (peg, dense.peg_dense):
        out = form(tokens, weight, bias, (5, 7), 1)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), inputs)])
    errors = [float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(*found)]
    return f"a small case differs by {max(errors):.1e}" if not max(errors) < 0.01 else ""  # a GPU's convolution rounds


_WHERE = "SymInt h, SymInt w, SymInt prefix_tokens, bool residual, SymInt[] dilation"


@torch.library.custom_op(
    "cpvt::peg", mutates_args=(), schema=f"(Tensor tokens, Tensor weight, Tensor? bias, {_WHERE}) -> Tensor"
)
def _peg(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, h: int, w: int, prefix_tokens: int, residual: bool,
    dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    encoded, _ = run(tokens, weight, bias, (h, w), prefix_tokens, residual, dilation)
    assert encoded is not None
    return encoded


@torch.library.custom_op(
    "cpvt::peg_backward",
    mutates_args=(),
    schema=f"(Tensor gradient, Tensor tokens, Tensor weight, {_WHERE}, bool to_tokens, bool to_weight)"
    " -> (Tensor, Tensor)",
)
def _peg_backward(
    gradient: Tensor, tokens: Tensor, weight: Tensor, h: int, w: int, prefix_tokens: int, residual: bool,
    dilation: Sequence[int], to_tokens: bool, to_weight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradient of the tokens, and of weight and bias as (k * k + 1, D) in float32; empty where not asked for."""
    centre = tokens if to_weight else None
    encoded, sums = run(gradient, weight, None, (h, w), prefix_tokens, residual, dilation, True, to_tokens, centre)
    nothing = gradient.new_empty(0)
    return nothing if encoded is None else encoded, nothing.float() if sums is None else sums


@_peg.register_fake
def _(
    tokens: Tensor, weight: Tensor, bias: Tensor | None, h: int, w: int, prefix_tokens: int, residual: bool,
    dilation: Sequence[int],
) -> Tensor:  # fmt: skip
    return tokens.new_empty(tokens.shape)


@_peg_backward.register_fake
def _(
    gradient: Tensor, tokens: Tensor, weight: Tensor, h: int, w: int, prefix_tokens: int, residual: bool,
    dilation: Sequence[int], to_tokens: bool, to_weight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    rows = weight.shape[2] * weight.shape[3] + 1
    return (
        gradient.new_empty(gradient.shape if to_tokens else (0,)),
        gradient.new_empty((rows, weight.shape[0]) if to_weight else (0,), dtype=torch.float32),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tokens, weight, bias, *ctx.how = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    to_weight = ctx.needs_input_grad[1]
    ctx.save_for_backward(tokens if to_weight else None, weight)  # of the tokens only the gradient of the weight asks


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of `_peg`."""
    tokens, weight = ctx.saved_tensors
    to_tokens, to_weight, to_bias = ctx.needs_input_grad[:3]
    prefix_tokens = ctx.how[2]
    back, taps, bias = None, None, None
    if to_tokens or to_weight:
        own = tokens if to_weight else gradient
        back, sums = _peg_backward(gradient, own, weight, *ctx.how, to_tokens, to_weight)
        taps = _as_weight(sums, weight) if to_weight else None
        bias = sums[-1] if to_weight else None
    if to_bias and bias is None:
        bias = gradient[:, prefix_tokens:].sum((0, 1), dtype=torch.float32)
    return (
        back if to_tokens else None,
        taps,
        bias.to(ctx.bias_dtype) if bias is not None and to_bias else None,
        *[None] * len(ctx.how),
    )


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, h, w, prefix_tokens, residual, dilation, ctx.to_tokens, ctx.to_weight = inputs
    ctx.where, ctx.residual, ctx.dilation = (h, w, prefix_tokens), residual, dilation
    ctx.save_for_backward(*tensors)


def _differentiate_backward(ctx: Any, of_back: Tensor, of_sums: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of `_peg_backward`: it is linear in each of gradient, tokens and weight, so PEG gives them all."""
    gradient, tokens, weight = ctx.saved_tensors
    alone = (*ctx.where, False, ctx.dilation)  # the encoding without the tokens
    to_gradient, to_tokens, to_weight = None, None, None
    if ctx.to_tokens:
        to_gradient = _peg(of_back, weight, None, *ctx.where, ctx.residual, ctx.dilation)
        to_weight = _as_weight(_peg_backward(gradient, of_back, weight, *alone, False, True)[1], weight)
    if ctx.to_weight:
        taps = _as_weight(of_sums, weight.float())
        seen = _peg(tokens, taps, of_sums[-1], *alone)
        to_gradient = seen if to_gradient is None else to_gradient + seen
        to_tokens = _peg(gradient, taps.flip(2, 3), None, *alone)
    return (to_gradient, to_tokens, to_weight, *[None] * 7)


def _as_weight(sums: Tensor, weight: Tensor) -> Tensor:
    """The sums of the taps, (k * k + 1, D) with the bias's last, in shape and dtype of the weight."""
    return sums[:-1].t().reshape(weight.shape).to(weight.dtype)


_peg.register_autograd(_differentiate, setup_context=_keep)
_peg_backward.register_autograd(_differentiate_backward, setup_context=_keep_backward)
