"""Order: how far the output changes when the patches of an image are permuted; without an encoding, not at all.

Each batch has its own random permutation. A transformer without positions gives the same tokens in permuted order, so
tokens put back in order, and logits, differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from cpvt.adapters import UnsupportedError
from cpvt.evaluation.probes.context import Change, Parts, ProbeContext, logits_of
from cpvt.results.probe_results import ProbeResult

KINDS = ("natural", "noise")


def permute_patches(images: Tensor, patch: int, order: Tensor) -> Tensor:
    """Images (B, C, H, W) with patch order[i] at position i; the patch must divide the sides."""
    height, width = images.shape[2:]
    patches = images.unflatten(3, (width // patch, patch)).unflatten(2, (height // patch, patch))  # (B, C, h, p, w, p)
    moved = patches.transpose(3, 4).flatten(2, 3)[:, :, order]  # (B, C, N, p, p)
    moved = moved.unflatten(2, (height // patch, width // patch)).transpose(3, 4)
    return moved.flatten(4, 5).flatten(2, 3)


def tokens(context: ProbeContext) -> Iterator[ProbeResult]:
    """At each depth, the change of the tokens, put back in order, and of their mean."""
    context.need_tokens()
    adapter, patch = context.at(context.sides), context.need_patch()
    grid = (context.sides[0] // patch, context.sides[1] // patch)
    depths = [depth for depth, each in context.grids.items() if each == grid]
    if not depths:
        raise UnsupportedError(
            f"'{context.model}' has no token per patch at any depth, so tokens cannot be put back in order"
        )
    for kind in KINDS:
        changes, means = {depth: Change() for depth in depths}, {depth: Change() for depth in depths}
        for images, order in _permuted(context, kind):
            before = adapter.token_maps(images)
            after = adapter.token_maps(permute_patches(images, patch, order))
            for depth in depths:
                back = torch.empty_like(after[depth]).flatten(1, 2)
                back[:, order] = after[depth].flatten(1, 2)
                changes[depth].add(back.unflatten(1, grid), before[depth])
                means[depth].add(after[depth].mean((1, 2), True), before[depth].mean((1, 2), True))
        for name, found in (("token change", changes), ("mean token change", means)):
            for depth, change in found.items():
                value, spread, count = change.numbers
                yield context.result(name, value, depth=depth, images=kind, spread=spread, count=count)


def predictions(context: ProbeContext) -> Iterator[ProbeResult]:
    """The change of the logits, relative to their norm, and the fraction of predictions that change."""
    adapter, patch = context.at(context.sides), context.need_patch()
    for kind in KINDS:
        changes, flips = [], []
        for images, order in _permuted(context, kind):
            before = logits_of(adapter, images)
            after = logits_of(adapter, permute_patches(images, patch, order))
            changes.append(((after - before).norm(dim=1) / before.norm(dim=1).clamp_min(1e-12)).cpu())
            flips.append((after.argmax(1) != before.argmax(1)).cpu())
        change, flip = torch.cat(changes), torch.cat(flips).double()
        spread = float(change.std(correction=0))
        yield context.result("logit change", float(change.mean()), images=kind, spread=spread, count=len(change))
        yield context.result("predictions changed", float(flip.mean()), images=kind, count=len(flip))


def _permuted(context: ProbeContext, kind: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Each batch of images, and a permutation of its patches."""
    patch = context.need_patch()
    count = (context.sides[0] // patch) * (context.sides[1] // patch)
    for number, (images, _) in enumerate(context.dataset.batches(kind, context.sides)):
        draw = np.random.default_rng((context.dataset.seed, number))
        yield images, torch.from_numpy(draw.permutation(count)).to(images.device)


PARTS: Parts = {"tokens": tokens, "predictions": predictions}
