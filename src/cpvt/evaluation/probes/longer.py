"""Longer sequences: the position readout fitted at the training size, tested there and at larger sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cpvt.evaluation.probes.context import Parts, ProbeContext, Sides, each_size
from cpvt.evaluation.probes.position import KINDS, coordinates, explained, fit, in_patches, read
from cpvt.evaluation.probes.readout import Readout
from cpvt.results.probe_results import ProbeResult


def readout(context: ProbeContext) -> Iterator[ProbeResult]:
    """R2 and mean absolute error of the same predictions under two conventions.

    scaled: row and column from -1 to 1, whatever the size. absolute: in patches from the top left, so most of a larger
    image lies beyond anything the readout was fitted on.
    """
    for kind in KINDS:
        readouts = fit(context, kind)

        def measure(sides: Sides, kind: str = kind, readouts: dict[int, Readout] = readouts) -> Iterator[ProbeResult]:
            for depth, found in read(context, readouts, kind, sides).items():
                grid = (found.shape[1], found.shape[2])
                scaled = coordinates(grid)
                absolute = in_patches(found, context.grids[depth]), in_patches(scaled, grid)
                about: dict[str, Any] = {"depth": depth, "images": kind, "sides": sides, "count": len(found)}
                for case, (values, target) in {"scaled": (found, scaled), "absolute": absolute}.items():
                    both, error = explained(values, target).nanmean(1), (values - target).abs().mean()
                    spread = float(both.std(correction=0))
                    yield context.result("r2", float(both.mean()), case=case, spread=spread, **about)
                    yield context.result("error", float(error), case=case, **about)

        yield from measure(context.sides)
        yield from each_size(context, "readout", measure)


PARTS: Parts = {"readout": readout}
