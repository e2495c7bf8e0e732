"""Attention: how far patches look, in each block and head, and the paper's map of where each patch looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpvt.results.probe_results import Finding
from cpvt.results.folders import probe_attention_file
from cpvt.evaluation.probes.context import Study
from cpvt.grids import Grid
from cpvt.adapters import UnsupportedError

SHOWN = 2  # the block whose attention the paper shows
IMAGES = 64  # at most: attention holds the square of the tokens


def distances(grid: Grid) -> Tensor:
    """Straight distance between every two tokens of a grid, in tokens, (N, N)."""
    axes = [torch.arange(length, dtype=torch.float64) for length in grid]
    places = torch.cartesian_prod(*axes)
    return torch.cdist(places, places)


def distance(study: Study) -> Iterator[Finding]:
    """Mean distance to where patches look, weighted by how much, for each head; beside it that of looking everywhere alike.

    And the mean over heads as a share of the latter. What goes to prefix tokens is left out. Where findings have a folder, the mean attention of block 2 over images and
    heads is saved there, (h, w, h, w).
    """
    study.need_tokens()
    blocks = max(1, study.last)
    for block in range(1, blocks + 1):
        each, total = [], torch.zeros(())
        for weights in _attention(study, block):
            apart = distances(study.grids[block]).to(weights)
            each.append((weights * apart).sum(-1).mean(-1).cpu())  # (B, heads)
            total = total + weights.mean(1).sum(0).cpu()
        heads = torch.cat(each)
        about: dict[str, Any] = {"depth": block, "count": len(heads)}
        for head, values in enumerate(heads.T, start=1):
            spread = float(values.std(correction=0))
            yield study.finding("distance", float(values.mean()), case=f"head {head}", spread=spread, **about)
        uniform = float(distances(study.grids[block]).mean())
        yield study.finding("distance", uniform, case="uniform", **about)
        yield study.finding("relative distance", float(heads.mean()) / uniform, **about)
        if block == min(SHOWN, blocks) and study.arrays is not None:
            study.arrays.mkdir(parents=True, exist_ok=True)
            grid = study.grids[block]
            image = (total / len(heads)).numpy().reshape(*grid, *grid)
            np.save(study.arrays / probe_attention_file(study.model, study.twin), image)


def _attention(study: Study, block: int) -> Iterator[Tensor]:
    """How much each patch looks at each other, (B, heads, N, N), rows adding up to 1, some images at a time."""
    adapter, seen = study.at(study.sides), 0
    for images, _ in study.album.batches("natural", study.sides):
        weights = adapter.attention(images[: IMAGES - seen], block).float()
        h, w = study.grids.get(block, (0, 0))
        if weights.shape[-1] != h * w:
            raise UnsupportedError(
                f"block {block} of '{study.model}' attends over {weights.shape[-1]} tokens, and its grid is {h}x{w}"
            )
        yield weights / weights.sum(-1, keepdim=True)
        seen += len(weights)
        if seen >= IMAGES:
            return
