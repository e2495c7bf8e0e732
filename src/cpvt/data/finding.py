"""Find image files: a name is a file, a folder that is walked, or a pattern. Imports no torch."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cpvt.data.decoding import image_endings


def find_images(names: Sequence[Any]) -> list[Any]:
    """The image files that names stand for: files as they are, folders walked, patterns expanded, in natural order.

    What is not a path is returned as it is. Raises ValueError for a name that stands for no image.
    """
    found = [each for name in names for each in (_files(name) if isinstance(name, (str, Path)) else [name])]
    if not found:
        raise ValueError("predict needs images: files, folders or patterns, after the model if one is named; got none")
    return found


def is_plain(name: str) -> bool:
    """Whether a name is one path, and not a pattern or a URL."""
    return not glob.has_magic(name) and "://" not in name


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError for names that cannot stand for images; the first may also be a model. Reads no image."""
    for number, name in enumerate(names):
        may_be_model = number == 0 and Path(name).suffix.lower() not in image_endings()
        if "://" in name or not (may_be_model or Path(name).exists() or glob.glob(name, recursive=True)):
            _files(name)


def _files(name: str | Path) -> list[str | Path]:
    text = str(name)
    if "://" in text:
        raise ValueError(f"'{name}' is a URL, and predict reads files; download it first")
    if os.path.isfile(text):
        return [name]
    if os.path.isdir(text):
        images: list[str | Path] = sorted(walk(Path(text)), key=natural)
        if not images:
            raise ValueError(f"'{name}' holds no images; their suffixes are {' '.join(sorted(image_endings()))}")
        return images
    matches = sorted(glob.glob(text, recursive=True), key=natural)
    if not matches:
        raise ValueError(f"no such image: '{name}'")
    return [each for match in matches for each in _files(match)]


def walk(folder: Path) -> Iterator[Path]:
    """Every image file below a folder; hidden files and folders are left out."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in image_endings() and path.is_file():
            yield path


def natural(path: str | Path) -> list[tuple[int, str]]:
    """The key of natural order: image2 comes before image10."""
    parts = re.split(r"([0-9]+)", str(path).lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
