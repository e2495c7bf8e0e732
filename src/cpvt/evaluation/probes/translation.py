"""Translation: whether token maps move with the image, and whether the prediction stays, under shifts of three ways.

circular: pixels that leave on one side come in on the other; nothing is lost, and nothing natural looks so.
canvas: the whole image on zeros (after normalisation), half as large again or more, at two places.
crop: two cuts of the training size from a larger image; what leaves is lost, and the edges are real.
All shifts are down and right by the same number of pixels: one pixel, or one and two of the model's largest tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cpvt.adapters import ModelAdapter
from cpvt.evaluation.probes.context import Change, ProbeContext, Sides, logits_of
from cpvt.results.probe_results import ProbeResult

WAYS = ("circular", "canvas", "crop")
KINDS = ("natural", "noise")


def shifts(context: ProbeContext) -> dict[str, int]:
    """Words on each shift -> pixels; by a pixel alone where the patch is not known."""
    return {"1 pixel": 1} | ({"1 patch": context.stride, "2 patches": 2 * context.stride} if context.patch else {})


def shift(images: Tensor, way: str, pixels: int, stride: int) -> Tensor:
    """Images (B, C, H, W) as a model sees them after a shift by so many pixels."""
    height, width = images.shape[2:]
    if way == "circular":
        return images.roll((pixels, pixels), (2, 3))
    if way == "crop":  # the cut moves up and left, so what it shows moves down and right
        start, rows, columns = 2 * stride - pixels, height - 2 * stride, width - 2 * stride
        return images[:, :, start : start + rows, start : start + columns]
    start = stride + pixels  # one token off the corner, where borders are felt most
    canvas = images.new_zeros(*images.shape[:2], height + 4 * stride, width + 4 * stride)
    canvas[:, :, start : start + height, start : start + width] = images
    return canvas


def overlap(before: Tensor, after: Tensor, way: str, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The tokens of both maps (B, h, w, D) that show the same, the later ones moved back by so many rows and columns."""
    if way == "circular":
        return before, after.roll((-rows, -columns), (1, 2))
    return before[:, : before.shape[1] - rows, : before.shape[2] - columns], after[:, rows:, columns:]


def maps(context: ProbeContext, way: str) -> Iterator[ProbeResult]:
    """At each depth, how far the tokens of shifted images, moved back, lie from those of the images as they were."""
    context.need_tokens()
    stride = context.stride
    adapter, shown = _ready(context, way)
    for kind in KINDS:
        changes: dict[tuple[str, int], Change] = {}
        for images, _ in context.dataset.batches(kind, _read(context, way)):
            before = adapter.token_maps(shift(images, way, 0, stride))
            for words, pixels in shifts(context).items():
                if pixels % stride:
                    continue  # token maps cannot be moved by part of a token
                after = adapter.token_maps(shift(images, way, pixels, stride))
                for depth, map_before in before.items():
                    rows, columns = (pixels * length // side for length, side in zip(map_before.shape[1:3], shown))
                    if min(map_before.shape[1] - rows, map_before.shape[2] - columns) > 0:
                        pair = overlap(map_before, after[depth], way, rows, columns)
                        changes.setdefault((words, depth), Change()).add(pair[1], pair[0])
        for (words, depth), change in changes.items():
            value, spread, count = change.numbers
            yield context.probe_result("token error", value, case=f"{way}, {words}", depth=depth, images=kind, sides=shown,
                                spread=spread, count=count)  # fmt: skip


def predictions(context: ProbeContext, way: str) -> Iterator[ProbeResult]:
    """The share of images whose prediction stays, beside the accuracy before and after."""
    stride = context.stride
    adapter, shown = _ready(context, way)
    names: dict[str, list[Tensor]] = {"": []}
    labels = []
    for images, classes in context.dataset.batches("natural", _read(context, way)):
        labels.append(classes)
        for words, pixels in {"": 0, **shifts(context)}.items():
            found = logits_of(adapter, shift(images, way, pixels, stride)).argmax(1).cpu()
            names.setdefault(words, []).append(found)
    guessed, right = {words: torch.cat(each) for words, each in names.items()}, torch.cat(labels)
    for words, guess in guessed.items():
        case, count = f"{way}, {words or 'not shifted'}", len(guess)
        if words:
            yield context.probe_result(
                "same prediction", float((guess == guessed[""]).double().mean()), case=case, sides=shown, count=count
            )
        if context.has_labels:
            yield context.probe_result(
                "accuracy", float((guess == right).double().mean()), case=case, sides=shown, count=count
            )


def _ready(context: ProbeContext, way: str) -> tuple[ModelAdapter, Sides]:
    """The adapter, and the size that it is shown."""
    extra = 4 * context.stride if way == "canvas" else 0
    shown = (context.sides[0] + extra, context.sides[1] + extra)
    return context.at(shown), shown


def _read(context: ProbeContext, way: str) -> Sides:
    """The size at which images are read before they are shifted."""
    extra = 2 * context.stride if way == "crop" else 0
    return context.sides[0] + extra, context.sides[1] + extra
