"""A bias on the attention logits that queries and offsets decide together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cpvt.encodings.base import ModelShape, PositionalEncoding, check_positive
from cpvt.grids import Grid, Scale


class ContextualBias(PositionalEncoding):
    """A learned vector for each bucket of offsets, whose product with the query is added to the logits (iRPE).

    Along each axis offsets up to `alpha` tokens have a bucket each, further ones share buckets on a logarithmic scale
    that reaches `beta` at `gamma` tokens, cut to whole buckets; a bucket of two axes is a pair of both. The defaults
    give 7 x 7: -2 to 2 tokens, and all that is further on either side. Each
    block has its own vectors (buckets, d), shared by its heads. At scale s offsets are divided by s first. The logits
    are (B, heads, N, N), of every image by itself, as they depend on its queries.
    Source: Wu et al., arXiv 2107.14222 (product method, contextual mode, on keys).
    """

    per_block = ("tables",)

    def __init__(self, shape: ModelShape, alpha: float = 1.9, beta: float = 3.8, gamma: float = 15.2) -> None:
        super().__init__()
        check_positive("irpe", alpha=alpha, beta=beta, gamma=gamma)
        if not (alpha < beta <= gamma and beta >= 1):
            raise ValueError(
                f"irpe needs alpha < beta <= gamma and beta of 1 or more; got alpha={alpha}, beta={beta}, gamma={gamma}"
            )
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.last = int(beta)  # buckets -last, ..., last along an axis
        size = ((2 * self.last + 1) ** 2, shape.head_dim)
        self.tables = nn.ParameterList(torch.empty(size) for _ in range(shape.depth))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for table in self.tables:
            nn.init.trunc_normal_(table, std=0.02)

    def query_bias(self, query: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        table: Tensor = self.tables[depth - 1].to(query.dtype)
        side, (h, w), scale = 2 * self.last + 1, grid, (1.0, 1.0) if scale is None else scale
        rows = self._buckets(h, scale[0], query.device).to(query.dtype)  # (h, h, side)
        columns = self._buckets(w, scale[1], query.device).to(query.dtype)
        by_bucket = (query @ table.t()).unflatten(3, (side, side)).unflatten(2, (h, w))  # (B, heads, h, w, side, side)
        # one axis after the other: products with zeros and ones, which need no gather
        by_row = rows[:, None] @ by_bucket  # (B, heads, h, w, h, side)
        return (by_row @ columns.transpose(1, 2)).flatten(4).flatten(2, 3)

    def _buckets(self, length: int, scale: float, device: torch.device) -> Tensor:
        """Which bucket each offset between places of an axis falls into, as zeros and a one: (query, key, buckets)."""
        places = torch.arange(length, device=device)
        offset = (places[:, None] - places[None, :]) / scale
        far = self.alpha + (offset.abs().clamp(min=self.alpha) / self.alpha).log() / math.log(
            self.gamma / self.alpha
        ) * (self.beta - self.alpha)
        bucket = torch.where(
            offset.abs() <= self.alpha, offset.round(), offset.sign() * far.clamp(max=self.beta).round()
        )
        numbers = torch.arange(-self.last, self.last + 1, device=device)
        return bucket.clamp(-self.last, self.last)[..., None] == numbers
