"""Translation: whether token maps follow shifts of the image, and whether the prediction stays.

There are three methods. circular: pixels that leave on one side enter on the other. canvas: the whole image on a larger
canvas of zeros (after normalisation), at two positions. crop: two crops of the training size from a larger image.
Shifts are down and right: by one pixel, and by one and two of the model's largest tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cpvt.adapters import ModelAdapter
from cpvt.evaluation.probes.context import Change, Parts, ProbeContext, Sides, logits_of
from cpvt.results.probe_results import ProbeResult

METHODS = ("circular", "canvas", "crop")
KINDS = ("natural", "noise")
NOT_SHIFTED = "not shifted"


def shifts(context: ProbeContext) -> dict[str, int]:
    """Name -> pixels of each shift; only one pixel where the patch size is unknown."""
    return {"1 pixel": 1} | ({"1 patch": context.stride, "2 patches": 2 * context.stride} if context.patch else {})


def shift(images: Tensor, method: str, pixels: int, stride: int) -> Tensor:
    """Images (B, C, H, W) shifted by a number of pixels."""
    height, width = images.shape[2:]
    if method == "circular":
        return images.roll((pixels, pixels), (2, 3))
    if method == "crop":  # the crop moves up and left, so its content moves down and right
        start, rows, columns = 2 * stride - pixels, height - 2 * stride, width - 2 * stride
        return images[:, :, start : start + rows, start : start + columns]
    start = stride + pixels  # one token off the corner
    canvas = images.new_zeros(*images.shape[:2], height + 4 * stride, width + 4 * stride)
    canvas[:, :, start : start + height, start : start + width] = images
    return canvas


def overlap(before: Tensor, after: Tensor, method: str, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The tokens of both maps (B, h, w, D) that show the same, `after` moved back by rows and columns."""
    if method == "circular":
        return before, after.roll((-rows, -columns), (1, 2))
    return before[:, : before.shape[1] - rows, : before.shape[2] - columns], after[:, rows:, columns:]


def maps(context: ProbeContext, method: str) -> Iterator[ProbeResult]:
    """At each depth, the difference of the tokens of shifted images, moved back, from those of the images."""
    context.need_tokens()
    stride = context.stride
    adapter, sides = _adapter(context, method)
    for kind in KINDS:
        changes: dict[tuple[str, int], Change] = {}
        for images, _ in context.dataset.batches(kind, _sides_before(context, method)):
            before = adapter.token_maps(shift(images, method, 0, stride))
            for name, pixels in shifts(context).items():
                if pixels % stride:
                    continue  # token maps cannot move by part of a token
                after = adapter.token_maps(shift(images, method, pixels, stride))
                for depth, map_before in before.items():
                    rows, columns = (pixels * length // side for length, side in zip(map_before.shape[1:3], sides))
                    if min(map_before.shape[1] - rows, map_before.shape[2] - columns) > 0:
                        pair = overlap(map_before, after[depth], method, rows, columns)
                        changes.setdefault((name, depth), Change()).add(pair[1], pair[0])
        for (name, depth), change in changes.items():
            value, spread, count = change.numbers
            yield context.result(
                "token error", value, case=f"{method}, {name}", depth=depth, images=kind, sides=sides, spread=spread,
                count=count,
            )  # fmt: skip


def predictions(context: ProbeContext, method: str) -> Iterator[ProbeResult]:
    """The fraction of images whose prediction stays, and the accuracy before and after."""
    stride = context.stride
    adapter, sides = _adapter(context, method)
    predicted: dict[str, list[Tensor]] = {}
    labels = []
    for images, classes in context.dataset.batches("natural", _sides_before(context, method)):
        labels.append(classes)
        for name, pixels in {NOT_SHIFTED: 0, **shifts(context)}.items():
            logits = logits_of(adapter, shift(images, method, pixels, stride))
            predicted.setdefault(name, []).append(logits.argmax(1).cpu())
    before, correct = torch.cat(predicted[NOT_SHIFTED]), torch.cat(labels)
    for name, each in predicted.items():
        classes = torch.cat(each)
        about: dict[str, Any] = {"case": f"{method}, {name}", "sides": sides, "count": len(classes)}
        if name != NOT_SHIFTED:
            yield context.result("same prediction", float((classes == before).double().mean()), **about)
        if context.has_labels:
            yield context.result("accuracy", float((classes == correct).double().mean()), **about)


def _adapter(context: ProbeContext, method: str) -> tuple[ModelAdapter, Sides]:
    """The adapter, and the size of the images it receives."""
    extra = 4 * context.stride if method == "canvas" else 0
    sides = (context.sides[0] + extra, context.sides[1] + extra)
    return context.at(sides), sides


def _sides_before(context: ProbeContext, method: str) -> Sides:
    """The size of the images before they are shifted."""
    extra = 2 * context.stride if method == "crop" else 0
    return context.sides[0] + extra, context.sides[1] + extra


PARTS: Parts = {
    f"{name}, {method}": partial(part, method=method)
    for method in METHODS
    for name, part in (("tokens", maps), ("predictions", predictions))
}
