"""Accuracy of the shipped model in each precision: python docs/results/precision/accuracy.py FOLDER [--limit N].

FOLDER holds test/CLASS/*.jpg of CIFAR-10. One JSON line for each precision and size goes to standard output, ended by
how many answers are those of float32.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

import cpvt
from benchmarks.precision import SHIPPED, quantised
from cpvt.adapters.precision import in_precision
from cpvt.config import DataConfig
from cpvt.data import load_batches, open_data
from cpvt.data.protocols import find_protocol

SIZES, BATCH = (32, 40, 64), 100


def forms(folder: Path) -> dict[str, Callable[[Tensor], Tensor]]:
    """Images to logits, in each precision."""
    checkpoint = cpvt.load(SHIPPED, "cpu")
    adapter = checkpoint.adapter
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "float32": adapter.logits,
        "bfloat16 weights": in_precision(adapter, "bf16").logits,
        "int8 by PyTorch": replace(adapter, model=quantised(checkpoint.model)).logits,
    }
    for name, int8 in (("float32 in ONNX Runtime", False), ("int8 in ONNX Runtime", True)):
        exported = cpvt.export(SHIPPED, out=str(folder / f"{int8}.onnx"), int8=int8)
        session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
        found[name] = lambda x, session=session: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    data = open_data(DataConfig(options.folder))
    assert data.test is not None
    transform = cpvt.load(SHIPPED, "cpu").transform
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        named = forms(Path(folder))
        for size in SIZES:
            answers: dict[str, list[Tensor]] = {name: [] for name in named}
            labels = []
            order = range(min(options.limit or len(data.test), len(data.test)))
            for batch in load_batches(data.test, find_protocol("resize")(transform, (size, size)), BATCH, order=order):
                labels.append(batch.labels)
                for name, form in named.items():
                    answers[name].append(form(batch.images).argmax(1))
            joined, truth = {name: torch.cat(found) for name, found in answers.items()}, torch.cat(labels)
            for name, found in joined.items():
                row = {"precision": name, "size": size, "correct": int((found == truth).sum()), "total": len(truth)}
                print(json.dumps({**row, "as_float32": int((found == joined["float32"]).sum())}), flush=True)


if __name__ == "__main__":
    main()
