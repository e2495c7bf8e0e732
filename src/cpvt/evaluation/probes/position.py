"""Absolute position: how well row and column can be read from a token, by a linear readout, at each depth.

The readout is fitted on the tokens of half of the images and tested on the other half. Targets are the token's row and
column, scaled so that the first and last token's centres of a grid of n stand at -1 + 1 / n and 1 - 1 / n.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cpvt.evaluation.probes.context import ProbeContext, Sides, each_size
from cpvt.evaluation.probes.readout import Readout, Sums
from cpvt.grids import Grid
from cpvt.results.probe_results import ProbeResult

KINDS = ("noise", "natural")


def coordinates(grid: Grid) -> Tensor:
    """Row and column of each token's centre on an image that goes from -1 to 1, (h, w, 2)."""
    axes = [(2 * torch.arange(length, dtype=torch.float64) + 1) / length - 1 for length in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def in_patches(scaled: Tensor, grid: Grid) -> Tensor:
    """Scaled coordinates (..., 2) of a grid, counted in patches from the top left: 0, 1, 2, ..."""
    return ((scaled + 1) * torch.tensor(grid, dtype=torch.float64) - 1) / 2


def explained(found: Tensor, expected: Tensor) -> Tensor:
    """R2 of each image and axis, (images, 2), of readings (images, h, w, 2) of coordinates (h, w, 2).

    Targets are the same for every image, so the mean over images is the R2 of all tokens together. An axis with a
    single place has no variance to explain and is left out of means (NaN).
    """
    variance = (expected - expected.mean((0, 1))).square().sum((0, 1))
    return 1 - (found - expected).square().sum((1, 2)) / variance.where(variance > 0, torch.nan)


def fit(context: ProbeContext, kind: str) -> dict[int, Readout]:
    """A readout for each depth, from half of the images at the training size."""
    context.need_tokens()
    adapter, sums = context.at(context.sides), {depth: Sums() for depth in context.grids}
    for images, _ in context.dataset.batches(kind, context.sides, "fit"):
        for depth, tokens in adapter.token_maps(images).items():
            targets = coordinates((tokens.shape[1], tokens.shape[2])).expand(len(tokens), -1, -1, -1)
            sums[depth].add(tokens.flatten(0, 2), targets.flatten(0, 2))
    return {depth: each.solve() for depth, each in sums.items()}


def read(context: ProbeContext, readouts: dict[int, Readout], kind: str, sides: Sides) -> dict[int, Tensor]:
    """What each depth's readout says of the other half of the images, (images, h, w, 2)."""
    adapter, found = context.at(sides), {depth: list[Tensor]() for depth in readouts}
    for images, _ in context.dataset.batches(kind, sides, "test"):
        for depth, tokens in adapter.token_maps(images).items():
            found[depth].append(readouts[depth](tokens).cpu())
    return {depth: torch.cat(each) for depth, each in found.items()}


def readout(context: ProbeContext) -> Iterator[ProbeResult]:
    """R2 at the training size, of both axes and of each; and how it falls with the distance from the border."""
    for kind in KINDS:
        for depth, found in read(context, fit(context, kind), kind, context.sides).items():
            expected = coordinates((found.shape[1], found.shape[2]))
            each = explained(found, expected)
            both = each.nanmean(1)
            yield context.probe_result("r2", float(both.mean()), depth=depth, images=kind,
                                spread=float(both.std(correction=0)), count=len(found))  # fmt: skip
            for axis, values in zip(("row", "column"), each.T):
                yield context.probe_result(
                    "r2", float(values.mean()), case=axis, depth=depth, images=kind, count=len(found)
                )
            yield from _border(context, found, expected, depth, kind)


def _border(context: ProbeContext, found: Tensor, expected: Tensor, depth: int, kind: str) -> Iterator[ProbeResult]:
    """Mean absolute error of the readings, in patches, of tokens so many tokens from the nearest edge.

    Beside it that of a guess at the middle of the image. Not R2: the variance of the coordinates differs from ring to
    ring, so the same error would give another R2 on each, and in the middle, where there is hardly any, none at all.
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
            yield context.probe_result(name, value, case=f"distance {ring}", depth=depth, images=kind, count=len(found))


def longer(context: ProbeContext) -> Iterator[ProbeResult]:
    """The readout fitted at the training size, tested there and at larger ones, by two conventions of the same reading.

    scaled: row and column from -1 to 1, whatever the size. absolute: rows and columns counted in patches from the top left,
    so that most of a larger image lies beyond anything the readout was fitted on.
    """
    for kind in KINDS:
        readouts = fit(context, kind)

        def measure(sides: Sides, kind: str = kind, readouts: dict[int, Readout] = readouts) -> Iterator[ProbeResult]:
            for depth, found in read(context, readouts, kind, sides).items():
                grid = (found.shape[1], found.shape[2])
                expected = coordinates(grid)
                conventions = {
                    "scaled": (found, expected),
                    "absolute": (in_patches(found, context.grids[depth]), in_patches(expected, grid)),
                }
                for case, (reading, target) in conventions.items():
                    both, error = explained(reading, target).nanmean(1), (reading - target).abs().mean()
                    about: dict[str, Any] = {
                        "case": case,
                        "depth": depth,
                        "images": kind,
                        "sides": sides,
                        "count": len(found),
                    }
                    yield context.probe_result("r2", float(both.mean()), spread=float(both.std(correction=0)), **about)
                    yield context.probe_result("error", float(error), **about)

        yield from measure(context.sides)
        yield from each_size(context, "readout", measure)
