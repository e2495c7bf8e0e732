"""Estimates the object scale without labels: of several, the one of the lowest entropy of the model's answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from cpvt.adapters.base import ModelAdapter, kept_modes, sides_of, usable
from cpvt.config.scale import ScaleRule, fit_factor, parse_scale, parse_test_rule

Pair = tuple[float, float]
STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def candidate_scales(adapter: ModelAdapter, size: tuple[int, int]) -> list[Pair]:
    """The scales tried for images of these sides (height, width), ascending.

    Each of STEPS below the ratio of the image to the training size, and that ratio, at least 1; along the axis of the
    smaller ratio none exceeds it. Raises ValueError where the training size is not known.
    """
    largest = adapter.scale_at("fit", size)
    if largest is None:
        raise ValueError(f"'{adapter.name}' does not state its training size, so candidates= must list the scales")
    rows, columns = largest
    found = [(min(step, rows), min(step, columns)) for step in STEPS if step < max(rows, columns)]
    return [*found, (rows, columns)]


def rule_under(protocol_rule: str | None, scale: Any, adapter: ModelAdapter) -> ScaleRule | None:
    """The scale rule of a model under a protocol: for 'protocol' the protocol's own, else what was asked for.

    A model whose own rule is 'paper' is given none, and one whose rule is 'fit*FACTOR' keeps its factor. None where
    there is none to give. Raises ValueError for a model that does not take what was asked for.
    """
    rule = parse_test_rule(scale)
    if rule == "paper" and not adapter.takes_scale:
        return None
    if rule == "protocol":
        own = getattr(adapter.model, "scale", None) if adapter.takes_scale else None
        keeps_own = own == "paper" or (protocol_rule == "fit" and own is not None and fit_factor(own) is not None)
        return own if keeps_own else protocol_rule if adapter.takes_scale else None
    return "auto" if rule == "auto" and adapter.with_scale("fit") else adapter.with_scale(rule).scale


def logits_by_scale(adapter: ModelAdapter, images: Tensor, candidates: Sequence[Any]) -> Tensor:
    """Logits (candidates, B, classes) of images (B, C, H, W), at each scale; ValueError for less than two classes."""
    found = torch.stack([usable(adapter.with_scale(scale).logits(images), adapter.name) for scale in candidates])
    if found.shape[2] < 2:
        raise ValueError(f"a scale is estimated from class probabilities; '{adapter.name}' gives {found.shape[2]}")
    return found


def entropy(logits: Tensor) -> Tensor:
    """Entropy (...) in nats of the probabilities that logits (..., classes) stand for: low where a model is sure."""
    return torch.special.entr(logits.cpu().double().softmax(-1)).sum(-1)


def lowest_entropy_logits(adapter: ModelAdapter, images: Tensor) -> tuple[Tensor, list[Pair]]:
    """For each image (B, C, H, W) the logits (B, classes) at the scale of their lowest entropy, and that scale."""
    candidates = candidate_scales(adapter, sides_of(images))
    found = logits_by_scale(adapter, images, candidates)
    best = entropy(found).argmin(0)
    return found[best.to(found.device), torch.arange(len(images))], [candidates[number] for number in best.tolist()]


def estimate_scale(
    model: Any, images: Tensor | Iterable[Tensor], candidates: Sequence[Any] | None = None
) -> float | Pair:
    """Estimate how much larger objects are than in training: the scale with the lowest mean entropy, no labels needed.

    model: one of ours, a retrofitted one, what `load` returned, or an adapter. images: (B, C, H, W), or several such
    batches or images (C, H, W) of one size; the estimate is for all of them together, so give it a set taken alike: 64
    images do. For a single image the estimate is worth less. candidates: scales to choose from, ascending; by default
    1, 1.5, 2, 3, 4, 6, 8 as far as they are below the ratio of the image to the training size, and that ratio. Of equal
    ones the first is taken. Returns a number, or (rows, columns) where they differ.
    Raises ValueError for a model without classes, or that takes no scale, and where the answers are not finite.
    """
    from cpvt.adapters import adapter_of

    batches = [_batch(each) for each in ([images] if isinstance(images, Tensor) else images)]
    if not sum(map(len, batches)):
        raise ValueError("a scale is estimated from images; got none")
    if isinstance(model, torch.nn.Module) and not getattr(model, "num_classes", 1):
        raise ValueError("a scale is estimated from class probabilities; this model has no head, num_classes=0")
    with kept_modes(model):
        adapter = model if isinstance(model, ModelAdapter) else getattr(model, "adapter", None) or adapter_of(model)
        scales = candidate_scales(adapter, sides_of(batches[0])) if candidates is None else list(candidates)
        if not scales:
            raise ValueError("candidates must be one scale or more; got none")
        return least_uncertain(scales, total_entropy(adapter, batches, scales))


def _batch(images: Tensor) -> Tensor:
    """Images as (B, C, H, W); ValueError for anything but these and a single one."""
    if not isinstance(images, Tensor) or images.ndim not in (3, 4):
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be tensors (B, C, H, W) or (C, H, W), as `run.transform` gives them; got {got}")
    return images if images.ndim == 4 else images[None]


def total_entropy(adapter: ModelAdapter, batches: Iterable[Tensor], scales: Sequence[Any]) -> Tensor:
    """The entropy of the answers to all images of some batches, at each scale; (scales,)."""
    total = torch.zeros(len(scales), dtype=torch.float64)
    for batch in batches:
        total += entropy(logits_by_scale(adapter, batch, scales)).sum(1).cpu()
    return total


def least_uncertain(scales: Sequence[Any], entropies: Tensor) -> float | Pair:
    """The scale of the lowest entropy, the first of equal ones: a number, or (rows, columns) where they differ."""
    best: Any = parse_scale(scales[int(entropies.argmin())])
    return best[0] if isinstance(best, tuple) and best[0] == best[1] else best
