"""Find image files: a name is a file, a folder that is walked, or a pattern. Imports no torch."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpvt.data.base import natural_key
from cpvt.data.decoding import image_endings, is_hidden

logger = logging.getLogger(__name__)
NO_IMAGES = "predict needs images: files, folders or patterns, after the model if one is named; got none"


def find_images(names: Sequence[Any]) -> list[Any]:
    """The image files that names stand for: files as they are, folders walked, patterns expanded, in natural order.

    What is not a path is returned as it is. Raises ValueError for a name that stands for no image.
    """
    found = [each for name in names for each in (_files(name) if isinstance(name, (str, Path)) else [name])]
    if not found:
        raise ValueError(NO_IMAGES)
    return found


def is_plain(name: str) -> bool:
    """Whether a name is one path, and not a pattern or a URL."""
    return not glob.has_magic(name) and "://" not in name


def check_images(names: Sequence[str]) -> None:
    """Raise ValueError for names that cannot stand for images; the first may also be a model. Reads no image."""
    if not names:
        raise ValueError(NO_IMAGES)
    for number, name in enumerate(names):
        may_be_model = number == 0 and Path(name).suffix.lower() not in image_endings()
        if "://" in name or not (may_be_model or Path(name).exists() or glob.glob(name, recursive=True)):
            _files(name)


def _files(name: str | Path) -> list[str | Path]:
    text = str(name)
    if not text:
        raise ValueError("the name of an image is empty: is a variable of the shell unset?")
    if "://" in text:
        raise ValueError(f"'{name}' is a URL, and predict reads files; download it first")
    if os.path.isfile(text):
        return [name]
    if os.path.isdir(text):
        others: Counter[str] = Counter()
        images: list[str | Path] = [*walk(Path(text), others)]
        if not images:
            raise ValueError(f"'{name}' holds no images; their suffixes are {' '.join(sorted(image_endings()))}")
        say_left_out(text, others)
        return images
    matches = sorted(glob.glob(text, recursive=True), key=natural_key)
    if not matches:
        raise ValueError(f"no such image: '{name}'")
    return [each for match in matches for each in (_files(match) if os.path.isdir(match) else [match])]


def say_left_out(folder: str | Path, others: Counter[str]) -> None:
    """Log how many files of which endings were left out of a folder, if any were."""
    if others:
        kinds = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in others.most_common())
        logger.info(f"left out of '{folder}', as not of a format that is read: {kinds}")


def walk(folder: Path, others: Counter[str] | None = None) -> list[Path]:
    """The image files in a folder and in those below it, linked ones too, in natural order.

    Hidden files are left out, and what systems keep for themselves. Links may form loops: no folder is read twice.
    others: counts the endings of all other files. Raises ValueError for a folder that cannot be read.
    """
    seen = {str(each) for each in (folder.resolve(), *folder.resolve().parents)}
    found: list[Path] = []
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        new = {os.path.realpath(Path(where, name)): name for name in sorted(folders) if not is_hidden(Path(name))}
        folders[:] = [name for real, name in new.items() if real not in seen]
        seen.update(new)
        for path in (Path(where, name) for name in files if not is_hidden(Path(name))):
            if is_image(path):
                found.append(path)
            elif others is not None:
                others[path.suffix.lower()] += 1
    return sorted(found, key=natural_key)


def is_image(path: Path) -> bool:
    """Whether a file is an image by its name, or a link to what is not there and may have been a folder of images."""
    return path.suffix.lower() in image_endings() or (not path.suffix and not path.exists())


def _refuse(error: OSError) -> None:
    raise ValueError(f"folder '{error.filename}' cannot be read ({error.strerror})") from error
