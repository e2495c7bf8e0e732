"""PEG, the positional encoding generator: the layer, and the encoding that puts one or several into a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cpvt import ops
from cpvt.encodings.base import ModelShape, PositionalEncoding
from cpvt.shapes import Grid, Layout

LAYOUTS = ("NLC", "NHWC", "NCHW")


class PEG(nn.Module):
    """Positional encoding generator: a small convolution over the grid of tokens, added to the tokens.

    dim: width D of a token. kernel_size: odd, 3 or more. padding_mode: what stands beyond the border, 'zeros' (the
    paper's, and what tells a token how far the border is), 'reflect', 'replicate' or 'circular'. layout: 'NLC' for
    (B, P + h * w, D) with a grid, 'NHWC' for (B, h, w, D), 'NCHW' for (B, D, h, w). bias: a constant per channel.
    Weights start normal with standard deviation sqrt(2 / k^2), the bias at zero, as in the authors' own Twins code.
    Source: Chu et al., arXiv 2102.10882, section 3.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        *,
        padding_mode: str = "zeros",
        layout: str = "NLC",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size must be odd and 3 or more, so that a token is its own centre; got {kernel_size}"
            )
        if padding_mode not in ops.PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(ops.PADDING_MODES)}; got '{padding_mode}'")
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got '{layout}'")
        self.dim, self.kernel_size, self.padding_mode, self.layout = dim, kernel_size, padding_mode, layout
        self.weight = nn.Parameter(torch.empty(dim, 1, kernel_size, kernel_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(dim, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw fresh weights."""
        nn.init.normal_(self.weight, std=math.sqrt(2 / self.kernel_size**2))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, tokens: Tensor, grid: Grid | None = None, prefix_tokens: int = 0) -> Tensor:
        """Return tokens plus their encoding, in the shape they came in; prefix tokens pass by untouched.

        grid: (h, w), needed for layout 'NLC' only. Raises ValueError where tokens and grid disagree.
        """
        return self._apply_peg(tokens, grid, prefix_tokens, residual=True)

    def encoding(self, tokens: Tensor, grid: Grid | None = None, prefix_tokens: int = 0) -> Tensor:
        """Return the encoding alone, so that `tokens + layer.encoding(tokens, grid)` equals `layer(tokens, grid)`."""
        return self._apply_peg(tokens, grid, prefix_tokens, residual=False)

    def _apply_peg(self, tokens: Tensor, grid: Grid | None, prefix_tokens: int, residual: bool) -> Tensor:
        if self.layout == "NLC":
            if grid is None:
                raise ValueError("layout 'NLC' needs grid=(rows, columns): a token count alone does not say the shape")
            return ops.peg(tokens, self.weight, self.bias, grid, prefix_tokens, self.padding_mode, residual)
        if grid is not None or prefix_tokens:
            raise ValueError(f"layout '{self.layout}' holds its own grid and no prefix tokens; pass the tensor alone")
        channel_axis = 1 if self.layout == "NCHW" else 3
        if tokens.ndim != 4 or tokens.shape[channel_axis] != self.dim:
            raise ValueError(f"layout '{self.layout}' needs 4 axes and {self.dim} channels; got {tuple(tokens.shape)}")
        if self.layout == "NCHW":
            return ops.convolve(tokens, self.weight, self.bias, self.padding_mode, residual)
        picture = tokens.permute(0, 3, 1, 2)
        return ops.convolve(picture, self.weight, self.bias, self.padding_mode, residual).permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return f"{self.dim}, kernel_size={self.kernel_size}, padding_mode={self.padding_mode!r}, layout={self.layout!r}"


class PEGEncoding(PositionalEncoding):
    """A convolution over the tokens generates positions from their neighbourhood and the border (PEG, after block 1).

    at: the depths that hold a PEG each; (1,) is the paper's position "0". kernel_size and padding_mode are PEG's.
    """

    def __init__(
        self, shape: ModelShape, at: Sequence[int] | int = (1,), kernel_size: int = 3, padding_mode: str = "zeros"
    ) -> None:
        super().__init__()
        self.at = (at,) if isinstance(at, int) else tuple(at)
        if not self.at or min(self.at) < 0 or max(self.at) > shape.depth or len(set(self.at)) < len(self.at):
            raise ValueError(
                f"at must list different depths from 0 (before block 1) to {shape.depth} (after the last block); got {at}"
            )
        self.peg = nn.ModuleDict(
            {str(depth): PEG(shape.dim, kernel_size, padding_mode=padding_mode) for depth in self.at}
        )

    def tokens(self, x: Tensor, grid: Grid, depth: int) -> Tensor:
        return self.peg[str(depth)](x, grid)

    def forward(self, x: Tensor, layout: Layout, depth: int) -> Tensor:
        if depth not in self.at:
            return x
        return self.peg[str(depth)](x, layout.grid, layout.prefix_tokens)


def five_pegs(shape: ModelShape, kernel_size: int = 3, padding_mode: str = "zeros") -> PEGEncoding:
    """A PEG after each of blocks 1 to 5, or to the last but one of a shallower model (the paper's "0-5")."""
    return PEGEncoding(shape, tuple(range(1, max(2, min(6, shape.depth)))), kernel_size, padding_mode)
