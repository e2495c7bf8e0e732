"""Benchmarks by name: each published figure can be taken again by `cpvt bench --only NAME`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import torch

from cpvt.benchmarks.measuring import Figure, machine
from cpvt.config import BenchConfig
from cpvt.files import write_json

BENCHMARKS = {
    "peg": "PEG against the plain transposed-view form, and its share of a model",
    "scattered": "PEG at coordinates: memory per token, and time against the dense form",
    "model": "cpvt_small_gap against timm's deit_small",
    "packed": "a list of 64 sizes: packed against a loop, groups by size, and padding with a mask (timm's NaFlex ViT)",
    "padding": "what a padded batch does to the answers of a convolution",
    "memory": "peak memory of a forward as pictures grow to 1024 pixels",
    "training": "a step of our training against a plain loop, on timm's transformer of the same shape and on our own",
    "feeding": "pictures a second that are read, learned from, and both in training",
    "processes": "two processes that train one model against one alone, a thread each",
    "fused": "the Triton kernels of PEG against cuDNN and against a plain copy; needs a GPU",
    "matmul": "share of the machine's matrix-multiply rate that cpvt_small_gap reaches, eager and compiled",
}


def bench(config: BenchConfig) -> Iterator[tuple[str, Figure]]:
    """Run benchmarks by name, by default all that run here, and yield (name, figure) as they come.

    Each benchmark that is through leaves OUT/NAME.json: command, machine and figures. Raises ValueError for a name that
    does not exist.
    """
    unknown = [name for name in config.only if name not in BENCHMARKS]
    if unknown:
        raise ValueError(f"unknown benchmark '{unknown[0]}'; known: {', '.join(BENCHMARKS)}")
    if "fused" in config.only and not torch.cuda.is_available():
        raise ValueError("the benchmark 'fused' needs a GPU, and there is none here; name others with --only")
    here = [name for name in BENCHMARKS if name != "fused" or torch.cuda.is_available()]
    for name in config.only or here:
        figures = []
        for figure in importlib.import_module(f"cpvt.benchmarks.{name}").run(config.rounds):
            figures.append(figure)
            yield name, figure
        command = f"cpvt bench --only {name}" + (
            "" if config.rounds == BenchConfig.rounds else f" --rounds {config.rounds}"
        )
        content = {"command": command, "machine": machine(), "figures": [vars(figure) for figure in figures]}
        Path(config.out).mkdir(parents=True, exist_ok=True)
        write_json(Path(config.out) / f"{name}.json", content)
