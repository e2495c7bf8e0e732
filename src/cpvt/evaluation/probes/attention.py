"""Attention: how far patches attend, in each block and head, and the paper's map of where each patch attends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpvt.adapters import UnsupportedError
from cpvt.evaluation.probes.context import Parts, ProbeContext
from cpvt.grids import Grid
from cpvt.results.folders import probe_attention_file
from cpvt.results.probe_results import ProbeResult

SHOWN = 2  # the block whose attention the paper shows
IMAGES = 64  # at most: memory is quadratic in tokens


def distances(grid: Grid) -> Tensor:
    """Euclidean distance between every two tokens of a grid, in tokens, (N, N)."""
    positions = torch.cartesian_prod(*(torch.arange(length, dtype=torch.float64) for length in grid))
    return torch.cdist(positions, positions)


def distance(context: ProbeContext) -> Iterator[ProbeResult]:
    """Mean distance weighted by attention for each head, that of uniform attention, and the ratio of the two.

    Attention to prefix tokens is left out. Where results have a folder, the mean attention of block 2 over images and
    heads, (h, w, h, w), is saved there.
    """
    context.need_tokens()
    blocks = max(1, context.last)
    for block in range(1, blocks + 1):
        each, total = [], torch.zeros(())
        for weights in _attention(context, block):
            weighted = weights * distances(context.grids[block]).to(weights)
            each.append(weighted.sum(-1).mean(-1).cpu())  # (B, heads)
            total = total + weights.mean(1).sum(0).cpu()
        heads = torch.cat(each)
        about: dict[str, Any] = {"depth": block, "count": len(heads)}
        for head, values in enumerate(heads.T, start=1):
            spread = float(values.std(correction=0))
            yield context.result("distance", float(values.mean()), case=f"head {head}", spread=spread, **about)
        uniform = float(distances(context.grids[block]).mean())
        yield context.result("distance", uniform, case="uniform", **about)
        yield context.result("relative distance", float(heads.mean()) / uniform, **about)
        if block == min(SHOWN, blocks) and context.arrays is not None:
            context.arrays.mkdir(parents=True, exist_ok=True)
            grid = context.grids[block]
            image = (total / len(heads)).numpy().reshape(*grid, *grid)
            np.save(context.arrays / probe_attention_file(context.model, context.baseline), image)


def _attention(context: ProbeContext, block: int) -> Iterator[Tensor]:
    """Attention between patches (B, heads, N, N), rows summing to 1, batch by batch."""
    adapter, seen = context.at(context.sides), 0
    for images, _ in context.dataset.batches("natural", context.sides):
        weights = adapter.attention(images[: IMAGES - seen], block).float()
        h, w = context.grids.get(block, (0, 0))
        if weights.shape[-1] != h * w:
            raise UnsupportedError(
                f"block {block} of '{context.model}' attends over {weights.shape[-1]} tokens, and its grid is {h}x{w}"
            )
        yield weights / weights.sum(-1, keepdim=True)
        seen += len(weights)
        if seen >= IMAGES:
            return


PARTS: Parts = {"distance": distance}
