"""PEG, the positional encoding generator: the layer, and the encoding that puts one or several into a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpvt import ops
from cpvt.encodings.base import ModelShape, PositionalEncoding, has_hooks
from cpvt.grids import AnyGrid, Grid, Layout, Scale, check_pack, check_scale, per_axis

AnyScale = float | Sequence[float]  # one number of 1 or more, or one for each axis of the grid
Kernels = int | Sequence[int | Sequence[int]]  # one side, or several kernels: each a side, or one for each axis
LAYOUTS = ("NLC", "NHWC", "NCHW")


class PEG(nn.Module):
    """Positional encoding generator: a small convolution over the grid of tokens, added to the tokens.

    dim: width D of a token. kernel_size: odd; several, as (7, 5, 3), are summed (PPEG) at the cost of the largest; a
    kernel that is no square has a side for each axis, as ((19, 7),). 1 sees no neighbour and no border, so it encodes
    no positions: a control for the parameters.
    dims: axes of the grid, 1 for (n,), 2 for (h, w), 3 for (t, h, w). causal: along the first axis a token sees only
    itself and what comes before it. dilation: the step between taps.
    padding_mode: the values beyond the border, 'zeros' (as in the paper; it tells a token how far the border is),
    'reflect', 'replicate' or 'circular'. layout: 'NLC' for (B, P + h * w, D) with a grid, 'NHWC' for (B, h, w, D),
    'NCHW' for (B, D, h, w). bias: a constant per channel.
    Weights start normal with variance 2 / (taps of the kernel), the bias at zero, as in the authors' own Twins code.
    The attribute `form` says what computes layout 'NLC': 'auto', 'dense' or 'fused', see `cpvt.ops.peg`.
    Source: Chu et al., arXiv 2102.10882, section 3; PPEG: Shao et al. (TransMIL), arXiv 2106.00908.
    """

    form = "auto"

    def __init__(
        self,
        dim: int,
        kernel_size: Kernels = 3,
        *,
        dims: int = 2,
        causal: bool = False,
        dilation: int = 1,
        padding_mode: str = "zeros",
        layout: str = "NLC",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        sizes: list[Any] = list(kernel_size) if isinstance(kernel_size, (tuple, list)) else [kernel_size]
        _check(dim, sizes, dims, causal, dilation, padding_mode, layout)
        sides = sorted((_sides(size, dims) for size in sizes), reverse=True)  # of each kernel, along each axis
        self.kernel_size = tuple(each[0] if len(set(each)) == 1 else each for each in sides)
        self.dim, self.dims, self.causal, self.dilation = dim, dims, causal, dilation
        self.padding_mode, self.layout, self.folded = padding_mode, layout, False
        shapes = [(dim, 1, *each) for each in sides]
        self.weight = nn.Parameter(torch.empty(shapes[0], device=device, dtype=dtype))
        self.smaller = nn.ParameterList(torch.empty(shape, device=device, dtype=dtype) for shape in shapes[1:])
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights."""
        for weight in (self.weight, *self.smaller):
            nn.init.normal_(weight, std=math.sqrt(2 / weight[0, 0].numel()))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, tokens: Tensor, grid: AnyGrid | None = None, prefix_tokens: int = 0, scale: AnyScale = 1
    ) -> Tensor:
        """Return tokens plus their encoding, in the shape they came in; prefix tokens pass by untouched.

        grid: one side per axis, needed for layout 'NLC' only. scale: how many tokens an object covers for each that it
        covered in training, 1 or more, one number or one for each axis (rows, columns); neighbours are read that much
        further away. Raises ValueError where tokens, grid and scale disagree.
        """
        if self.folded:  # the residual is in the kernel, which prefix tokens do not meet
            encoded = self._apply_peg(tokens, grid, prefix_tokens, scale, residual=False)
            return torch.cat([tokens[:, :prefix_tokens], encoded[:, prefix_tokens:]], 1) if prefix_tokens else encoded
        return self._apply_peg(tokens, grid, prefix_tokens, scale, residual=True)

    def encoding(
        self, tokens: Tensor, grid: AnyGrid | None = None, prefix_tokens: int = 0, scale: AnyScale = 1
    ) -> Tensor:
        """Return the encoding alone, so that `tokens + layer.encoding(tokens, grid)` equals `layer(tokens, grid)`."""
        if self.folded:
            raise ValueError("a folded PEG no longer knows its encoding from the tokens; keep the layer before fold()")
        return self._apply_peg(tokens, grid, prefix_tokens, scale, residual=False)

    def forward_packed(
        self,
        tokens: Tensor,
        grids: Sequence[AnyGrid],
        prefix_tokens: int = 0,
        scales: Sequence[AnyScale] | None = None,
    ) -> Tensor:
        """Return tokens plus their encoding for images of several sizes, end to end in (1, T, D); each as if alone.

        grids, scales: one for each image. Raises ValueError where tokens, grids and scales disagree.
        """
        if self.layout != "NLC" or any(isinstance(grid, int) or len(grid) != self.dims for grid in grids):
            raise ValueError(
                f"a pack is for layout 'NLC' and grids of {self.dims} sides; got '{self.layout}' and {grids}"
            )
        if scales is not None and (not isinstance(scales, (tuple, list)) or len(scales) != len(grids)):
            raise ValueError(f"scale must be 1 or more for each of the {len(grids)} images; got {scales}")
        each = scales or [1] * len(grids)
        if (self.folded and prefix_tokens) or type(self).forward is not PEG.forward or has_hooks(self):
            check_pack(tokens, grids, prefix_tokens, self.dim)
            parts = tokens.split([prefix_tokens + math.prod(grid) for grid in grids], dim=1)
            alone = [self(part, grid, prefix_tokens, scale) for part, grid, scale in zip(parts, grids, each)]
            return torch.cat(alone, dim=1)
        dilations = [self._steps(check_scale(scale, grid)) for scale, grid in zip(each, grids)]
        options = self._options(residual=not self.folded, form=self.form, dilations=dilations)
        return ops.peg_packed(tokens, self.kernel(), self.bias, grids, prefix_tokens, **options)

    def forward_at(
        self, tokens: Tensor, coordinates: Tensor, image: Tensor | None = None, scale: AnyScale = 1
    ) -> Tensor:
        """Return tokens plus their encoding for tokens at given coordinates: any subset, in any order.

        tokens: (T, D). coordinates: (T, dims) int64, such as row and column. image: (T,) int64 where several images
        are mixed. Missing neighbours are zero, so a full grid gives what `forward` gives. Memory is linear in T.
        scale: as in `forward`; a neighbour between places is a mixture of the tokens around it.
        Raises ValueError for places that are not integer, negative, held twice or not one per token.
        """
        if self.padding_mode != "zeros":
            raise ValueError(f"forward_at knows no border, so padding_mode must be 'zeros'; got '{self.padding_mode}'")
        how = (not self.folded, self._steps(per_axis(scale, self.dims)), self.causal)
        return ops.peg_at(tokens, self.kernel(), self.bias, coordinates, image, *how)

    def kernel(self) -> Tensor:
        """The one kernel that several sum up to, each in the middle of the largest (causal: at its end)."""
        kernel: Tensor = self.weight
        for weight in self.smaller:
            less = [(large - small) // 2 for large, small in zip(self.weight.shape[2:], weight.shape[2:])]
            border = [places for each in reversed(less) for places in (each, each)]  # F.pad names the first axis last
            if self.causal:
                border[-2:] = [2 * less[0], 0]
            kernel = kernel + F.pad(weight, border)
        return kernel

    def fold(self) -> PEG:
        """A copy for inference, with all kernels and the residual in one kernel: one convolution and nothing else.

        Exact but for rounding; in half precision the residual's 1 rounds small weights away, so fold in float32.
        """
        layer = PEG(
            self.dim, self.kernel_size[:1], dims=self.dims, causal=self.causal, dilation=self.dilation,
            padding_mode=self.padding_mode, layout=self.layout, bias=self.bias is not None,
            device=self.weight.device, dtype=self.weight.dtype,
        )  # fmt: skip
        with torch.no_grad():
            kernel = self.kernel()
            layer.weight.copy_(kernel if self.folded else kernel + ops.identity_kernel(kernel, self.causal))
            if self.bias is not None and layer.bias is not None:
                layer.bias.copy_(self.bias)
        layer.folded, layer.form = True, self.form
        return layer.train(self.training).requires_grad_(False)

    def _options(self, **more: Any) -> dict[str, Any]:
        return dict(padding_mode=self.padding_mode, causal=self.causal, **more)

    def _steps(self, scales: Sequence[float]) -> tuple[float, ...]:
        """The distance between taps along each axis at these scales."""
        return tuple(self.dilation * scale for scale in scales)

    def _apply_peg(
        self, tokens: Tensor, grid: AnyGrid | None, prefix_tokens: int, scale: AnyScale, residual: bool
    ) -> Tensor:
        if not isinstance(tokens, Tensor):
            raise ValueError(f"PEG needs a tensor of tokens; got {type(tokens).__name__}")
        if self.layout == "NLC":
            if grid is None or isinstance(grid, int) or len(grid) != self.dims:
                raise ValueError(
                    f"layout 'NLC' needs grid= with {self.dims} sides, as a token count alone does not say the shape; "
                    f"got {grid}"
                )
            options = self._options(residual=residual, dilation=self._steps(check_scale(scale, grid)))
            return ops.peg(tokens, self.kernel(), self.bias, grid, prefix_tokens, form=self.form, **options)
        if grid is not None or prefix_tokens:
            raise ValueError(f"layout '{self.layout}' holds its own grid and no prefix tokens; pass the tensor alone")
        channel_axis = 1 if self.layout == "NCHW" else 3
        if tokens.ndim != 4 or tokens.shape[channel_axis] != self.dim:
            raise ValueError(f"layout '{self.layout}' needs 4 axes and {self.dim} channels; got {tuple(tokens.shape)}")
        image = tokens if self.layout == "NCHW" else tokens.permute(0, 3, 1, 2)
        options = self._options(residual=residual, dilation=self._steps(check_scale(scale, image.shape[2:])))
        encoded = ops.convolve(image, self.kernel(), self.bias, **options)
        return encoded if self.layout == "NCHW" else encoded.permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        first = self.kernel_size[0]
        sizes = first if len(self.kernel_size) == 1 and isinstance(first, int) else self.kernel_size
        options = [
            f"{self.dim}",
            f"kernel_size={sizes}",
            f"padding_mode={self.padding_mode!r}",
            f"layout={self.layout!r}",
        ]
        options += [f"dims={self.dims}"] * (self.dims != 2) + ["causal=True"] * self.causal + ["folded"] * self.folded
        return ", ".join(options + [f"dilation={self.dilation}"] * (self.dilation > 1))


def _sides(size: Any, dims: int) -> tuple[Any, ...]:
    """The sides of a kernel along each axis."""
    return tuple(size) if isinstance(size, (tuple, list)) else (size,) * dims


class PEGWithoutResidual(PEG):
    """A PEG that returns the encoding alone, as where it is added to something else than its tokens."""

    def forward(
        self, tokens: Tensor, grid: AnyGrid | None = None, prefix_tokens: int = 0, scale: AnyScale = 1
    ) -> Tensor:
        """Return the encoding alone; the rest as in PEG."""
        return self.encoding(tokens, grid, prefix_tokens, scale)

    def fold(self) -> PEG:
        """Raise ValueError: there is no residual to fold."""
        raise ValueError("a PEG without residual returns its encoding alone, and has no residual to fold")


def _check(
    dim: int, sizes: Sequence[int], dims: int, causal: bool, dilation: int, padding_mode: str, layout: str
) -> None:
    if not isinstance(dim, int) or dim < 1:
        raise ValueError(f"dim, the width of a token, must be 1 or more; got {dim!r}")
    for size in sizes or [0]:
        if not all(isinstance(side, int) and side >= 1 and side % 2 for side in _sides(size, 1)):
            raise ValueError(f"kernel_size must be odd and 1 or more, so that a token is its own centre; got {size!r}")
    if dims not in ops.CONVOLUTIONS:
        raise ValueError(f"dims must be 1, 2 or 3, the axes of the grid; got {dims}")
    sides = [_sides(size, dims) for size in sizes]
    if any(len(each) != dims or any(side > most for side, most in zip(each, max(sides))) for each in sides):
        raise ValueError(
            f"a kernel has one side, or one for each of {dims} axes, and the largest covers the others; got {sizes}"
        )
    if dilation < 1:
        raise ValueError(f"dilation must be 1 or more; got {dilation}")
    if padding_mode not in ops.PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(ops.PADDING_MODES)}; got '{padding_mode}'")
    if causal and padding_mode != "zeros":
        raise ValueError(
            f"a causal PEG sees nothing before the first place, so padding_mode must be 'zeros'; got '{padding_mode}'"
        )
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got '{layout}'")
    if layout != "NLC" and dims != 2:
        raise ValueError(f"layout '{layout}' is for images, dims=2; use 'NLC' for dims={dims}")


class PEGEncoding(PositionalEncoding):
    """A depth-wise convolution reads positions from neighbours and the border (PEG, after block 1).

    at: the depths that hold a PEG each; (1,) is the paper's position "0". frozen: weights stay as drawn, to tell what
    PEG learns from what any local mixture does. The other options are PEG's; kernel_size=1 gives no positions.
    """

    def __init__(
        self,
        shape: ModelShape,
        at: Sequence[int] | int = (1,),
        kernel_size: int | Sequence[int] = 3,
        padding_mode: str = "zeros",
        dilation: int = 1,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        depths: tuple[Any, ...] = tuple(at) if isinstance(at, (tuple, list)) else (at,)
        known = all(isinstance(depth, int) and 0 <= depth <= shape.depth for depth in depths)
        if not depths or not known or len(set(depths)) < len(depths):
            raise ValueError(
                f"at must list different depths from 0 (before block 1) to {shape.depth} (after the last block); "
                f"got {at}"
            )
        self.at = depths
        self.peg = nn.ModuleDict(
            {str(depth): PEG(shape.dim, kernel_size, padding_mode=padding_mode, dilation=dilation) for depth in self.at}
        )
        self.requires_grad_(not frozen)

    def tokens(self, x: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        return self.peg[str(depth)](x, grid, 0, at_least_one(scale))

    def forward(self, x: Tensor, layout: Layout, depth: int) -> Tensor:
        if depth not in self.at:
            return x
        layer: PEG = self.peg[str(depth)]  # type: ignore[assignment]
        scales = None if layout.scales is None else [at_least_one(scale) for scale in layout.scales]
        if layout.packed:
            return layer.forward_packed(x, layout.grids, layout.prefix_tokens, scales)
        return layer(x, layout.grid, layout.prefix_tokens, *(scales or []))

    def layers(self) -> dict[str, int]:
        return {f"peg.{depth}": depth for depth in self.at}

    def prune(self, depth: int) -> dict[str, Any]:
        for late in [each for each in self.at if each > depth]:
            del self.peg[str(late)]
        self.at = tuple(each for each in self.at if each <= depth)
        return {"at": self.at}


def at_least_one(scale: Scale | None) -> Scale | int:
    """The scale that PEG is given where objects are smaller than in training: 1, as nothing stands between tokens."""
    if scale is None:
        return 1
    rows, columns = torch.sym_max(1, scale[0]), torch.sym_max(1, scale[1])  # no branch on a symbolic size
    return rows, columns  # type: ignore[return-value]


def five_pegs(
    shape: ModelShape,
    kernel_size: int | Sequence[int] = 3,
    padding_mode: str = "zeros",
    dilation: int = 1,
    frozen: bool = False,
) -> PEGEncoding:
    """A PEG after each of the first five blocks, but never after the last block (the paper's "0-5")."""
    at = tuple(range(1, max(2, min(6, shape.depth))))
    return PEGEncoding(shape, at, kernel_size, padding_mode, dilation, frozen)
