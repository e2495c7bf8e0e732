"""Paired comparison of models on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpvt.config import Size
from cpvt.reporting.labels import head_label, label_of, variant_of
from cpvt.reporting.summary import BASELINE, collapsed_seeds, pixels
from cpvt.results.rows import Row, unpack_hits

DRAWS = 10_000  # of the bootstrap
Key = tuple[str, Size, str]  # protocol, size, label


@dataclass(frozen=True)
class Difference:
    """The difference of two models on the same images, in points of accuracy."""

    protocol: str
    size: Size
    label: str
    reference: str
    points: float
    low: float  # end of the 95 % bootstrap interval
    high: float
    images: int


def paired_differences(rows: Sequence[Row], seed: int = 0) -> list[Difference]:
    """Each model against a reference at each size, with a 95 % bootstrap interval.

    The reference is `learned`, else the first, of the models of one precision under the same scale rule. Models
    that do no better than the largest class (`collapsed_seeds`) are left out.

    Images are resampled 10,000 times; several seeds of a model are averaged on each image. The interval covers the
    choice of images, not the randomness of training.
    """
    collapsed = collapsed_seeds(rows)
    scores = {key: each for key, each in _scores(rows).items() if (key[0], key[2]) not in collapsed}
    variants = {label_of(row, rows): variant_of(row, rows) for row in rows}
    labels = list(dict.fromkeys(label for _, _, label in scores))
    differences = []
    for (protocol, size, label), own in sorted(scores.items(), key=lambda item: (item[0][0], pixels(item[0][1]))):
        alike = [each for each in labels if variants[each] == variants[label]]
        preferred = (*(head_label(BASELINE, pool, variants[label]) for pool in ("cls", "gap")), *alike)
        reference = next(each for each in preferred if each in alike)
        other = scores.get((protocol, size, reference))
        if label == reference or other is None or len(other) != len(own):
            continue
        low, high = bootstrap_interval(own - other, seed)
        points = float(np.mean(own - other)) * 100
        differences.append(Difference(protocol, size, label, reference, points, 100 * low, 100 * high, len(own)))
    return sorted(differences, key=lambda each: labels.index(each.label))


def _scores(rows: Sequence[Row]) -> dict[Key, NDArray[Any]]:
    """Fraction of seeds that classify each image correctly, if all seeds have the same number of images."""
    groups = {key: list(masks.values()) for key, masks in masks_by_seed(rows).items()}
    return {key: np.mean(masks, axis=0) for key, masks in groups.items() if len(set(map(len, masks))) == 1}


def masks_by_seed(rows: Sequence[Row]) -> dict[Key, dict[int, NDArray[Any]]]:
    """Seed -> correct mask (images,) of 0 and 1, for rows of the first data set without skipped images."""
    masks: dict[Key, dict[int, NDArray[Any]]] = {}
    for row in rows:
        if row.hits and row.total and not row.skipped and row.data == rows[0].data:
            key = (row.protocol, row.size, label_of(row, rows))
            masks.setdefault(key, {})[row.seed] = np.array(unpack_hits(row.hits, row.total), dtype=np.int8)
    return masks


def bootstrap_interval(values: NDArray[Any], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `values`."""
    low, high = np.quantile(draw_means(values, np.random.default_rng(seed)), [0.025, 0.975])
    return float(low), float(high)


def draw_means(values: NDArray[Any], generator: np.random.Generator, draws: int = DRAWS) -> NDArray[Any]:
    """Means of `draws` bootstrap samples of `values`."""
    kinds, counts = np.unique(values, return_counts=True)  # few distinct values: draw their counts
    drawn: NDArray[Any] = generator.multinomial(len(values), counts / len(values), size=draws) @ kinds / len(values)
    return drawn
