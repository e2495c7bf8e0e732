"""Fraction of the machine's matrix-multiply rate that cpvt_small_gap reaches, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cpvt
from benchmarks.measuring import Figure, alternate, ratio
from cpvt.models.linear import plain_linear

SIZE, BATCHES, SQUARE = 224, (1, 8), 1536


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only matmul`."""
    model = cpvt.create_model("cpvt_small_gap").eval()
    compiled: Any = torch.compile(model)
    square, image = torch.randn(SQUARE, SQUARE), torch.randn(1, SQUARE, 1, SQUARE).permute(0, 3, 1, 2)
    for batch in BATCHES:
        images = torch.randn(batch, 3, SIZE, SIZE)
        tokens = batch * (SIZE // 16) ** 2
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(images)
        forms: dict[str, Callable[[], Any]] = {
            "square by MKL": lambda: square @ square,
            "square by oneDNN": lambda: F.conv2d(image, square[:, :, None, None]),
            "linear layers": _linear_layers(model, tokens),
            "eager": lambda: model(images),
            "compiled": lambda: compiled(images),
            "eager with nn.Linear": plain_linear()(lambda: model(images)),
        }
        with torch.inference_mode():
            seconds = alternate(forms, rounds)
        fastest = [min(pair) for pair in zip(seconds["square by MKL"], seconds["square by oneDNN"])]
        operations = 2 * SQUARE**3 / counter.get_total_flops()
        yield ratio(
            f"rate of a {SQUARE}x{SQUARE} product by oneDNN / MKL, measured with batch {batch}",
            seconds["square by MKL"],
            seconds["square by oneDNN"],
        )
        for name in ("eager", "compiled", "eager with nn.Linear"):
            scaled = [operations * second for second in seconds[name]]  # time for the operations of the square product
            what = f"cpvt_small_gap, {SIZE}, batch {batch}, {name}"
            yield ratio(f"{what}: fraction of the rate of a {SQUARE}x{SQUARE} product", fastest, scaled)
            alone = f"{what}: fraction of its time that its linear layers need alone"
            yield ratio(alone, seconds["linear layers"], seconds[name])


def _linear_layers(model: nn.Module, tokens: int) -> Callable[[], list[Tensor]]:
    """The model's own linear layers, one after the other, on tokens in memory."""
    layers = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]
    inputs = {width: torch.randn(1, tokens, width) for width in {layer.in_features for layer in layers}}
    return lambda: [layer(inputs[layer.in_features]) for layer in layers]
