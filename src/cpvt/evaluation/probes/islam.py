"""Maps unrelated to the image, predicted from its tokens: the test of Islam, Jia and Bruce (ICLR 2020).

The encoder is frozen and its last tokens are resized to 28 x 28. One 3 x 3 convolution without padding, which cannot
know positions by itself, predicts each map at 26 x 26. It is fitted on natural images, and again on noise, and tested
on other images. The paper trains it by gradient descent; here it is solved for, because it is linear.
Source: M. A. Islam, S. Jia, N. D. B. Bruce, How Much Position Information Do Convolutional Neural Networks Encode?
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cpvt.evaluation.probes.context import Parts, ProbeContext
from cpvt.evaluation.probes.images import KINDS
from cpvt.evaluation.probes.readout import Readout, Sums
from cpvt.results.probe_results import ProbeResult

SIDE = 28  # of the resized tokens
IMAGES = 64  # at most, to fit on and to test on: each gives 676 positions
CHUNK = 8  # images whose neighbourhoods are in memory at once


def target_maps(side: int = SIDE - 2) -> dict[str, Tensor]:
    """Name -> map (side, side) of values from 0 to 1.

    H: left to right; V: top to bottom; G: a centred Gaussian whose standard deviation is a quarter of the side; HS, VS:
    H and V repeated four times. Width and number of repeats are our choice: the paper shows them without numbers.
    """
    ramp = torch.linspace(0, 1, side, dtype=torch.float64)
    bump = torch.exp(-((ramp - 0.5) / 0.25).square() / 2)
    gaussian = bump[:, None] * bump
    stripes = (torch.arange(side, dtype=torch.float64) * 4 / side) % 1
    row = torch.ones(side, 1, dtype=torch.float64)
    return {
        "H": row * ramp,
        "V": (row * ramp).T,
        "G": (gaussian - gaussian.min()) / (gaussian.max() - gaussian.min()),
        "HS": row * stripes / stripes.max(),
        "VS": (row * stripes / stripes.max()).T,
    }


def neighbourhoods(tokens: Tensor) -> Tensor:
    """The 3 x 3 neighbourhoods (B, 676, 9 D) of tokens (B, h, w, D) resized to 28 x 28."""
    resized = F.interpolate(tokens.permute(0, 3, 1, 2).float(), (SIDE, SIDE), mode="bilinear", align_corners=False)
    return F.unfold(resized, 3).transpose(1, 2)


def maps(context: ProbeContext) -> Iterator[ProbeResult]:
    """Spearman's correlation (SPC) and mean absolute error (MAE) of each map, on every kind of image."""
    targets = target_maps()
    truth = torch.stack(list(targets.values()), dim=-1).flatten(0, 1)  # (676, maps)
    for fitted_on, tested_on in (("natural", KINDS), ("noise", ("noise",))):
        solved = _fit(context, fitted_on, truth)
        suffix = "" if fitted_on == "natural" else ", fitted on noise"
        for kind in tested_on:
            found = _read(context, solved, kind)  # (images, 676, maps)
            errors, correlations = (found - truth).abs().mean(1), correlation(found, truth)
            for number, name in enumerate(targets):
                for measure, values in (("spearman", correlations[:, number]), ("mae", errors[:, number])):
                    yield context.result(
                        measure, float(values.mean()), case=name + suffix, depth=context.last, images=kind,
                        spread=float(values.std(correction=0)), count=len(values),
                    )  # fmt: skip


def _fit(context: ProbeContext, kind: str, truth: Tensor) -> Readout:
    sums = Sums()
    for features in _features(context, kind, "fit"):
        sums.add(features.flatten(0, 1), truth.repeat(len(features), 1))
    return sums.solve()


def _read(context: ProbeContext, solved: Readout, kind: str) -> Tensor:
    return torch.cat([solved(features).cpu() for features in _features(context, kind, "test")])


def _features(context: ProbeContext, kind: str, part: str) -> Iterator[Tensor]:
    depth, adapter, seen = context.last, context.at(context.sides), 0
    for images, _ in context.dataset.batches(kind, context.sides, part):
        tokens = adapter.token_maps(images[: IMAGES - seen])[depth]
        yield from map(neighbourhoods, tokens.split(CHUNK))
        seen += len(tokens)
        if seen >= IMAGES:
            return


def correlation(found: Tensor, truth: Tensor) -> Tensor:
    """Spearman's correlation (images, maps) of maps (images, positions, maps) with the true ones (positions, maps).

    Values are rounded to three decimals before they are ranked, so that rounding errors have no rank. A constant map
    has correlation 0.
    """
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(found.round(decimals=3).numpy(), axis=1))
    true_ranks = torch.from_numpy(rankdata(truth.numpy(), axis=0))
    ranks, true_ranks = ranks - ranks.mean(1, keepdim=True), true_ranks - true_ranks.mean(0)
    length = ranks.norm(dim=1) * true_ranks.norm(dim=0)
    return (ranks * true_ranks).sum(1) / length.where(length > 0, 1)


PARTS: Parts = {"maps": maps}
