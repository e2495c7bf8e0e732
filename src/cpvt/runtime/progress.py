"""Progress on standard error: bars in a terminal, a line now and then in a log, and the package's messages above them."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any


class _Messages(logging.Handler):
    """Prints the package's messages above the bars."""

    def __init__(self, bars: Bars) -> None:
        super().__init__(logging.INFO)
        self.bars = bars

    def emit(self, record: logging.LogRecord) -> None:
        self.bars.say(self.format(record))


class Bars:
    """Draws one bar per thing under way. Use as a context; call it as a ProgressCallback: (name, done, total or 0 if unknown, words)."""

    def __init__(self, log_every: float = 15.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.log_every, self.logged = log_every, time.monotonic()
        self.tasks: dict[str, Any] = {}
        self.begun: dict[str, tuple[float, int]] = {}  # in a log: when each thing was first told of, and how far it was
        self.console = Console(stderr=True)
        self.drawn = self.console.is_terminal
        left = TimeRemainingColumn()
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[words]}"), left)
        self.messages, self.logger = _Messages(self), logging.getLogger("cpvt")
        self.progress = Progress(*columns, TimeElapsedColumn(), console=self.console, disable=not self.drawn)

    def __enter__(self) -> Bars:
        self.level = self.logger.level
        self.logger.setLevel(logging.INFO)
        self.logger.addHandler(self.messages)
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        self.logger.removeHandler(self.messages)
        self.logger.setLevel(self.level)

    def __call__(self, name: str, done: int, total: int, words: str) -> None:
        if not self.drawn:
            self._log(name, done, total, words)
            return
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=total or None, words="")
        self.progress.update(self.tasks[name], completed=done, total=total or None, words=words)
        if done >= total > 0:
            self.progress.update(self.tasks[name], visible=False)

    def _log(self, name: str, done: int, total: int, words: str) -> None:
        self.begun.setdefault(name, (time.monotonic(), done))
        if done >= total > 0 or time.monotonic() - self.logged > self.log_every:
            self.logged = time.monotonic()
            print(f"{name}  {done}/{total or '?'}  {words}{self._left(name, done, total)}", file=sys.stderr, flush=True)

    def _left(self, name: str, done: int, total: int) -> str:
        """How long it will take yet, at the pace so far."""
        when, first = self.begun[name]
        if done <= first or done >= total:
            return ""
        seconds = round((time.monotonic() - when) / (done - first) * (total - done))
        return f"  {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def say(self, words: str) -> None:
        """Print a line above the bars."""
        self.console.print(words, highlight=False, markup=False, soft_wrap=True)
