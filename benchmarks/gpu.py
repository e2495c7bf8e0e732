"""On a GPU, in bfloat16: models against timm's, lists of images packed, and PEG given a scale."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F

import cpvt
from benchmarks.fused import gpu_clock
from benchmarks.measuring import Figure, alternate, ratio, wall
from benchmarks.packed import draw

NEEDS_GPU = True
DEVICE, DTYPE = "cuda", torch.bfloat16
OURS, THEIRS, SIZE, BATCH = "cpvt_small_gap", "deit_small_patch16_224", 224, 256
LIST, IMAGES, SIDES = "cpvt_small", 256, (96, 320)
PEG_SHAPE, SCALES = (64, (28, 28), 384), (1.5, 2, 3)


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only gpu`."""
    clock = gpu_clock() if DEVICE == "cuda" else wall
    models = {"cpvt": cpvt.create_model(OURS).to(DEVICE), "timm": timm.create_model(THEIRS).to(DEVICE)}
    images = torch.randn(BATCH, 3, SIZE, SIZE, device=DEVICE)
    labels = torch.randint(0, 1000, (BATCH,), device=DEVICE)
    what = f"throughput of {OURS} / {THEIRS}, {SIZE}, batch {BATCH}, bfloat16"
    for name, make in (("forward", _forward), ("training step", _training_step)):
        forms = {key: make(model, images, labels) for key, model in models.items()}
        seconds = alternate(forms, rounds, clock=clock)
        yield ratio(f"{what}, {name}", seconds["timm"], seconds["cpvt"])
    yield from _packed(rounds, clock)
    batch, grid, width = PEG_SHAPE
    layer, tokens = cpvt.PEG(width, device=DEVICE, dtype=DTYPE), torch.randn(batch, grid[0] * grid[1], width)
    tokens = tokens.to(DEVICE, DTYPE)
    with torch.inference_mode():
        scaled = {scale: functools.partial(layer, tokens, grid, scale=scale) for scale in (1, *SCALES)}
        seconds = alternate({str(scale): form for scale, form in scaled.items()}, rounds, clock=clock)
    for scale in map(str, SCALES):
        yield ratio(f"PEG at scale {scale} / 1, {grid[0]}x{grid[1]}, width {width}", seconds[scale], seconds["1"])


def _packed(rounds: int, clock: Callable[[Callable[[], Any], int], float]) -> Iterator[Figure]:
    model = cpvt.create_model(LIST).to(DEVICE, DTYPE).eval()
    images = [image.to(DEVICE, DTYPE) for image in draw(IMAGES, SIDES)]
    with torch.inference_mode():
        forms = {
            "packed": lambda: model(images),
            "loop": lambda: torch.cat([model(image[None]) for image in images]),
        }
        together, alone = (form().float() for form in forms.values())
        off = float((together - alone).abs().max() / alone.abs().max())
        seconds = alternate(forms, max(1, rounds // 3), clock=clock)
    what = f"{IMAGES} images with sides of {SIDES[0]}-{SIDES[1]}, {LIST}, bfloat16"
    yield Figure(f"{what}: largest difference of packed and alone", round(100 * off, 3), "%")
    yield ratio(f"{what}: time loop / packed", seconds["loop"], seconds["packed"])


def _forward(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    def forward() -> None:
        with torch.inference_mode(), torch.autocast(DEVICE, DTYPE):
            model.eval()(images)

    return forward


def _training_step(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        with torch.autocast(DEVICE, DTYPE):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step
