"""Progress on standard error: bars in a terminal, occasional lines in a log, and the package's log messages."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class _Messages(logging.Handler):
    """Passes log messages on to a function."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        self.say(self.format(record))


@contextmanager
def log_messages(say: Callable[[str], None]) -> Iterator[None]:
    """Within it the package's log messages are passed to a function."""
    messages, logger = _Messages(say), logging.getLogger("cpvt")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(messages)
    try:
        yield
    finally:
        logger.removeHandler(messages)
        logger.setLevel(level)


class Bars:
    """Draws one bar per task. Use it as a context manager and as a ProgressCallback (see cpvt.config)."""

    def __init__(self, log_every: float = 30.0) -> None:
        """log_every: in a log, seconds between lines of progress; a task that ends with a message has a line more."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.log_every, self.logged = log_every, time.monotonic()
        self.tasks: dict[str, Any] = {}
        self.begun: dict[str, tuple[float, int]] = {}  # in a log: time and steps done at the first call for each task
        self.console = Console(stderr=True, emoji=False)
        self.in_terminal = self.console.is_terminal
        words = [TextColumn(word, style="dim") for word in ("left", "elapsed")]
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[message]}"),
            TimeRemainingColumn(), words[0], TimeElapsedColumn(), words[1],
        )  # fmt: skip
        self.progress = Progress(*columns, console=self.console, disable=not self.in_terminal)

    def __enter__(self) -> Bars:
        self.messages = log_messages(self.say)
        self.messages.__enter__()
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()
        self.messages.__exit__(None, None, None)

    def __call__(self, name: str, done: int, total: int, message: str) -> None:
        finished = done >= total > 0
        if not self.in_terminal:
            self._log(name, done, total, message)
        else:
            if name not in self.tasks:
                self.tasks[name] = self.progress.add_task(name, total=total or None, message="")
            self.progress.update(self.tasks[name], completed=done, total=total or None, message=message)
        if finished:
            self.begun.pop(name, None)
            if name in self.tasks:
                self.progress.refresh()  # shows the bar at its end before it goes
                self.progress.remove_task(self.tasks.pop(name))

    def _log(self, name: str, done: int, total: int, message: str) -> None:
        self.begun.setdefault(name, (time.monotonic(), done))
        if (done >= total > 0 and message) or time.monotonic() - self.logged > self.log_every:
            self.logged = time.monotonic()
            words = [name, f"{done}/{total or '?'}", message, self._left(name, done, total)]
            print("  ".join(word for word in words if word), file=sys.stderr, flush=True)

    def _left(self, name: str, done: int, total: int) -> str:
        """Time left at the pace so far."""
        began, first = self.begun[name]
        if done <= first or done >= total:
            return ""
        seconds = round((time.monotonic() - began) / (done - first) * (total - done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)
