"""PEG against the plain transposed-view form, and its fraction of a model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import cpvt
from benchmarks.measuring import Figure, alternate, ratio
from cpvt import ops

SHAPES = [((8, 14 * 14, 192), (14, 14)), ((8, 14 * 14, 384), (14, 14)), ((8, 32 * 32, 384), (32, 32))]
MODELS, MODEL_SIZE = ("cpvt_small", "cpvt_small_gap"), 224


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only peg`."""
    yield from _against_plain(3 * rounds)
    yield from _fraction_of_a_model(rounds)


def plain(tokens: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """The usual implementation: view the tokens as an image, convolve, add, and flatten."""
    image = tokens.transpose(1, 2).view(tokens.shape[0], tokens.shape[2], *grid)
    image = F.conv2d(image, weight, bias, padding=1, groups=tokens.shape[2]) + image
    return image.flatten(2).transpose(1, 2)


def _against_plain(rounds: int) -> Iterator[Figure]:
    for shape, grid in SHAPES:
        sizes: list[tuple[int, ...]] = [shape, (shape[2], 1, 3, 3), (shape[2],)]
        tokens, weight, bias = inputs = [torch.randn(size).requires_grad_() for size in sizes]
        forms = {
            "cpvt": lambda: ops.peg(tokens, weight, bias, grid),
            "plain": lambda: plain(tokens, weight, bias, grid),
        }
        torch.testing.assert_close(forms["cpvt"](), forms["plain"]())
        with torch.no_grad():
            seconds = alternate(forms, rounds, repeats=10)
        yield ratio(f"PEG / plain form, forward, {shape}", seconds["cpvt"], seconds["plain"])
        seed = torch.randn(shape)
        steps = {name: lambda form=form: torch.autograd.grad(form(), inputs, seed) for name, form in forms.items()}
        seconds = alternate(steps, rounds, repeats=5)
        yield ratio(f"PEG / plain form, forward + backward, {shape}", seconds["cpvt"], seconds["plain"])


def _fraction_of_a_model(rounds: int) -> Iterator[Figure]:
    for name in MODELS:
        model = cpvt.create_model(name).eval()
        shape = model.config
        width, prefix, grid = shape.embed_dim, shape.prefix_tokens, (MODEL_SIZE // shape.patch_size,) * 2
        layer, images = cpvt.PEG(width), torch.randn(8, 3, MODEL_SIZE, MODEL_SIZE)
        tokens = torch.randn(8, prefix + grid[0] * grid[1], width)
        with torch.inference_mode():
            forms = {"peg": lambda: layer(tokens, grid, prefix), "model": lambda: model(images)}
            seconds = alternate(forms, rounds)
        yield ratio(f"PEG alone / forward of {name}, {MODEL_SIZE}, batch 8", seconds["peg"], seconds["model"])
        optimizer, labels = torch.optim.AdamW(model.parameters(), fused=True), torch.randint(0, 1000, (8,))
        inputs, seed = [tokens.requires_grad_(), *layer.parameters()], torch.randn_like(tokens)

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

        forms = {"peg": lambda: torch.autograd.grad(layer(tokens, grid, prefix), inputs, seed), "model": step}
        seconds = alternate(forms, rounds)
        yield ratio(
            f"PEG alone, forward + backward / training step of {name}, {MODEL_SIZE}, batch 8",
            seconds["peg"],
            seconds["model"],
        )
