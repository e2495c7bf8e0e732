"""Graceful stop on SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

EXIT_CODE = 75  # of a stopped and saved `cpvt train` that can be resumed (EX_TEMPFAIL of sysexits.h)


class StoppedError(RuntimeError):
    """SIGTERM was received (preemption, a time limit of the queue), and everything is saved."""

    exit_code = EXIT_CODE


class Stop:
    """Whether SIGTERM was received."""

    asked = False


@contextmanager
def handle_sigterm() -> Iterator[Stop]:
    """Record SIGTERM instead of exiting while the block runs; no effect outside the main thread."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def record(number: int, frame: FrameType | None) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, record)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def until_stopped(items: Iterable[T], stop: Stop) -> Iterator[T]:
    """Yield at least one item, and no more after SIGTERM."""
    for item in items:
        yield item
        if stop.asked:
            return
