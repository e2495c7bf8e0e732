"""The parts of a transformer block: attention that takes a rotation and a bias, and the block itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn


class Positions(NamedTuple):
    """What attention needs to know of positions, built once per forward and widened for P prefix tokens."""

    cos: Tensor | None = None  # (P + N, d): turns queries and keys; prefix tokens by nothing
    sin: Tensor | None = None
    bias: Tensor | None = None  # (1, heads, P + N, P + N): added to the logits; zero for prefix tokens

    @classmethod
    def build(
        cls, rotation: tuple[Tensor, Tensor] | None, bias: Tensor | None, prefix_tokens: int, dtype: torch.dtype
    ) -> Positions:
        """Widen an encoding's tables by the prefix and cast them, last, to the dtype of the tokens."""
        cos = sin = None
        if rotation is not None:
            widen = (0, 0, prefix_tokens, 0)
            cos = F.pad(rotation[0], widen, value=1.0).to(dtype)
            sin = F.pad(rotation[1], widen).to(dtype)
        if bias is not None:
            # four axes: with three, the CPU's fused kernel is not taken (measured 4 times slower at 577 tokens)
            bias = F.pad(bias, (prefix_tokens, 0, prefix_tokens, 0)).to(dtype).unsqueeze(0)
        return cls(cos, sin, bias)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel pairs (i, i + d / 2) of (B, heads, P + N, d) by the angles behind cos and sin, (P + N, d)."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, positions: Positions) -> Tensor:
        query, key, value = self._heads(x, positions)
        bias = None if positions.bias is None else positions.bias.to(query.dtype)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)  # (B, heads, P + N, d)
        x = x.transpose(1, 2)  # (B, P + N, heads, d)
        if bias is not None:  # a copy: with a bias, exporters would record a view that their own kernel does not allow
            x = x.clone(memory_format=torch.contiguous_format)
        return self.proj(x.flatten(2))

    def weights(self, x: Tensor, positions: Positions) -> Tensor:
        """The attention matrix itself, (B, heads, P + N, P + N), for looking at; `forward` never builds it."""
        query, key, _ = self._heads(x, positions)
        logits = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        return (logits if positions.bias is None else logits + positions.bias).softmax(dim=-1)

    def _heads(self, x: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))  # (B, P + N, 3, heads, d)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, P + N, d) each
        if positions.cos is not None and positions.sin is not None:
            query, key = rotate(query, positions.cos, positions.sin), rotate(key, positions.cos, positions.sin)
        return query, key, value


class Block(nn.Module):
    """One encoder block: attention, then a two-layer perceptron, each after a norm and around a shortcut."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, positions: Positions) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), positions))
        return x + self.drop_path(self.mlp(self.norm2(x)))
