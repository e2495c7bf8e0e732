"""The comparison: train every encoding alike, test each at every size under both protocols, keep all that a page needs."""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from cpvt.checkpoint import Checkpoint, load, provenance
from cpvt.config import CompareConfig, TrainConfig, Watch, differences, ignore_progress, parse_size, sides
from cpvt.data import DataSet, View, open_data
from cpvt.results import Row, append_rows, read_json, read_rows, write_json
from cpvt.sweeping import sweep
from cpvt.training import check, is_finished, train

RECORD, ROWS, ARRAYS = "compare.json", "rows.jsonl", "arrays"
QUICK_ENCODINGS = ("learned", "rope", "peg")
GROWS = ("out", "encodings", "pool", "protocols", "seeds", "canvas_sizes", "resize_sizes", "parallel", "device")
MAX_PARALLEL = 8


@dataclass(frozen=True)
class _Task:
    """One training of the comparison and the tests that follow it."""

    training: TrainConfig
    tests: tuple[tuple[str, Any], ...]  # (protocol, size)

    @property
    def name(self) -> str:
        return f"{self.training.encoding} {self.training.pool} seed {self.training.seed}"


def compare(
    config: CompareConfig, watch: Watch = ignore_progress, on_row: Callable[[Row], None] = lambda row: None
) -> Path:
    """Train, test and measure what `config` says; returns the folder, from which `cpvt.report` draws the page.

    Rows are added to rows.jsonl as they come. The same command goes on where an interrupted comparison stopped and
    recomputes nothing; encodings, seeds, protocols and sizes may be added to a finished one. Raises ValueError where
    the folder holds a comparison with another model, data set or recipe. Trainings run in processes of their own,
    so a script that calls this needs the usual `if __name__ == "__main__":` (or parallel=1).
    """
    config = resolve_quick(config)
    folder = Path(config.out)
    tasks = _plan(config)
    _refuse_other(folder, config)
    data = open_data(config.source.data, config.source.data_root)
    if data.test is None:
        raise ValueError(f"'{data.name}' has no test/ (or val/) to test on")
    for task in tasks:
        check(task.training, data)
    done = {row.key[:-2] for row in read_rows(folder / ROWS)}  # one way to crop and resize in a comparison
    unfinished = [task for task in (_remaining(task, done) for task in tasks) if task is not None]
    parallel = _parallel(config, len(unfinished))
    if unfinished:
        _record(folder, config, parallel)

    def keep(row: Row) -> None:
        append_rows(folder / ROWS, [row])
        on_row(row)

    if parallel > 1:
        _run_in_processes(unfinished, parallel, watch, keep)
    else:
        for task in unfinished:
            _run(task, watch, keep)
    _look_closer(folder, config, tasks, data, watch)
    return folder


def resolve_quick(config: CompareConfig) -> CompareConfig:
    """What `--quick` stands for, spelled out."""
    if not config.quick:
        return config
    return replace(
        config,
        quick=False,
        encodings=QUICK_ENCODINGS,
        pool=config.pool or ("cls",),
        canvas_sizes=(32, 48, 64),
        resize_sizes=(24, 32, 48),
        recipe=replace(config.recipe, epochs=max(1, config.recipe.epochs * 6 // 10)),
    )


def _plan(config: CompareConfig) -> list[_Task]:
    """Every training of the comparison; seeds outermost, so that an interrupted one is a complete smaller one."""
    sizes = {
        "canvas": [parse_size(size) for size in config.canvas_sizes],
        "resize": [parse_size(size) for size in config.resize_sizes],
    }
    for protocol in config.protocols:
        if protocol not in sizes:
            raise ValueError(f"protocols must be among {', '.join(sizes)}; got '{protocol}'")
    tests = tuple((protocol, size) for protocol in config.protocols for size in sizes[protocol])
    heads = [(encoding, pool) for pool in config.pool or ("cls",) for encoding in config.encodings]
    if not config.pool and "peg" in config.encodings:
        heads.append(("peg", "gap"))
    tasks = []
    for seed in config.seeds:
        for encoding, pool in heads:
            out = Path(config.out) / "runs" / f"{slug(encoding)}-{pool}-seed{seed}"
            training = TrainConfig(
                out=str(out), encoding=encoding, pool=pool, model=config.model, train_size=config.train_size,
                seed=seed, device=config.device, source=config.source, recipe=config.recipe,
            )  # fmt: skip
            tasks.append(_Task(training, tests))
    return tasks


def slug(encoding: str) -> str:
    """An encoding's name as a file name."""
    return re.sub(r"[^A-Za-z0-9.+=-]+", "_", encoding).strip("_")


def _record(folder: Path, config: CompareConfig, parallel: int) -> None:
    """Write down what is about to be measured, and by which commands the rows before it were."""
    earlier = read_json(folder / RECORD)["commands"] if (folder / RECORD).exists() else []
    origin = {**provenance(), "trainings_at_once": parallel, "threads_each": _threads(parallel)}
    commands = list(dict.fromkeys([*earlier, origin["command"]]))
    write_json(folder / RECORD, {"config": asdict(config), "provenance": origin, "commands": commands})


def _refuse_other(folder: Path, config: CompareConfig) -> None:
    if not (folder / RECORD).exists():
        return
    changed = differences(read_json(folder / RECORD)["config"], config, ignore=(*GROWS, "loader_workers"))
    if changed:
        raise ValueError(
            f"'{folder}' holds a comparison with another configuration ({'; '.join(changed)}); "
            "choose another --out, or delete the folder"
        )


def _remaining(task: _Task, done: set[tuple[Any, ...]]) -> _Task | None:
    """The task less the tests whose rows are there; None where nothing is left to do."""
    training = task.training
    measured = (training.source.data, training.model, training.encoding, training.pool, training.seed)
    tests = tuple(test for test in task.tests if (*measured, *test) not in done)
    return replace(task, tests=tests) if tests or not is_finished(training) else None


def _run(task: _Task, watch: Watch, keep: Callable[[Row], None]) -> None:
    def watch_task(step: str, done: int, total: int, words: str) -> None:
        watch(f"{task.name}: {step}" if step != "train" else task.name, done, total, words)

    folder = train(task.training, watch_task)
    checkpoint = load(folder, task.training.device)
    data = open_data(task.training.source.data, task.training.source.data_root)
    for protocol, size in task.tests:
        source = task.training.source
        rows = sweep(
            checkpoint, [size], protocol=protocol, data=data, crop_ratio=source.crop_ratio,
            on_bad_picture=source.on_bad_picture, watch=watch_task,
        )  # fmt: skip
        for row in rows:
            keep(row)


def _parallel(config: CompareConfig, tasks: int) -> int:
    if config.parallel is not None:
        if config.parallel < 1:
            raise ValueError(f"parallel must be 1 or more; got {config.parallel}")
        return min(config.parallel, tasks)
    on_gpu = config.device not in ("auto", "cpu") or (config.device == "auto" and torch.cuda.is_available())
    return 1 if on_gpu else min(_cores(), MAX_PARALLEL, tasks)


def _threads(parallel: int) -> int:
    return torch.get_num_threads() if parallel <= 1 else max(1, _cores() // parallel)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_messages: Any = None  # in a worker process: the queue on which it tells the parent how it goes


def _start_worker(messages: Any, threads: int) -> None:
    global _messages
    _messages = messages
    torch.set_num_threads(threads)


def _run_in_worker(task: _Task) -> None:
    said = 0.0

    def watch(name: str, done: int, total: int, words: str) -> None:
        nonlocal said
        if done == total or time.monotonic() - said > 0.2:
            said = time.monotonic()
            _messages.put(("progress", (name, done, total, words)))

    _run(task, watch, lambda row: _messages.put(("row", row)))


def _run_in_processes(tasks: list[_Task], parallel: int, watch: Watch, keep: Callable[[Row], None]) -> None:
    """Independent trainings side by side; small models use several cores better this way than by threads."""
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    listener = threading.Thread(target=_listen, args=(messages, watch, keep), daemon=True)
    listener.start()
    start = (messages, _threads(parallel))
    pool = ProcessPoolExecutor(parallel, context, initializer=_start_worker, initargs=start)
    try:
        for future in as_completed([pool.submit(_run_in_worker, task) for task in tasks]):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        messages.put(("end", None))
        listener.join()


def _listen(messages: Any, watch: Watch, keep: Callable[[Row], None]) -> None:
    while True:
        kind, value = messages.get()
        if kind == "end":
            return
        if kind == "row":
            keep(value)
        else:
            watch(*value)


def _look_closer(folder: Path, config: CompareConfig, tasks: list[_Task], data: DataSet, watch: Watch) -> None:
    """What the page shows beside accuracy: speed of each model, and what each makes of one sample."""
    first = [task for task in tasks if task.training.seed == config.seeds[0]]
    names = [f"{slug(str(task.training.encoding))}-{task.training.pool}" for task in first]
    if (folder / "looks.json").exists() and set(names) <= {look["name"] for look in read_json(folder / "looks.json")}:
        return
    checkpoints = [load(task.training.out, config.device) for task in first]
    speeds = _speeds(checkpoints, watch)
    assert data.test is not None
    sample, label = data.test.read(0, np.random.default_rng((0, 0, 0)))
    looks = []
    (folder / ARRAYS).mkdir(exist_ok=True)
    for task, name, checkpoint, rates in zip(first, names, checkpoints, speeds):
        view = View(checkpoint.transform, "resize", sides(checkpoint.model.config.img_size))
        pictures = view(sample, np.random.default_rng(0))[None]
        block = min(2, len(checkpoint.model.blocks))
        device = next(checkpoint.model.parameters()).device
        with torch.inference_mode():
            attention = checkpoint.model.attention_map(pictures.to(device), block)[0].mean(0)  # (N, N)
        np.save(folder / ARRAYS / f"attention-{name}.npy", attention.cpu().numpy())
        np.save(folder / ARRAYS / "sample.npy", pictures[0].numpy())
        height, width = checkpoint.model.patch_embed.dynamic_feat_size(pictures.shape[2:])
        looks.append(
            {"name": name, "encoding": task.training.encoding, "pool": task.training.pool, "block": block,
             "grid": [height, width], "sample_class": data.class_names[label],
             "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
             "pictures_per_second": rates}
        )  # fmt: skip
    write_json(folder / "looks.json", looks)


def _speeds(checkpoints: list[Checkpoint], watch: Watch, rounds: int = 7, batch: int = 64) -> list[list[float]]:
    """Forward passes a second of each model at its training size, taken in turn so that all meet the same machine."""
    config = checkpoints[0].model.config
    device = next(checkpoints[0].model.parameters()).device
    pictures = torch.randn(batch, config.in_chans, *sides(config.img_size), device=device)
    rates: list[list[float]] = [[] for _ in checkpoints]
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for rate, checkpoint in zip(rates, checkpoints):
                start = time.perf_counter()
                checkpoint.model(pictures).sum().item()
                if turn:  # the first is a warm-up
                    rate.append(batch / (time.perf_counter() - start))
            watch("speed", turn, rounds, f"{median(rates[0] or [0]):.0f} pictures/s")
    return rates
