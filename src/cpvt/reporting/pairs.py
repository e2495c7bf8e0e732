"""Models tested on the same images, compared image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpvt.config import Size
from cpvt.reporting.summary import BASELINE, label_of, pixels
from cpvt.results.rows import Row, unpack_hits

DRAWS = 10_000  # of the bootstrap
Key = tuple[str, Size, str]  # protocol, size, label


@dataclass(frozen=True)
class Difference:
    """How much better one model names the same images than another, in points of accuracy."""

    protocol: str
    size: Size
    label: str
    reference: str
    points: float
    low: float  # of the middle 95 % of the bootstrap's draws
    high: float
    images: int


def paired_differences(rows: Sequence[Row], seed: int = 0) -> list[Difference]:
    """Every model against one (`learned` where it is there, else the first) at each size, with a 95 % interval.

    Images are drawn anew with replacement, 10,000 times; a model with several seeds counts with their mean on each
    image. The interval says how far the difference would move with other images, not with other trainings.
    """
    hits = _hits(rows)
    labels = list(dict.fromkeys(label for _, _, label in hits))
    reference = BASELINE if BASELINE in labels else next(iter(labels), "")
    found = []
    for (protocol, size, label), mine in sorted(hits.items(), key=lambda item: (item[0][0], pixels(item[0][1]))):
        theirs = hits.get((protocol, size, reference))
        if label == reference or theirs is None or len(theirs) != len(mine):
            continue
        low, high = bootstrap_interval(mine - theirs, seed)
        points = float(np.mean(mine - theirs)) * 100
        found.append(Difference(protocol, size, label, reference, points, 100 * low, 100 * high, len(mine)))
    return sorted(found, key=lambda each: labels.index(each.label))


def _hits(rows: Sequence[Row]) -> dict[Key, NDArray[Any]]:
    """Share of the seeds that were right on each image, where every seed was shown as many."""
    groups = {key: list(hits.values()) for key, hits in hits_by_seed(rows).items()}
    return {key: np.mean(seeds, axis=0) for key, seeds in groups.items() if len({len(hits) for hits in seeds}) == 1}


def hits_by_seed(rows: Sequence[Row]) -> dict[Key, dict[int, NDArray[Any]]]:
    """Seed -> 1 for each image that was right and 0 for the others, where every image of the first data set was read."""
    found: dict[Key, dict[int, NDArray[Any]]] = {}
    for row in rows:
        if row.hits and row.total and not row.skipped and row.data == rows[0].data:
            key = (row.protocol, row.size, label_of(row, rows))
            found.setdefault(key, {})[row.seed] = np.array(unpack_hits(row.hits, row.total), dtype=np.int8)
    return found


def bootstrap_interval(values: NDArray[Any], seed: int = 0) -> tuple[float, float]:
    """Where the middle 95 % of the mean of `values` fall when they are drawn anew with replacement."""
    low, high = np.quantile(draw_means(values, np.random.default_rng(seed)), [0.025, 0.975])
    return float(low), float(high)


def draw_means(values: NDArray[Any], generator: np.random.Generator, draws: int = DRAWS) -> NDArray[Any]:
    """Means of `values` drawn anew with replacement, so many times."""
    kinds, counts = np.unique(values, return_counts=True)  # few kinds: drawing counts of kinds is drawing images
    drawn: NDArray[Any] = generator.multinomial(len(values), counts / len(values), size=draws) @ kinds / len(values)
    return drawn
