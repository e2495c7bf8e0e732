"""What run.sh costs: measures training steps on this machine, and writes the table of docs/paper-scale.md.

    python docs/results/imagenet/cost.py measure [--device cuda] [--share 256]     # then the table
    python docs/results/imagenet/cost.py table                                     # from what is committed

From the repository root. On a GPU: seconds and memory of a step at the images that one process has of it, to
cost-gpu.json; hours are then measured. On a CPU, to cost-cpu.json: floating-point operations, and the time of a step
relative to the first encoding's. Steps alternate in one process, on noise: reading images and joining gradients of
several processes are not in it.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import cpvt
from benchmarks.measuring import alternate, machine, ratio
from benchmarks.rehearsal import Rehearsal, rehearse_config
from cpvt.config import TrainConfig
from cpvt.config.recipes import read_recipe
from cpvt.models.linear import plain_linear
from cpvt.reporting.markdown import fill, lay_out
from cpvt.runtime import memory

HERE = Path(__file__).parent
PAGE, FEEDING = HERE.parents[1] / "paper-scale.md", HERE.parents[2] / "benchmarks" / "results" / "feeding.json"
IMAGES, TEST_IMAGES, CLASSES = 1_281_167, 50_000, 1000  # of ImageNet-1k
PEAKS = {"A100": 312e12, "H100": 989e12}  # bf16 FLOP/s of the SXM cards without sparsity, of NVIDIA's data sheets
REACHED = 0.3  # of them, assumed
STATE = 16  # bytes a parameter: the weight, its moving average, Adam's two moments


class Measured(NamedTuple):
    """The training step of one encoding."""

    times: list[float]  # seconds a step, one number per round
    memory: int  # peak bytes of a process


def measure(configs: Mapping[str, TrainConfig], classes: int, share: int, rounds: int) -> dict[str, Measured]:
    """Time training steps of `share` images, those of one process, and their memory."""
    count = 10 if next(iter(configs.values())).device == "cuda" else 1  # on a GPU the loss is read every ten steps
    peaks: dict[str, int] = {}

    def step(name: str, rehearsal: Rehearsal) -> Callable[[], None]:
        def run() -> None:
            on_gpu = rehearsal.trainer.backend.device.type == "cuda"
            before = _mark(on_gpu)
            rehearsal()
            peaks[name] = max(peaks.get(name, 0), _peak(on_gpu) - before)

        return run

    forms, state = {}, {}
    for name, config in configs.items():
        rehearsal = rehearse_config(replace(config, optim=replace(config.optim, batch_size=share)), classes, count)
        forms[name] = step(name, rehearsal)
        state[name] = STATE * sum(each.numel() for each in rehearsal.trainer.module.parameters())
    times = alternate(forms, rounds, warm_up=1)
    return {name: Measured([each / count for each in times[name]], peaks[name] + state[name]) for name in configs}


def _mark(on_gpu: bool) -> int:
    if not on_gpu:
        return memory.mark_memory()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(on_gpu: bool) -> int:
    if not on_gpu:
        return memory.peak_memory()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def count_flops(model: str, encoding: str, size: int) -> int:
    """Floating-point operations of a forward of one image; a training step has three times as many.

    Of a backward torch counts depthwise convolutions as dense ones, which is why only the forward is counted.
    """
    module, image = cpvt.create_model(model, encoding=encoding), torch.zeros(1, 3, size, size)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), plain_linear(), counter:  # what the counter knows
        module(image)
    return counter.get_total_flops()


def of_run(name: str) -> list[str]:
    """The default of a variable of run.sh, as words."""
    found = re.search(rf"\b{name}:=([^}}]*)}}", (HERE / "run.sh").read_text())
    assert found, name
    return found[1].split()


def record(device: str, share: int, rounds: int) -> dict[str, Any]:
    """Measure the encodings of run.sh and describe how."""
    recipe, encodings = read_recipe(HERE / "recipe.py"), of_run("ENCODINGS")
    precision = of_run("PRECISION")[0] if device == "cuda" else "fp32"
    config = replace(recipe, device=device, optim=replace(recipe.optim, precision=precision))
    found = measure({each: replace(config, encoding=each) for each in encodings}, CLASSES, share, rounds)
    figures, size = {}, recipe.img_size or 0
    for name, (times, peak) in found.items():
        figure = ratio(name, times, found[encodings[0]].times)
        figures[name] = {"flops": count_flops(recipe.model, name, size), "relative": round(figure.value, 3)}
        figures[name] |= {"low": round(figure.low or 0, 3), "high": round(figure.high or 0, 3), "rounds": rounds}
        if device == "cuda":  # a CPU is shared, and its seconds say nothing
            seconds = sorted(times)[len(times) // 2]
            figures[name] |= {"seconds": round(seconds, 5), "GiB": round(peak / 2**30, 1)}
    tests = sum(count_flops(recipe.model, encodings[0], int(each)) for each in of_run("SIZES"))
    return {
        "command": f"python docs/results/imagenet/cost.py measure --device {device} --share {share}",
        "machine": machine(), "model": recipe.model, "size": size, "share": share, "batch": recipe.optim.batch_size,
        "epochs": recipe.optim.epochs, "precision": precision, "test flops": tests, "encodings": figures,
    }  # fmt: skip


def reading_rate() -> float:
    """Images of 500x375 that a core reads at 224 pixels in a second, of the committed benchmark."""
    figures = json.loads(FEEDING.read_text())["figures"]
    return next(each["value"] for each in figures if re.search(r"500x375.* 224, .*reading, 0 workers", each["what"]))


def tables(cpu: Mapping[str, Any], gpu: Mapping[str, Any] | None) -> dict[str, str]:
    """The table of the page, and what follows from it in words."""
    names, first = list(cpu["encodings"]), next(iter(cpu["encodings"]))
    steps, trained = -(-IMAGES // cpu["batch"]) * cpu["epochs"], IMAGES * cpu["epochs"]
    columns = ["GFLOP an image, forward", f"step time / `{first}`, CPU (range)"]
    columns += [f"{card} hours, **estimated**" for card in PEAKS]
    columns += ["seconds a step, measured", "GiB a GPU", "GPU hours, measured"] if gpu else []
    lines, total = {}, dict.fromkeys(PEAKS, 0.0)
    for name in names:
        own = cpu["encodings"][name]
        spread = f"{own['relative']:.2f} ({own['low']:.2f} to {own['high']:.2f})" if name != first else "1"
        # operations of the first encoding: what others add is in the time, not in the operations
        work = 3 * cpu["encodings"][first]["flops"] * trained * own["relative"]
        hours = {card: work / (REACHED * peak) / 3600 for card, peak in PEAKS.items()}
        total = {card: total[card] + hours[card] for card in PEAKS}
        lines[f"`{name}`"] = [f"{own['flops'] / 1e9:.2f}", spread, *(f"{each:.0f}" for each in hours.values())]
        if gpu:
            seen = gpu["encodings"][name]
            measured = seen["seconds"] * steps * (gpu["batch"] / gpu["share"]) / 3600
            lines[f"`{name}`"] += [f"{seen['seconds']:.3f}", f"{seen['GiB']:.1f}", f"{measured:.0f}"]
    seeds, work, rate = len(of_run("SEEDS")), 3 * cpu["encodings"][first]["flops"], reading_rate()
    said = " or ".join(f"{seeds * hours:,.0f} hours of one {card}" for card, hours in total.items())
    speeds = {card: REACHED * peak / work for card, peak in PEAKS.items()}
    cores = ", ".join(f"{speed / rate:.0f} cores an {card} ({speed:,.0f} images/s)" for card, speed in speeds.items())
    tests = 2 * TEST_IMAGES * cpu["test flops"]  # with scale and without
    words = (
        f"- A training has {steps:,} steps of {cpu['batch']:,} images: {cpu['epochs']} epochs of {IMAGES:,}.\n"
        f"- All {seeds * len(names)} trainings ({seeds} seeds): {said}, estimated.\n"
        f"- Their tests add {100 * tests / (work * trained):.1f} % of the operations, in float32.\n"
        f"- Loading at that speed takes at least {cores},\n"
        f"  where a core reads {rate:.0f} images a second."
    )
    return {"cost": lay_out("one training", columns, lines), "total": words}


def write_page() -> None:
    """Fill the page from the committed measurements."""
    cpu, gpu = (HERE / f"cost-{kind}.json" for kind in ("cpu", "gpu"))
    found = tables(json.loads(cpu.read_text()), json.loads(gpu.read_text()) if gpu.exists() else None)
    PAGE.write_text(fill(PAGE.read_text(), found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--share", type=int, help="images of one process in a step; by default 256, on a CPU 4")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    if given.what == "measure":
        start, kind = time.time(), "gpu" if given.device == "cuda" else "cpu"
        found = record(given.device, given.share or {"gpu": 256, "cpu": 4}[kind], given.rounds)
        (HERE / f"cost-{kind}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(f"measured for {time.time() - start:.0f} s")
    write_page()


if __name__ == "__main__":
    main()
