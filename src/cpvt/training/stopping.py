"""Graceful stop on SIGTERM and on the first Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from cpvt.runtime import distributed

T = TypeVar("T")

EXIT_CODE = 75  # of a stopped and saved `cpvt train` that can be resumed (EX_TEMPFAIL of sysexits.h)
CODES = {"SIGTERM": EXIT_CODE, "Ctrl-C": 130}  # what asked to stop -> exit code
HINT = b"\ncpvt: finishes this step and saves; press Ctrl-C again to quit at once\n"


class StoppedError(RuntimeError):
    """A training was asked to stop (preemption, a time limit of the queue, Ctrl-C), and everything is saved."""

    exit_code = EXIT_CODE


class Stop:
    """Whether, and by what, a training was asked to stop."""

    by = ""

    @property
    def asked(self) -> bool:
        return bool(self.by)

    def error(self, where: str, saved: str) -> StoppedError:
        """The error that ends the training; saved: what is saved."""
        by = self.by or "another process"
        error = StoppedError(f"stopped by {by} {where}; {saved}. The same command resumes from there")
        error.exit_code = CODES.get(by, EXIT_CODE)
        return error


_current: list[Stop] = []  # of the training that this process is in


def ask_to_stop() -> None:
    """Ask the training of this process to save and stop, as SIGTERM does; KeyboardInterrupt where there is none."""
    if not _current:
        raise KeyboardInterrupt("another task failed, or the parent process was interrupted")
    _current[-1].by = _current[-1].by or "the parent process"


@contextmanager
def handle_signals() -> Iterator[Stop]:
    """Record SIGTERM and the first Ctrl-C (SIGINT) while the block runs, instead of exiting; the second one exits.

    No effect outside the main thread, nor on a SIGINT that this process ignores. Under a launcher, which passes on what
    the terminal has sent already, every SIGINT counts as the first.
    """
    stop, owner = Stop(), os.getpid()
    _current.append(stop)

    def record(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process that loads images
            return
        if number == signal.SIGINT:
            if stop.by == "Ctrl-C" and not distributed.launched():
                raise KeyboardInterrupt
            os.write(2, HINT if distributed.is_main_process() else b"")  # print is not safe in a handler
        stop.by = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"

    in_main = threading.current_thread() is threading.main_thread()
    handled = [
        each
        for each in (signal.SIGTERM, signal.SIGINT)
        if in_main and signal.getsignal(each) not in (signal.SIG_IGN, None)
    ]
    before = {each: signal.signal(each, record) for each in handled}
    try:
        yield stop
    finally:
        _current.remove(stop)
        for each, handler in before.items():
            signal.signal(each, handler)


def until_stopped(items: Iterable[T], stop: Stop) -> Iterator[T]:
    """Yield at least one item, and no more once a stop was asked for."""
    for item in items:
        yield item
        if stop.asked:
            return
