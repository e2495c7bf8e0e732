"""The benchmarks: one file and one line of TABLE each; `python -m benchmarks --only NAME` runs one of them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.measuring import Figure, machine
from cpvt.runtime.files import write_json

TABLE = {  # name of the module -> what it measures
    "peg": "PEG against the plain transposed-view form, and its fraction of a model",
    "scale": "PEG and attention given a scale against the same without scale",
    "encodings": "forward time and peak memory of every positional encoding against none, at 224 and 1024 pixels",
    "scattered": "PEG at coordinates: memory per token, and time against the dense form",
    "model": "cpvt_small_gap against timm's deit_small",
    "packed": "a list of 64 sizes: packed against a loop, groups by size, and padding with a mask (timm's NaFlex ViT)",
    "padding": "how padding a batch changes the predictions of a model with a convolution",
    "memory": "peak memory of a forward as images grow to 1024 pixels",
    "training": "a training step against a minimal loop, on timm's transformer of the same shape and on the same model",
    "feeding": "images per second: data loading alone and against timm's, training steps alone, both in training",
    "processes": "two processes that train one model against two that train a model each, one thread per process",
    "fused": "the Triton kernels of PEG against cuDNN and against a plain copy; needs a GPU",
    "gpu": "on a GPU, in bfloat16: models against timm's, packed lists, PEG given a scale",
    "precision": "bfloat16 and int8 against float32: time, size, and how far answers differ",
    "matmul": "fraction of the machine's matrix-multiply rate that cpvt_small_gap reaches, eager and compiled",
}
OUT, ROUNDS = "benchmarks/results", 21


def run_benchmarks(only: Sequence[str] = (), out: str = OUT, rounds: int = ROUNDS) -> Iterator[tuple[str, Figure]]:
    """Run the named benchmarks, by default all that this machine can run, and yield (name, figure) one by one.

    A finished benchmark is written to OUT/NAME.json: its command, the machine and the figures. Raises ValueError for an
    unknown name, for a benchmark that needs a GPU where there is none, and for fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more; got {rounds}")
    if unknown := [name for name in only if name not in TABLE]:
        raise ValueError(f"unknown benchmark '{unknown[0]}'; known: {', '.join(TABLE)}")
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in only or TABLE}
    if not torch.cuda.is_available():
        gpu = [name for name, module in modules.items() if getattr(module, "NEEDS_GPU", False)]
        if only and gpu:
            raise ValueError(f"the benchmark '{gpu[0]}' needs a GPU, and there is none here; choose others with --only")
        modules = {name: module for name, module in modules.items() if name not in gpu}
    for name, module in modules.items():
        figures = []
        for figure in module.run(rounds):
            figures.append(figure)
            yield name, figure
        command = f"python -m benchmarks --only {name}" + ("" if rounds == ROUNDS else f" --rounds {rounds}")
        content = {"command": command, "machine": machine(), "figures": [vars(figure) for figure in figures]}
        Path(out).mkdir(parents=True, exist_ok=True)
        write_json(Path(out) / f"{name}.json", content)
