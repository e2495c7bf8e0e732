"""Stopping in good order when the system asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

EXIT_CODE = 75  # of `cpvt train` that was stopped, saved, and wants to be started again (EX_TEMPFAIL of sysexits.h)


class StoppedError(RuntimeError):
    """SIGTERM came (a machine is taken back, a queue's time is over), and everything is saved."""

    exit_code = EXIT_CODE


class Stop:
    """Whether SIGTERM came."""

    asked = False


@contextmanager
def handle_sigterm() -> Iterator[Stop]:
    """Note SIGTERM instead of dying of it, while the block runs; outside the main thread nothing changes."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: FrameType | None) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def until_stopped(items: Iterable[T], stop: Stop) -> Iterator[T]:
    """One item at least, and no more once SIGTERM came."""
    for item in items:
        yield item
        if stop.asked:
            return
