"""Independent tasks side by side, a process each; small models use several cores better this way than by threads."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Task = TypeVar("Task")
Tell = Callable[..., None]

_messages: Any = None  # in a worker: the queue on which it tells the parent how it goes
_stopping: Any = None  # in a worker: set when the parent has given up


def run_in_processes(
    work: Callable[[Task, Tell], None], tasks: Sequence[Task], processes: int, threads: int, hear: Callable[..., Any]
) -> None:
    """Call `work(task, tell)` for every task, `processes` at a time; what a task tells, the parent hears in turn.

    threads: for each process. The first error of a task, or of `hear`, stops all others at their next word and is
    raised here. Raises ChildProcessError where a process died. `work` must be importable (a function of a module).
    """
    context = multiprocessing.get_context("spawn")
    messages, stopping = context.Queue(), context.Event()
    failures: list[BaseException] = []

    def listen() -> None:
        while (message := messages.get()) is not None:
            try:
                if not failures:
                    hear(*message)
            except BaseException as error:
                failures.append(error)
                stopping.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(messages, stopping, threads))
    try:
        for future in as_completed([pool.submit(_work, work, task) for task in tasks]):
            future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process died (most often for want of memory); what was finished is kept. Run the same command again, "
            f"with fewer at once than {processes} (--parallel)"
        ) from error
    except BaseException as error:
        if not failures:
            raise
        raise failures[0] from error
    finally:
        stopping.set()
        pool.shutdown(cancel_futures=True)
        messages.put(None)
        listener.join(timeout=30)
    if failures:
        raise failures[0]


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(messages: Any, stopping: Any, threads: int) -> None:
    global _messages, _stopping
    _messages, _stopping = messages, stopping
    import torch

    torch.set_num_threads(threads)


def _work(work: Callable[[Task, Tell], None], task: Task) -> None:
    _tell()
    work(task, _tell)


def _tell(*message: Any) -> None:
    if _stopping.is_set():
        raise KeyboardInterrupt("another task failed, or the parent was interrupted")
    if message:
        _messages.put(message)
