"""PEG against the plain transposed-view form, and its share of a model's forward. Run: python benchmarks/peg.py"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from alternating import alternate, ratio, save, show
from torch import Tensor

import cpvt
from cpvt import ops

SHAPES = [((8, 14 * 14, 192), (14, 14)), ((8, 14 * 14, 384), (14, 14)), ((8, 32 * 32, 384), (32, 32))]


def plain(tokens: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """What most code does: see the tokens as a picture, convolve, add, and turn back."""
    picture = tokens.transpose(1, 2).view(tokens.shape[0], tokens.shape[2], *grid)
    picture = F.conv2d(picture, weight, bias, padding=1, groups=tokens.shape[2]) + picture
    return picture.flatten(2).transpose(1, 2)


def against_plain() -> list[dict[str, object]]:
    figures: list[dict[str, object]] = []
    for shape, grid in SHAPES:
        tokens, weight, bias = torch.randn(shape), torch.randn(shape[2], 1, 3, 3), torch.randn(shape[2])
        torch.testing.assert_close(ops.peg(tokens, weight, bias, grid), plain(tokens, weight, bias, grid))
        with torch.no_grad():
            seconds = alternate(
                {
                    "cpvt": lambda: ops.peg(tokens, weight, bias, grid),
                    "plain": lambda: plain(tokens, weight, bias, grid),
                },
                rounds=60,
                repeats=10,
            )
        figures.append(_figure(f"PEG / plain form, forward, {shape}", ratio(seconds["cpvt"], seconds["plain"])))
        inputs = [tensor.clone().requires_grad_() for tensor in (tokens, weight, bias)]
        seed = torch.randn(shape)
        seconds = alternate(
            {
                "cpvt": lambda: torch.autograd.grad(ops.peg(*inputs, grid), inputs, seed),
                "plain": lambda: torch.autograd.grad(plain(*inputs, grid), inputs, seed),
            },
            rounds=60,
            repeats=5,
        )
        figures.append(
            _figure(f"PEG / plain form, forward + backward, {shape}", ratio(seconds["cpvt"], seconds["plain"]))
        )
    return figures


def share_of_a_forward() -> list[dict[str, object]]:
    figures: list[dict[str, object]] = []
    for name, prefix in (("cpvt_small", 1), ("cpvt_small_gap", 0)):
        model = cpvt.create_model(name).eval()
        layer, pictures = model.encoding.peg["1"], torch.randn(8, 3, 224, 224)
        tokens = torch.randn(8, prefix + 14 * 14, 384)
        with torch.inference_mode():
            seconds = alternate(
                {"peg": lambda: layer(tokens, (14, 14), prefix), "model": lambda: model(pictures)}, rounds=20
            )
        figures.append(_figure(f"PEG alone / forward of {name}, 224, batch 8", ratio(seconds["peg"], seconds["model"])))
    return figures


def _figure(words: str, found: dict[str, float]) -> dict[str, object]:
    show(words, found)
    return {"what": words, **found}


if __name__ == "__main__":
    save("peg", against_plain() + share_of_a_forward())
