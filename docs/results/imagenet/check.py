"""Check what run.sh needs before anything starts: options, images, devices, memory of a step, loading, disk.

Called by run.sh, with the options of `cpvt train` after `--`. Prints what it finds and how long the trainings would
take here; lists all that is missing, and exits with 2.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from cost import CLASSES, IMAGES, STATE, TEST_IMAGES, measure

import cpvt
from cpvt.cli import parse
from cpvt.cli.parsing import check_names
from cpvt.config import TrainConfig
from cpvt.data import DataSet, open_data
from cpvt.data.loading import LoadOptions, SampleSpec, load_plan
from cpvt.training import TrainingSetup, check

READ = 200  # images, to time loading
WEIGHTS = 4  # bytes a parameter, of a finished training


def check_images(data: DataSet) -> Iterator[str]:
    """Count the images; yields what is missing."""
    if data.train is None or data.test is None:
        yield f"'{data.name}' lacks images to train or to test on this disk: expected train/ and val/, or such shards"
        return
    found = len(data.train), len(data.test), len(data.class_names)
    note = "" if found == (IMAGES, TEST_IMAGES, CLASSES) else " (ImageNet-1k has 1,281,167, 50,000 and 1,000)"
    print("images    {:,} to train, {:,} to test, {:,} classes{}".format(*found, note))


def check_devices(config: TrainConfig, processes: int) -> Iterator[str]:
    """Count the GPUs, and see that a batch divides; yields what is missing."""
    batch = config.optim.batch_size
    print(f"processes {processes} on {config.device}, {batch // processes} images each in a step")
    if config.device == "cuda" and torch.cuda.device_count() < processes:
        yield f"{processes} processes need as many GPUs, and torch sees {torch.cuda.device_count()}: set PROCESSES"
    if batch % (2 * processes):
        yield f"a batch must be a multiple of twice {processes} processes, got {batch}: set BATCH"


def check_steps(configs: Mapping[str, TrainConfig], setup: TrainingSetup, data: DataSet, here: int) -> Iterator[str]:
    """Measure a step of each encoding in one of `here` processes, and loading; yields what does not fit."""
    config = next(iter(configs.values()))
    share, on_gpu = config.optim.batch_size // here, config.device == "cuda"
    advice = "add --grad-accum-steps 2 to TRAIN_OPTIONS, which changes nothing that is learned"
    try:
        found = measure(configs, len(data.class_names), share, rounds=3 if on_gpu else 1)
    except torch.OutOfMemoryError:
        yield f"this GPU does not hold a step of {share} images: {advice}"
        return
    seconds = {name: median(each.times) for name, each in found.items()}
    steps = setup.sampler.total_steps(config.optim.epochs)
    for name, each in found.items():
        hours = seconds[name] * steps / 3600
        print(
            f"step      {name}: {seconds[name]:.3f} s, {each.memory / 2**30:.2f} GiB; {steps:,} take {hours:.3g} hours"
        )
    needed, free = here * max(each.memory for each in found.values()), free_memory()
    if not on_gpu and 0 < free < needed:
        yield f"{here} processes need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free: {advice}"
    rate, readers = loading_rate(config, setup, data), here * max(1, config.dataset.workers)
    total, wanted = rate * min(readers, os.cpu_count() or 1), config.optim.batch_size / min(seconds.values())
    print(f"loading   {rate:.0f} images/s a core, {total:.0f} in all; the steps take {wanted:.0f}", end="")
    print(": loading will be the slower" if total < wanted else "")


def free_memory() -> int:
    """Free memory, bytes; 0 where it is not known."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 0)


def loading_rate(config: TrainConfig, setup: TrainingSetup, data: DataSet) -> float:
    """Images a second that this process reads and augments."""
    assert data.train is not None
    options = LoadOptions(on_bad_image=config.dataset.on_bad_image, max_image_pixels=config.dataset.max_image_pixels)
    plan = [[SampleSpec(number)] for number in range(0, len(data.train), -(-len(data.train) // READ))]
    start = time.perf_counter()
    count = sum(len(batch.labels) for batch in load_plan(data.train, setup.preprocessing, plan, options))
    return count / (time.perf_counter() - start)


def check_disk(runs: Path, trainings: int, config: TrainConfig) -> Iterator[str]:
    """Compare the free disk with weights of all trainings and two states of one; yields what is missing."""
    runs.mkdir(parents=True, exist_ok=True)
    parameters = sum(each.numel() for each in cpvt.create_model(config.model, encoding=config.encoding).parameters())
    needed, free = parameters * (WEIGHTS * trainings + 2 * STATE) / 2**30, shutil.disk_usage(runs).free / 2**30
    print(f"disk      {needed:.1f} GiB needed in '{runs}', {free:.0f} free")
    if free < needed:
        yield f"'{runs}' has {free:.1f} GiB free, and {needed:.1f} are needed: set RUNS elsewhere"


def problems_of(given: argparse.Namespace) -> Iterator[str]:
    """Check everything, the cheap first; yields what is missing. ValueError for an option that does not exist."""
    config = parse(given.command)
    assert isinstance(config, TrainConfig)
    configs = {name: replace(config, encoding=name) for name in given.encodings}
    for each in configs.values():
        check_names(each)
    trainings = len(given.encodings) * len(given.seeds)
    print(f"trainings {trainings}: {' '.join(given.encodings)}; seeds {' '.join(map(str, given.seeds))}")
    data = open_data(config.dataset)
    found = [*check_images(data), *check_devices(config, given.processes)]
    found += check_disk(given.runs, trainings, configs[given.encodings[0]])
    yield from found
    if not found:
        setups = [check(each, data) for each in configs.values()]
        yield from check_steps(configs, setups[0], data, given.processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--encodings", nargs="+", required=True)
    parser.add_argument("command", nargs="+", help="`train` and its options, after --")
    try:
        problems = list(problems_of(parser.parse_args()))
    except ValueError as error:
        problems = [str(error)]
    for problem in problems:
        print(f"check.py: {problem}", file=sys.stderr)
    sys.exit(2 if problems else 0)


if __name__ == "__main__":
    main()
