"""Compare encodings: train all alike, and test each at every size under each protocol."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cpvt.adapters import is_external
from cpvt.config import CompareConfig, ProgressCallback, Size, TrainConfig, ignore_progress, refuse_other, sides
from cpvt.config.base import Default, some_names
from cpvt.data import DataSet, open_data
from cpvt.data.protocols import TABLE as PROTOCOLS
from cpvt.data.protocols import check_protocols
from cpvt.encodings import TABLE as ENCODINGS
from cpvt.encodings.table import DEFAULT_GROUP
from cpvt.encodings.text import expand_groups
from cpvt.evaluation.accuracy import count_test
from cpvt.evaluation.profile import ProfiledModel, profile_models
from cpvt.evaluation.sweep import check_sizes, sweep
from cpvt.experiments.pool import Send, check_address, cores, import_ray, process_pool, ray_pool, run_tasks
from cpvt.models.sizes import model_config
from cpvt.results.checkpoints import load
from cpvt.results.folders import COMPARISON, ROWS, RUNS
from cpvt.results.provenance import provenance
from cpvt.results.rows import Row, read_rows
from cpvt.runtime.files import append_rows, check_writable, read_json, write_json
from cpvt.runtime.progress import log_messages
from cpvt.training import DivergedError, TrainingSetup, check, check_here, is_finished, resolved_options, train
from cpvt.training.journal import describe_data, describe_images

logger = logging.getLogger(__name__)
QUICK_EPOCHS = 12
GROWS = (  # options that may change when a comparison resumes
    "out", "encodings", "pool", "protocols", "scale", "seeds", "sizes", "canvas_sizes", "resize_sizes", "parallel",
    "cluster", "device", "workers", "on_bad_image", "max_image_pixels",
)  # fmt: skip
MAX_PARALLEL = 8


@dataclass(frozen=True)
class _Task:
    """One training, and the tests that follow it."""

    training: TrainConfig
    tests: tuple[tuple[str, Any, str], ...]  # (protocol, size, scale rule)
    setup: TrainingSetup | None = None  # set once the training is checked

    @property
    def name(self) -> str:
        return f"{self.training.encoding} {self.training.pool} seed {self.training.seed}"


def compare(
    config: CompareConfig,
    on_progress: ProgressCallback = ignore_progress,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Path:
    """Train every encoding alike and test each; returns the folder, from which `cpvt.report` draws the page.

    Rows are added to rows.jsonl as they are measured. The same call resumes an interrupted comparison and recomputes
    nothing. Encodings, seeds, protocols and sizes may be added to a finished one. Raises ValueError where the folder
    holds a comparison with another model, data set or recipe, and DivergedError, once all others are trained and
    tested, where the loss of a training is not finite.

    Trainings run in separate processes, so a calling script needs `if __name__ == "__main__":` (or parallel=1). With
    `cluster` they run on the machines of a Ray cluster, see `cpvt.experiments.pool`.
    """
    if is_external(config.model):
        raise ValueError(f"compare changes the encoding of cpvt's own models; use train and sweep for '{config.model}'")
    config, quick = spell_out(config), config.quick
    if config.cluster:
        check_address(config.cluster)
        import_ray()
        _resources(config, 1)
    folder = Path(config.out)
    tasks = _tasks(config, quick)
    check_writable(folder)
    if (folder / COMPARISON).exists():
        before = read_json(folder / COMPARISON)["config"]
        refuse_other(folder, "a comparison with another configuration", before, config, GROWS)
    data = open_data(config.dataset)
    if data.test is None:
        raise ValueError(data.lacks_test)
    tasks = [replace(task, setup=check(task.training, data)._replace(name=task.name)) for task in tasks]
    _refuse_other_images(folder, _images(tasks[0], data))
    reduced = config.dataset.reduced_jpegs  # a sweep may have added rows of the other decoding
    done = {row.key for row in read_rows(folder / ROWS) if row.reduced_jpegs == reduced}
    unfinished = [task for task in (_remaining(task, done) for task in tasks) if task is not None]
    parallel = _parallel(config, len(unfinished))
    for task in unfinished if not config.cluster else ():
        check_here(task.training)
    if unfinished:
        _record(folder, config, parallel, data, unfinished[0])
        _announce(unfinished, len(tasks), parallel, data)

    diverged: dict[str, str] = {}  # training -> why it ended

    def keep(row: Row) -> None:
        append_rows(folder / ROWS, [row])
        on_row(row)

    def note(name: str, why: str) -> None:
        diverged[name] = why
        logger.warning(f"{name}: {why}")

    def on_message(kind: str, *content: Any) -> None:
        receivers: dict[str, Callable[..., Any]]
        receivers = {"row": keep, "log": logger.info, "progress": on_progress, "diverged": note}
        receivers[kind](*content)

    if config.cluster and unfinished:
        cpus, gpu = _resources(config, parallel)
        run_tasks(_run_in_worker, unfinished, ray_pool(config.cluster, folder, cpus, gpu), on_message)
    elif parallel > 1:
        run_tasks(_run_in_worker, unfinished, process_pool(parallel, _threads(parallel)), on_message)
    else:
        for task in unfinished:
            _run(task, data, on_progress, keep, note)
    trained = [task for task in tasks if task.training.seed == config.seeds[0] and task.name not in diverged]
    profile_models(folder, [_profiled_model(task) for task in trained], data, config.device, on_progress)
    _raise_diverged(diverged, len(tasks), folder)
    return folder


def _raise_diverged(diverged: dict[str, str], count: int, folder: Path) -> None:
    """Raise DivergedError where trainings diverged: training -> why."""
    if diverged:
        whys = "; ".join(f"{name}: {why}" for name, why in diverged.items())
        raise DivergedError(
            f"{len(diverged)} of {count} trainings diverged, and all others are done: `cpvt report {folder}` draws "
            f"their page. To have all, lower --lr and compare again with another --out. {whys}"
        )


def spell_out(config: CompareConfig) -> CompareConfig:
    """The configuration with every default, those of `--quick` included, filled in."""
    quick = config.quick
    sizes: dict[str, Any] = {
        f"{name}_sizes": _sizes(config, name, quick) for name in PROTOCOLS if hasattr(config, f"{name}_sizes")
    }
    optim = config.optim
    if quick and isinstance(optim.epochs, Default):
        optim = replace(optim, epochs=QUICK_EPOCHS)
    default = [name for name, entry in ENCODINGS.items() if entry.quick] if quick else [DEFAULT_GROUP]
    return replace(
        config,
        quick=False,
        out=config.out or ("runs/quick" if quick else "runs/compare"),
        encodings=expand_groups(config.encodings or default),  # not groups, which grow with the TABLE
        pool=config.pool or (("cls",) if quick else ()),
        optim=optim,
        **sizes,
    )


def _sizes(config: CompareConfig, protocol: str, quick: bool) -> tuple[Size, ...]:
    """Test sizes of a protocol: its own option, else `sizes`, else its multiples of the training size."""
    given: tuple[Size, ...] = getattr(config, f"{protocol}_sizes", ()) or config.sizes
    if given:
        return given
    model = model_config(config.model, **({} if config.img_size is None else {"img_size": config.img_size}))
    multiples = PROTOCOLS[protocol].quick_multiples if quick else PROTOCOLS[protocol].multiples
    scaled = [tuple(max(model.patch_size, round(each * side)) for side in sides(model.img_size)) for each in multiples]
    return tuple(height if isinstance(model.img_size, int) else (height, width) for height, width in scaled)


def _tasks(config: CompareConfig, quick: bool) -> list[_Task]:
    """Every training. Seeds are outermost, so an interrupted comparison is a complete one with fewer seeds."""
    for name in ("seeds", "protocols", "scale"):
        if not getattr(config, name):
            raise ValueError(f"{name} must name at least one")
    heads = [(encoding, pool) for pool in config.pool or ("cls",) for encoding in config.encodings]
    if not config.pool and "peg" in config.encodings:
        heads.append(("peg", "gap"))
    tests = _tests(config, quick)
    tasks = []
    for seed in dict.fromkeys(config.seeds):
        for encoding, pool in dict.fromkeys(heads):
            out = Path(config.out) / RUNS / f"{slug(encoding)}-{pool}-seed{seed}"
            training = TrainConfig(
                out=str(out), encoding=encoding, pool=pool, model=config.model, img_size=config.img_size,
                train_sizes=config.train_sizes, seed=seed, device=config.device, dataset=config.dataset,
                optim=config.optim,
            )  # fmt: skip
            tasks.append(_Task(training, tests))
    return tasks


def _tests(config: CompareConfig, quick: bool) -> tuple[tuple[str, Size, str], ...]:
    """Every (protocol, size, scale) that each model is tested at."""
    check_protocols(config.protocols, to_compare=True)
    tests = [
        (name, size, scale)
        for scale in config.scale
        for name in config.protocols
        for size in _sizes(config, name, quick)
    ]
    check_sizes([size for _, size, _ in tests], model_config(config.model).patch_size)
    return tuple(dict.fromkeys(tests))


def slug(encoding: str) -> str:
    """An encoding's name as a file name."""
    return re.sub(r"[^A-Za-z0-9.+=-]+", "_", encoding).strip("_")


def _record(folder: Path, config: CompareConfig, parallel: int, data: DataSet, task: _Task) -> None:
    """Save the configuration, what the data made of its defaults, and the commands that measured the rows so far."""
    assert task.setup is not None  # every task is checked
    earlier = read_json(folder / COMPARISON)["commands"] if (folder / COMPARISON).exists() else []
    origin = {**provenance(), "trainings_at_once": parallel, "threads_each": _threads(parallel)}
    commands = list(dict.fromkeys([*earlier, origin["command"]]))
    resolved = resolved_options(task.training, task.setup, data)
    record = {"config": asdict(config), "resolved": resolved, "provenance": origin, "commands": commands}
    write_json(folder / COMPARISON, {**record, "images": _images(task, data)})


def _images(task: _Task, data: DataSet) -> dict[str, Any]:
    """What must not change between the models of a comparison: classes, and how many images there are."""
    assert task.setup is not None  # every task is checked
    return {"classes": some_names(data.class_names), "train": task.setup.sampler.images, "test": count_test(data)}


def _refuse_other_images(folder: Path, now: dict[str, Any]) -> None:
    """Raise ValueError where a comparison began with other images: its rows are averaged, and paired image by image."""
    then = read_json(folder / COMPARISON).get("images", now) if (folder / COMPARISON).exists() else now
    other = [name for name, value in now.items() if then.get(name) != value]
    changed = [f"{name}: {then.get(name)} before, {now[name]} now" for name in other]
    if changed:
        raise ValueError(
            f"the comparison in '{folder}' began with other images ({'; '.join(changed)}); restore those, or choose "
            "another --out"
        )


def _announce(unfinished: list[_Task], count: int, parallel: int, data: DataSet) -> None:
    """Log what is trained on what."""
    training, setup = unfinished[0].training, unfinished[0].setup
    assert setup is not None  # every task is checked
    logger.info(f"data: {describe_data(data, setup.sampler.images)}")
    logger.info(f"images: {describe_images(training, setup.preprocessing, data)}")
    logger.info(f"{len(unfinished)} of {count} models to train or test, {max(1, parallel)} at once; {training.model}")


def _remaining(task: _Task, done: set[tuple[Any, ...]]) -> _Task | None:
    """The task without the tests that are done; None where none is left."""
    training = task.training
    is_finished(training)  # raises ValueError where the folder holds another run
    measured = (training.dataset.name, training.model, training.encoding, training.pool, training.seed)
    tests = tuple(test for test in task.tests if (*measured, *test, "fp32") not in done)
    return replace(task, tests=tests) if tests else None


def _profiled_model(task: _Task) -> ProfiledModel:
    encoding, pool = str(task.training.encoding), str(task.training.pool)
    return ProfiledModel(f"{slug(encoding)}-{pool}", encoding, pool, task.training.out)


def _run(
    task: _Task,
    data: DataSet,
    on_progress: ProgressCallback,
    keep: Callable[[Row], None],
    on_diverged: Callable[[str, str], None],
) -> None:
    """Train and test; a training that diverges ends there, as its repetition would, and does not end the others."""

    def on_task_progress(step: str, done: int, total: int, message: str) -> None:
        if step == "train":
            on_progress(task.name, done, total, message)
        else:
            on_progress(f"{task.name}: {step}", done, total, "")  # a row follows

    try:
        folder = train(task.training, on_task_progress, data, task.setup)
    except DivergedError as error:
        on_diverged(task.name, str(error))
        return
    checkpoint = load(folder, task.training.device)
    for protocol, size, scale in task.tests:
        options = {"protocols": (protocol,), "scale": scale, **task.training.dataset.test_options}
        rows = sweep(checkpoint, data, [size], on_progress=on_task_progress, **options)
        for row in rows:
            keep(row)


def _parallel(config: CompareConfig, tasks: int) -> int:
    if config.parallel is not None:
        return min(config.parallel, tasks)
    on_gpu = config.device not in ("auto", "cpu") or (config.device == "auto" and torch.cuda.is_available())
    return 1 if on_gpu else min(cores(), MAX_PARALLEL, tasks)


def _resources(config: CompareConfig, parallel: int) -> tuple[int, bool | None]:
    """CPUs of each training on a cluster, and whether it takes a GPU; None: if the cluster has any."""
    if config.device.startswith("cuda:"):
        raise ValueError(f"on a cluster each training gets its own GPU: pass --device cuda; got '{config.device}'")
    if config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available()):
        return 1 + config.dataset.workers, True
    return max(1, cores() // parallel), None if config.device == "auto" else False


def _threads(parallel: int) -> int:
    return torch.get_num_threads() if parallel <= 1 else max(1, cores() // parallel)


def _run_in_worker(task: _Task, send: Send) -> None:
    sent = 0.0

    def on_progress(*progress: Any) -> None:
        nonlocal sent
        _, done, total, _ = progress
        if done == total or time.monotonic() - sent > 0.2:
            sent = time.monotonic()
            send("progress", *progress)

    with log_messages(lambda text: send("log", text)):
        data = open_data(task.training.dataset)
        _run(task, data, on_progress, lambda row: send("row", row), lambda *why: send("diverged", *why))
