"""Share of the machine's matrix-multiply rate that cpvt_small_gap reaches, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import cpvt
from cpvt.benchmarks.measuring import Figure, alternate, ratio

SIZE, BATCHES, SQUARE = 224, (1, 8), 1536


def run(rounds: int) -> Iterator[Figure]:
    """Figures of `cpvt bench --only matmul`."""
    model = cpvt.create_model("cpvt_small_gap").eval()
    compiled: Any = torch.compile(model)
    square = torch.randn(SQUARE, SQUARE)
    for batch in BATCHES:
        pictures = torch.randn(batch, 3, SIZE, SIZE)
        tokens = batch * (SIZE // 16) ** 2
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(pictures)
        forms: dict[str, Callable[[], Any]] = {
            "square": lambda: square @ square,
            "linear layers": _linear_layers(model, tokens),
            "eager": lambda: model(pictures),
            "compiled": lambda: compiled(pictures),
        }
        with torch.inference_mode():
            seconds = alternate(forms, rounds)
        operations = 2 * SQUARE**3 / counter.get_total_flops()
        for name in ("eager", "compiled"):
            scaled = [operations * second for second in seconds[name]]  # as long as it would take for the square's work
            words = f"cpvt_small_gap, {SIZE}, batch {batch}, {name}"
            yield ratio(f"{words}: share of the rate of a {SQUARE}x{SQUARE} product", seconds["square"], scaled)
            yield ratio(f"{words}: share of its time that its linear layers need alone", seconds["linear layers"], seconds[name])  # fmt: skip


def _linear_layers(model: nn.Module, tokens: int) -> Callable[[], list[Tensor]]:
    """The model's own matrix products, one after the other on tokens that lie ready, and nothing else."""
    layers = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]
    inputs = {width: torch.randn(tokens, width) for width in {layer.in_features for layer in layers}}
    return lambda: [layer(inputs[layer.in_features]) for layer in layers]
