"""PEG and attention given a scale, against the same without scale."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

import cpvt
from benchmarks.measuring import Figure, alternate, ratio

GRIDS, WIDTHS, SCALES = ((14, 14), (28, 28)), (192, 384), (1.5, 2, 2.7, 3)
MODEL, SIZE = "cpvt_tiny_gap", 336  # built for 224


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only scale`."""
    for grid, width in product(GRIDS, WIDTHS):
        layer, tokens = cpvt.PEG(width).eval(), torch.randn(8, grid[0] * grid[1], width)
        with torch.inference_mode():
            forms = {str(scale): lambda scale=scale: layer(tokens, grid, scale=scale) for scale in (1, *SCALES)}
            seconds = alternate(forms, rounds, repeats=10)
        for scale in map(str, SCALES):
            yield ratio(f"PEG at scale {scale} / 1, {grid[0]}x{grid[1]}, width {width}", seconds[scale], seconds["1"])
    model = cpvt.create_model(MODEL).eval()
    images, plain = torch.randn(2, 3, SIZE, SIZE), cpvt.create_model(MODEL, attn_temperature=False).eval()
    with torch.inference_mode():
        ways = {
            "temperature": lambda: model(images, scale="pixels"),
            "none": lambda: plain(images, scale="pixels"),
            "fit": lambda: plain(images, scale="fit"),
        }
        seconds = alternate(ways, 2 * rounds)
    yield ratio(f"{MODEL} at {SIZE}, with / without a temperature", seconds["temperature"], seconds["none"])
    yield ratio(f"{MODEL} at {SIZE}, told fit (1.5) / pixels", seconds["fit"], seconds["none"])
