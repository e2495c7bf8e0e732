"""Absolute position: how well a linear readout predicts row and column from a token, at each depth.

The readout is fitted on one half of the images and tested on the other. Targets are row and column of the token's
centre, on an image that spans -1 to 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cpvt.evaluation.probes.context import Parts, ProbeContext, Sides
from cpvt.evaluation.probes.readout import Readout, Sums
from cpvt.grids import Grid
from cpvt.results.probe_results import ProbeResult

KINDS = ("noise", "natural")


def coordinates(grid: Grid) -> Tensor:
    """Row and column of each token's centre on an image that spans -1 to 1, (h, w, 2)."""
    axes = [(2 * torch.arange(length, dtype=torch.float64) + 1) / length - 1 for length in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def in_patches(scaled: Tensor, grid: Grid) -> Tensor:
    """Scaled coordinates (..., 2) of a grid, in patches from the top left: 0, 1, 2, ..."""
    return ((scaled + 1) * torch.tensor(grid, dtype=torch.float64) - 1) / 2


def explained(found: Tensor, expected: Tensor) -> Tensor:
    """R2 (images, 2) of each image and axis, of predictions (images, h, w, 2) of coordinates (h, w, 2).

    Targets are the same for every image, so the mean over images is the R2 of all tokens. An axis of length 1 has no
    variance to explain: its R2 is NaN, which means leave out.
    """
    variance = (expected - expected.mean((0, 1))).square().sum((0, 1))
    return 1 - (found - expected).square().sum((1, 2)) / variance.where(variance > 0, torch.nan)


def fit(context: ProbeContext, kind: str) -> dict[int, Readout]:
    """A readout for each depth, fitted on half of the images at the training size."""
    context.need_tokens()
    adapter, sums = context.at(context.sides), {depth: Sums() for depth in context.grids}
    for images, _ in context.dataset.batches(kind, context.sides, "fit"):
        for depth, tokens in adapter.token_maps(images).items():
            targets = coordinates((tokens.shape[1], tokens.shape[2])).expand(len(tokens), -1, -1, -1)
            sums[depth].add(tokens.flatten(0, 2), targets.flatten(0, 2))
    return {depth: each.solve() for depth, each in sums.items()}


def read(context: ProbeContext, readouts: dict[int, Readout], kind: str, sides: Sides) -> dict[int, Tensor]:
    """The predictions (images, h, w, 2) of each depth's readout on the other half of the images."""
    adapter, found = context.at(sides), {depth: list[Tensor]() for depth in readouts}
    for images, _ in context.dataset.batches(kind, sides, "test"):
        for depth, tokens in adapter.token_maps(images).items():
            found[depth].append(readouts[depth](tokens).cpu())
    return {depth: torch.cat(each) for depth, each in found.items()}


def readout(context: ProbeContext) -> Iterator[ProbeResult]:
    """R2 at the training size, for both axes and each, and the error by distance from the border."""
    for kind in KINDS:
        for depth, found in read(context, fit(context, kind), kind, context.sides).items():
            expected = coordinates((found.shape[1], found.shape[2]))
            each = explained(found, expected)
            both = each.nanmean(1)
            yield context.result("r2", float(both.mean()), depth=depth, images=kind,
                                spread=float(both.std(correction=0)), count=len(found))  # fmt: skip
            for axis, values in zip(("row", "column"), each.T):
                yield context.result("r2", float(values.mean()), case=axis, depth=depth, images=kind, count=len(found))
            yield from _border(context, found, expected, depth, kind)


def _border(context: ProbeContext, found: Tensor, expected: Tensor, depth: int, kind: str) -> Iterator[ProbeResult]:
    """Mean absolute error in patches, by distance from the nearest edge, and that of always guessing the centre.

    It is not R2: the variance of the coordinates shrinks from ring to ring, so the same error would give another R2 on
    each.
    """
    h, w = expected.shape[:2]
    rows, columns = torch.arange(h), torch.arange(w)
    distance = torch.minimum(torch.minimum(rows, h - 1 - rows)[:, None], torch.minimum(columns, w - 1 - columns))
    half = torch.tensor([h / 2, w / 2], dtype=torch.float64)  # patches in one unit of scaled coordinates
    error, guess = (found - expected).abs() * half, expected.abs() * half
    for ring in range(int(distance.max()) + 1):
        here = distance == ring
        for name, values in (("border error", error[:, here]), ("border guess", guess[here])):
            value = float(values.mean())
            yield context.result(name, value, case=f"distance {ring}", depth=depth, images=kind, count=len(found))


PARTS: Parts = {"readout": readout}
