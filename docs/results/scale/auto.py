"""How well a model estimates the scale itself: python docs/results/scale/auto.py RUNS writes auto.jsonl here.

RUNS: the folder of the digits comparison (see run.sh). For each encoding, seed, protocol and size: the scale that
`cpvt sweep --scale auto` chooses from the first 64 test images, the true one, the accuracy at the true one, the accuracy
where each image gets its own scale (`cpvt predict --scale auto`), and how many times as long that takes.
"""

import json
import sys
import time
from pathlib import Path

import torch

import cpvt
from cpvt.adapters.scale import lowest_entropy_logits
from cpvt.config import sides
from cpvt.config.scale import scale_at
from cpvt.data.protocols import find_protocol
from cpvt.evaluation.accuracy import load_test

HERE = Path(__file__).parent
SIZES = {"resize": (40, 48, 64, 96), "canvas": (48, 64, 96)}
ENCODINGS, SEEDS, SET = ("peg", "peg5", "rope+peg"), (0, 1, 2), 64


def measure(checkpoint: cpvt.Checkpoint, data, protocol: str, size: int) -> dict[str, object]:
    """The line of one model at one size under one protocol."""
    adapter, kind = checkpoint.adapter, find_protocol(protocol)
    batches = list(load_test(data, kind(checkpoint.transform, sides(size)), SET))
    true = scale_at(kind.scale_rule, sides(size), sides(checkpoint.config.img_size))
    scaled, single, seconds = 0, 0, [0.0, 0.0]
    for batch in batches:
        start = time.perf_counter()
        answers = adapter.with_scale(true).logits(batch.images).argmax(1)
        middle = time.perf_counter()
        own = lowest_entropy_logits(adapter, batch.images)[0].argmax(1)
        seconds = [seconds[0] + middle - start, seconds[1] + time.perf_counter() - middle]
        scaled, single = scaled + int((answers == batch.labels).sum()), single + int((own == batch.labels).sum())
    return {
        "true": true[0], "estimated": cpvt.estimate_scale(adapter, batches[0].images), "images": len(data.test),
        "correct_with_true": scaled, "correct_auto": single, "times_as_long": round(seconds[1] / seconds[0], 2),
    }  # fmt: skip


def main(runs: Path) -> None:
    torch.set_num_threads(1)
    data = cpvt.open_data("digits")
    with (HERE / "auto.jsonl").open("w") as file:
        for encoding in ENCODINGS:
            for seed in SEEDS:
                checkpoint = cpvt.load(runs / "runs" / f"{encoding}-cls-seed{seed}", "cpu")
                for protocol, sizes in SIZES.items():
                    for size in sizes:
                        line = {"encoding": encoding, "seed": seed, "protocol": protocol, "size": size}
                        line |= measure(checkpoint, data, protocol, size)
                        print(json.dumps(line), flush=True)
                        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
