"""One line that quotes an error, for messages that name a cause."""

from __future__ import annotations


def error_line(error: BaseException) -> str:
    """The type of an error and the first line of its message, as in 'KeyError: 101'."""
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0] if words else 'no reason given'}"
