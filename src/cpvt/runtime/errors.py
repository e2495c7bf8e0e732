"""One line that quotes an error, for messages that name a cause."""

from __future__ import annotations

WIDTH = 500  # most characters that are quoted


def error_line(error: BaseException) -> str:
    """The type of an error and the first line of its message, as in 'KeyError: 101'; after a colon the next too."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    words = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {words[:WIDTH] or 'no reason given'}"
