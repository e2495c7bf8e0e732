"""bfloat16 and int8 against float32 on this machine: time, size, and how far the answers differ."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

import cpvt
from benchmarks.measuring import Figure, alternate, ratio
from cpvt.adapters import ModelAdapter, adapter_of
from cpvt.adapters.precision import in_precision

SIZE, BATCHES, CROPS = 224, (1, 8), 512
OURS, THEIRS, SHIPPED = "cpvt_small_gap", "deit_small_patch16_224", "cpvt_mini_peg5_gap"
Forward = Callable[[Tensor], Tensor]


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only precision`."""
    for name, model in ((OURS, cpvt.create_model(OURS)), (THEIRS, timm.create_model(THEIRS, img_size=SIZE))):
        small = quantised(model.eval())
        yield Figure(f"{name}: size of the weights, float32 / int8", _bytes(model) / _bytes(small))
        for batch in BATCHES:
            yield from _times(f"{name}, {SIZE}, batch {batch}", adapter_of(model), small, batch, rounds)
    yield from _answers()


def quantised(model: nn.Module) -> nn.Module:
    """A copy whose linear layers multiply in int8, with a scale per output channel: the recipe of docs/speed.md."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that torchao is to replace this module
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        found: nn.Module = quantize_dynamic(copy.deepcopy(model), {nn.Linear: per_channel_dynamic_qconfig})
    return found


def _forms(adapter: ModelAdapter, small: nn.Module) -> dict[str, Forward]:
    """The forward of a model in each precision, by name."""
    model: Any = adapter.model

    def under_autocast(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(images)

    return {
        "float32": adapter.logits, "bfloat16 weights": in_precision(adapter, "bf16").logits,
        "bfloat16 by autocast": under_autocast, "int8": replace(adapter, model=small).logits,
    }  # fmt: skip


def _times(what: str, adapter: ModelAdapter, small: nn.Module, batch: int, rounds: int) -> Iterator[Figure]:
    images = torch.randn(batch, 3, SIZE, SIZE)
    forms = _forms(adapter, small)
    with torch.inference_mode():
        seconds = alternate({name: lambda form=form: form(images) for name, form in forms.items()}, rounds)
    for name in list(forms)[1:]:
        yield ratio(f"{what}: throughput of the forward, {name} / float32", seconds["float32"], seconds[name])


def _answers() -> Iterator[Figure]:
    """How far the answers of the shipped model are from those in float32, on crops of scikit-learn's photographs."""
    checkpoint = cpvt.load(SHIPPED, "cpu")
    images = torch.stack([checkpoint.transform(crop) for crop in _crops()])
    with torch.inference_mode():
        found = {
            name: form(images).float().softmax(1)
            for name, form in _forms(checkpoint.adapter, quantised(checkpoint.model)).items()
        }
    expected, what = found.pop("float32"), f"{SHIPPED}, {CROPS} crops of photographs"
    for name, probabilities in found.items():
        equal = (probabilities.argmax(1) == expected.argmax(1)).float().mean()
        yield Figure(f"{what}: first class as in float32, {name}", 100 * float(equal), "%")
        difference = (probabilities - expected).abs().max()
        yield Figure(f"{what}: largest difference of a probability, {name}", float(difference))


def _crops() -> Iterator[Any]:
    """Square crops of random places and sides, PIL images."""
    photographs, draw = load_sample_images().images, np.random.default_rng(0)
    for _ in range(CROPS):
        pixels = photographs[draw.integers(len(photographs))]
        side = draw.integers(32, min(pixels.shape[:2]) + 1)
        top, left = (draw.integers(length - side + 1) for length in pixels.shape[:2])
        yield Image.fromarray(pixels[top : top + side, left : left + side])


def _bytes(model: nn.Module) -> int:
    """Bytes of a saved model's tensors."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()
