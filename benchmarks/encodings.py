"""What each positional encoding costs: forward time and peak memory of a model, against the same model with none."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

import cpvt
from benchmarks.measuring import Figure, alternate, mark_memory, peak_memory, ratio
from cpvt.encodings import TABLE

MODEL = "cpvt_small_gap"
LARGE = 1024  # pixels, of the peak memory too
SIZES = ((224, 8, 1), (LARGE, 1, 5))  # pixels, images in a batch, by how much fewer rounds


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only encodings`."""
    for size, batch, fewer in SIZES:
        images = torch.randn(batch, 3, size, size)
        models = {name: cpvt.create_model(MODEL, encoding=name).eval() for name in TABLE}
        with torch.inference_mode():
            forms = {name: functools.partial(model, images) for name, model in models.items()}
            seconds = alternate(forms, max(1, rounds // fewer), warm_up=1)
        for name in TABLE:
            if name != "none":
                yield ratio(f"forward with {name} / none, {size}, batch {batch}", seconds[name], seconds["none"])
    for name in TABLE:
        mebibytes = round(peak_memory(forward_once, name) / 2**20)
        yield Figure(f"peak memory of a forward with {name}, one image of {LARGE}x{LARGE}", mebibytes, "MiB")


def forward_once(encoding: str) -> None:
    """One forward without gradients."""
    model = cpvt.create_model(MODEL, encoding=encoding).eval()
    images = torch.randn(1, 3, LARGE, LARGE)
    with torch.inference_mode():
        model(images[..., :64, :64])
        mark_memory()
        model(images)
