"""Two processes that train one model (DDP over gloo) against two that train a model each, one thread per process."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from benchmarks.measuring import Figure, alternate, ratio, reported
from benchmarks.rehearsal import rehearse

PROCESSES = 2


class Case(NamedTuple):
    """What is trained; the batch size is that of all processes together."""

    model: str
    size: int
    batch_size: int
    classes: int
    steps: int  # per timing


CASES = (Case("cpvt_mini_peg5_gap", 32, 64, 10, steps=8), Case("cpvt_tiny_gap", 224, 16, 1000, steps=2))


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only processes`."""
    for case in CASES:
        with _started(case, together=True) as together, _started(case, together=False) as apart:
            seconds = alternate(
                {"together": lambda: max(together()), "apart": lambda: _for_one_batch(apart())},
                -(-rounds // 3),
                warm_up=1,
                clock=reported,
            )
        what = f"{case.model}, {case.size}, {case.batch_size} images per step, one thread each"
        yield ratio(
            f"throughput of {PROCESSES} processes that train one model / of {PROCESSES} that train a model each, "
            f"{what}",
            seconds["apart"],
            seconds["together"],
        )


def _for_one_batch(seconds: list[float]) -> float:
    """Return seconds per batch of several independent processes that run concurrently."""
    return 1 / sum(1 / each for each in seconds)


@contextmanager
def _started(case: Case, together: bool) -> Iterator[Callable[[], list[float]]]:
    """Start processes that train one model together or one each; a call steps all and returns seconds per step."""
    context, port = multiprocessing.get_context("spawn"), _free_port()
    pipes, started = list[Connection](), list[Any]()
    try:
        for number in range(PROCESSES):
            mine, theirs = context.Pipe()
            group = (number, port) if together else None
            started.append(context.Process(target=_train, args=(theirs, case, group)))
            started[-1].start()
            theirs.close()
            pipes.append(mine)
        for pipe in pipes:
            _answer(pipe)
        yield lambda: [_answer(pipe) for pipe in _requested(pipes)]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.join()


def _requested(pipes: list[Connection]) -> list[Connection]:
    """Request the steps of every process and return the pipes."""
    for pipe in pipes:
        pipe.send("go")
    return pipes


def _answer(pipe: Connection) -> float:
    try:
        return float(pipe.recv())
    except EOFError as error:
        raise ChildProcessError("a process that trains died; its error is above") from error


def _train(pipe: Connection, case: Case, group: tuple[int, int] | None) -> None:
    """Run in a child process: take the steps of each request and send back the seconds per step.

    group: (rank, port) among processes that train one model together; None for a process by itself.
    """
    if group is not None:
        number, port = (str(each) for each in group)
        world = {"WORLD_SIZE": str(PROCESSES), "RANK": number, "LOCAL_RANK": number}
        os.environ.update({**world, "MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"})
    rehearsal = rehearse(case.model, case.size, case.batch_size, case.classes, case.steps)
    torch.set_num_threads(1)
    rehearsal()
    pipe.send(0.0)
    while pipe.recv():
        start = time.perf_counter()
        rehearsal()
        pipe.send((time.perf_counter() - start) / case.steps)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return int(listening.getsockname()[1])
