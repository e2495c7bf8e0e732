"""Peak memory of a forward as one image grows to 1024 pixels, one process per size."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import cpvt
from benchmarks.measuring import Figure, mark_memory, peak_memory

SIZES = (512, 768, 1024)
ENCODINGS = ("peg", "learned", "sincos", "rope", "relative")


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only memory`; one round is enough, as nothing is random."""
    for encoding in ENCODINGS:
        for size in SIZES:
            tokens = (size // 16) ** 2
            what = f"forward of cpvt_small_gap with {encoding}, one image of {size}x{size}, {tokens:,} tokens"
            yield Figure(what, round(peak_memory(forward_once, encoding, size) / tokens), "bytes a token")


def forward_once(encoding: str, size: int) -> None:
    """One forward without gradients."""
    model = cpvt.create_model("cpvt_small_gap", encoding=encoding).eval()
    images = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        model(images[..., :64, :64])
        mark_memory()
        model(images)
