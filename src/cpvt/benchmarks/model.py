"""cpvt_small_gap against timm's deit_small_patch16_224: forward and training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import timm
import torch
import torch.nn.functional as F

import cpvt
from cpvt.benchmarks.measuring import Figure, alternate, ratio

BATCH, SIZE = 8, 224


def run(rounds: int) -> Iterator[Figure]:
    """Figures of `cpvt bench --only model`."""
    models = {"cpvt": cpvt.create_model("cpvt_small_gap"), "timm": timm.create_model("deit_small_patch16_224")}
    pictures, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 1000, (BATCH,))
    for model in models.values():
        model.eval()
    words = f"throughput of cpvt_small_gap / deit_small_patch16_224, {SIZE}, batch {BATCH}"
    with torch.inference_mode():
        forwards = {name: lambda model=model: model(pictures) for name, model in models.items()}
        seconds = alternate(forwards, rounds)
    yield ratio(f"{words}, forward", seconds["timm"], seconds["cpvt"])
    seconds = alternate({name: _training_step(model, pictures, labels) for name, model in models.items()}, rounds)
    yield ratio(f"{words}, training step", seconds["timm"], seconds["cpvt"])


def _training_step(model: torch.nn.Module, pictures: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(pictures), labels).backward()
        optimizer.step()

    return step
