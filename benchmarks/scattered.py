"""PEG at coordinates: peak memory per token, one process per size, and time against the dense form.

Run: python benchmarks/scattered.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

import torch
from alternating import alternate, ratio, save, show

import cpvt

WIDTH, COUNTS = 512, (50_000, 100_000, 200_000)


def step(layer: cpvt.PEG, tokens: torch.Tensor, places: torch.Tensor) -> None:
    """Forward and backward, gradients of tokens, weights and bias."""
    layer.forward_at(tokens, places).sum().backward()
    tokens.grad = None


def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens at a quarter of the places of a square, in no order: a slide, or masked training."""
    side = int((4 * count) ** 0.5) + 1
    numbers = torch.randperm(side * side)[:count]
    return torch.randn(count, WIDTH, requires_grad=True), torch.stack([numbers // side, numbers % side], dim=1)


def peak(count: int) -> int:
    """Bytes by which one forward and backward raise the peak of a fresh process that already holds its inputs."""
    layer, (tokens, places) = cpvt.PEG(WIDTH), draw(count)
    step(layer, *draw(100))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(layer, tokens, places)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def main() -> None:
    figures = []
    for count in COUNTS:
        done = subprocess.run([sys.executable, __file__, str(count)], capture_output=True, text=True, check=True)
        per_token = int(done.stdout) / count
        print(
            f"{count:,} tokens of width {WIDTH}: {per_token:,.0f} bytes a token beside the inputs ({WIDTH * 4} are one copy)"
        )
        figures.append({"what": f"peak bytes a token, {count} tokens of width {WIDTH}", "bytes": round(per_token)})
    side = 128
    layer, tokens = cpvt.PEG(WIDTH), torch.randn(side * side, WIDTH, requires_grad=True)
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    forms = {
        "at places": lambda: step(layer, tokens, places),
        "dense": lambda: layer(tokens[None], (side, side)).sum().backward(),
    }
    seconds = alternate(forms, rounds=9)
    found = ratio(seconds["at places"], seconds["dense"])
    words = f"time of forward_at / dense form, forward + backward, a full {side}x{side} grid of width {WIDTH}"
    show(words, found)
    save("scattered", [*figures, {"what": words, **found}])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(peak(int(sys.argv[1])))
    else:
        main()
