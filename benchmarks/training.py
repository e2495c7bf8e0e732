"""A training step against a minimal loop, on timm's transformer of the same shape and on the same model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import cpvt
from benchmarks.measuring import Figure, alternate, ratio
from benchmarks.rehearsal import rehearse
from cpvt.models.linear import plain_linear
from cpvt.models.sizes import model_config


class Case(NamedTuple):
    """What is trained; it takes 1 / `part` of the rounds."""

    model: str
    size: int
    batch_size: int
    classes: int
    part: int


CASES = (Case("cpvt_small_gap", 224, 8, 1000, part=3), Case("cpvt_mini_peg5_gap", 32, 64, 10, part=1))


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only training`."""
    for case in CASES:
        ours = rehearse(case.model, case.size, case.batch_size, case.classes)
        forms: dict[str, Callable[[], None]] = {
            "ours": ours,
            "ours, nn.Linear": plain_linear()(ours),
            "plain, timm's": _plain_loop(counterpart(case), case),
            "plain, ours": _plain_loop(cpvt.create_model(case.model, num_classes=case.classes), case),
        }
        seconds = alternate(forms, -(-rounds // case.part), warm_up=1)
        what = f"{case.size}, batch {case.batch_size}"
        against = f"throughput of cpvt's training of {case.model} / plain loop on timm's of the same shape, {what}"
        yield ratio(against, seconds["plain, timm's"], seconds["ours"])
        yield ratio(f"{against}, nn.Linear in both", seconds["plain, timm's"], seconds["ours, nn.Linear"])
        alone = f"throughput of cpvt's training of {case.model} / plain loop on the same model, {what}"
        yield ratio(alone, seconds["plain, ours"], seconds["ours"])


def counterpart(case: Case) -> VisionTransformer:
    """Return timm's transformer of the same width, depth and patch size, with learned positions and no class token."""
    shape = model_config(case.model)
    return VisionTransformer(
        case.size, shape.patch_size, num_classes=case.classes, embed_dim=shape.embed_dim, depth=shape.depth,
        num_heads=shape.num_heads, class_token=False, global_pool="avg", fc_norm=False,
    )  # fmt: skip


def _plain_loop(model: nn.Module, case: Case) -> Callable[[], None]:
    """Forward, cross entropy, backward, a step of fused AdamW; no schedule, label smoothing, metrics or logs."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.randn(case.batch_size, 3, case.size, case.size)
    labels = torch.arange(case.batch_size) % case.classes

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
