"""Images per second: data loading alone and against timm's, training steps alone, and a training that does both."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm.data
import torch
from PIL import Image

from benchmarks.measuring import Figure, alternate, ratio, reported
from benchmarks.rehearsal import rehearse
from cpvt.config import DataConfig, OptimConfig, TrainConfig
from cpvt.data import DataSet, LoadOptions, SampleSpec, Transform, load_plan, open_data
from cpvt.data.protocols import Protocol, find_protocol
from cpvt.training import check, train

CLASSES = 10


class Case(NamedTuple):
    """Which images are loaded, and what is trained on them."""

    sides: tuple[int, int]  # of the files
    model: str
    size: int
    batch_size: int
    steps: int  # per epoch
    shown: tuple[int, ...] = ()  # sizes at which loading is compared with timm's


CASES = (  # in the first case training steps are slower than data loading, in the second faster
    Case((64, 64), "cpvt_mini_peg5_gap", 32, 64, steps=8),
    Case((375, 500), "cpvt_micro_gap(patch_size=32)", 224, 32, steps=8, shown=(64, 224)),
)


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only feeding`.

    One thread trains; images are loaded in the same process or by one worker.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                write_images(Path(folder) / "images", case)
                yield from _compare(case, Path(folder), -(-rounds // 3))
                for size in case.shown:
                    yield from _against_timm(case, Path(folder), size, rounds)
    finally:
        torch.set_num_threads(threads)


def write_images(root: Path, case: Case) -> None:
    """JPEGs in class folders, coarse shapes under fine grain, about as large on disk as photographs."""
    draw = np.random.default_rng(0)
    for number in range(case.steps * case.batch_size):
        path = root / "train" / f"class{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        shapes = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(shapes.resize(case.sides[::-1], Image.Resampling.BICUBIC), dtype=np.float32)
        grain = draw.normal(0, 12, (*case.sides, 1)).astype(np.float32)
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)


def _compare(case: Case, folder: Path, rounds: int) -> Iterator[Figure]:
    """Rates, and the rate of training relative to what its parts allow."""
    rehearsal, fresh = rehearse(case.model, case.size, case.batch_size, CLASSES, case.steps), count()
    seconds = alternate(
        {
            "learning": lambda: _time(rehearsal) / case.steps,
            "reading, 0 workers": lambda: _read(_config(case, folder, 0)),
            "reading, 1 worker": lambda: _read(_config(case, folder, 1)),
            "training, 0 workers": lambda: _train(_config(case, folder, 0, next(fresh))),
            "training, 1 worker": lambda: _train(_config(case, folder, 1, next(fresh))),
        },
        rounds,
        warm_up=1,
        clock=reported,
    )
    what = f"JPEGs of {case.sides[1]}x{case.sides[0]}, {case.model}, {case.size}, batch {case.batch_size}"
    for name, times in seconds.items():
        yield ratio(f"{what}: {name}", [float(case.batch_size)] * rounds, times, "images a second")
    learning = seconds["learning"]
    in_turn = [sum(pair) for pair in zip(seconds["reading, 0 workers"], learning)]
    slower = [max(pair) for pair in zip(seconds["reading, 1 worker"], learning)]
    yield ratio(f"{what}: training / reading and learning in turn, 0 workers", in_turn, seconds["training, 0 workers"])
    yield ratio(f"{what}: training / the slower of the two, 1 worker", slower, seconds["training, 1 worker"])


def _against_timm(case: Case, folder: Path, size: int, rounds: int) -> Iterator[Figure]:
    """Loading alone, as random resized crops of a size: throughput over that of timm's loader, no workers in either."""
    data = open_data(str(folder / "images"))
    ours = {
        name: find_protocol("resized-crop")(Transform(data.mean, data.std, reduced_jpegs=reduced), (size, size))
        for name, reduced in {"ours": False, "ours, reduced JPEGs": True}.items()
    }
    theirs = _timms_loader(folder / "images", next(iter(ours.values())), case.batch_size)
    contenders = {name: lambda how=how: _pass(data, how, case.batch_size, 0) for name, how in ours.items()}
    contenders["timm"] = lambda: _step([time.perf_counter() for _ in theirs])
    seconds = alternate(contenders, rounds, warm_up=1, clock=reported)
    for name in ours:
        what = f"JPEGs of {case.sides[1]}x{case.sides[0]} shown at {size}, loading: throughput, {name} / timm's loader"
        yield ratio(what, seconds["timm"], seconds[name])


def _timms_loader(root: Path, how: Protocol, batch_size: int) -> Any:
    """timm's loader of the same images, augmented and normalised alike."""
    transform = how.transform
    return timm.data.create_loader(
        timm.data.create_dataset("", str(root), split="train", is_training=True), (3, *how.sides), batch_size,
        is_training=True, use_prefetcher=False, scale=how.crop_scale, hflip=how.hflip, color_jitter=None,
        interpolation=transform.interpolation, mean=transform.mean, std=transform.std, num_workers=0,
        persistent_workers=False,
    )  # fmt: skip


def _config(case: Case, folder: Path, workers: int, number: int = 0) -> TrainConfig:
    return TrainConfig(
        out=str(folder / f"run{number}"), model=case.model, img_size=case.size, device="cpu",
        dataset=DataConfig(str(folder / "images"), workers=workers),
        optim=OptimConfig(epochs=1, batch_size=case.batch_size, augment="resized-crop"),
    )  # fmt: skip


def _time(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _read(config: TrainConfig) -> float:
    """Seconds per batch, startup left out."""
    data = open_data(config.dataset.data)
    return _pass(data, check(config, data).preprocessing, config.optim.batch_size, config.dataset.workers)


def _pass(data: DataSet, preprocessing: Protocol, size: int, workers: int) -> float:
    """Seconds per batch of `size` images in a pass over the training images."""
    assert data.train is not None
    plan = [[SampleSpec(number) for number in range(start, start + size)] for start in range(0, len(data.train), size)]
    options = LoadOptions(workers=workers)
    return _step([time.perf_counter() for _ in load_plan(data.train, preprocessing, plan, options)])


def _train(config: TrainConfig) -> float:
    """Seconds per step of a whole training, startup and saving left out."""
    times = list[float]()

    def note(name: str, done: int, total: int, message: str) -> None:
        if name == "train":
            times.append(time.perf_counter())

    train(config, note)
    return _step(times)


def _step(times: list[float]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1)
