"""Atomic files, JSON and JSON lines. Standard library only."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def append_rows(path: Path, rows: Iterable[Any]) -> None:
    """Append rows (dicts, or with `as_json`) to a file of JSON lines, after ending one that an interruption cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write("".join(json.dumps(row if isinstance(row, dict) else row.as_json()) + "\n" for row in rows).encode())
        file.flush()
        os.fsync(file.fileno())


def _text(path: Path) -> str:
    """The text of a file; what a damaged disk left of it breaks a line, and not the reading of the others."""
    return path.read_text(encoding="utf-8", errors="replace")


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a file of JSON lines, with line numbers from 1; skips incomplete lines. No file means no lines."""
    for number, line in enumerate(_text(path).splitlines() if path.exists() else (), start=1):
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError:
            continue


def write_lines(path: Path, values: Iterable[Any]) -> None:
    """Write a file of JSON lines atomically."""
    write_bytes(path, "".join(json.dumps(value) + "\n" for value in values).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; ValueError with its path if it is broken."""
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"'{path}' is not whole JSON ({error}); restore it, or delete it and run again") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` when the block succeeds, and is deleted when it raises.

    keep: path to which the previous file moves.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_writable(folder: Path) -> None:
    """Raise ValueError for a folder that cannot be created or written to. Creates nothing."""
    try:
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
        if not nearest.is_dir():
            raise ValueError(f"cannot write to '{folder}': '{nearest}' is a file; choose another --out")
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(f"cannot write to '{folder}' ({error.strerror or error}); choose another --out") from error


def check_new(path: Path, option: str) -> None:
    """Raise ValueError for a file that exists already, or whose folder cannot be written to."""
    if path.exists():
        raise ValueError(f"'{path}' exists; choose another {option}, or remove it")
    check_writable(path.parent)


def remove_leftovers(path: Path) -> None:
    """Delete temporary files of `replacing` that killed processes left. Only for the one process that writes `path`."""
    for leftover in path.parent.glob(f".{path.name}.????????"):
        leftover.unlink(missing_ok=True)
