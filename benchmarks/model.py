"""cpvt_small_gap against timm's deit_small_patch16_224: forward and training step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F

import cpvt
from benchmarks.measuring import Figure, alternate, ratio
from cpvt.models.linear import plain_linear

BATCH, SIZE = 8, 224
OURS, THEIRS = "cpvt_small_gap", "deit_small_patch16_224"


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only model`."""
    models = {"cpvt": cpvt.create_model(OURS), "timm": timm.create_model(THEIRS)}
    images, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 1000, (BATCH,))
    for model in models.values():
        model.eval()
    what = f"throughput of {OURS} / {THEIRS}, {SIZE}, batch {BATCH}"
    with torch.inference_mode():
        yield from _compare(f"{what}, forward", {k: functools.partial(m, images) for k, m in models.items()}, rounds)
    steps = {name: _training_step(model, images, labels) for name, model in models.items()}
    yield from _compare(f"{what}, training step", steps, rounds)


def _compare(what: str, forms: dict[str, Callable[[], Any]], rounds: int) -> Iterator[Figure]:
    """Both as they are, and with nn.Linear in cpvt's model as in timm's."""
    seconds = alternate({**forms, "alike": plain_linear()(forms["cpvt"])}, rounds)
    yield ratio(what, seconds["timm"], seconds["cpvt"])
    yield ratio(f"{what}, nn.Linear in both", seconds["timm"], seconds["alike"])


def _training_step(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step
