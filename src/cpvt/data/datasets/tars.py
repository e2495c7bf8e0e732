"""Tar archives of labelled images, looked through once, so that any image can be read by its place."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from cpvt.data.decoding import image_endings

LABELS = ("cls", "json", "cls.txt")  # what stands beside an image: its class, facts about it, its class in words
KEYS = ("label", "cls")  # of the class among the facts


class Sample(NamedTuple):
    """Where an image is in an archive, and its class: a number, or a name."""

    name: str
    offset: int  # bytes
    size: int  # bytes
    label: int | str
    words: str | None  # the class in words, where they stand beside its number


class _Member(NamedTuple):
    name: str
    offset: int
    size: int
    ending: str  # of the file's name, from its first dot on, as WebDataset cuts names


def read_samples(path: Path, keys: Sequence[str] = KEYS) -> list[Sample]:
    """Every labelled image of a tar archive, in its order.

    Files that are called the same up to the first dot make a sample, as in WebDataset: an image, and its class as a
    number or name in .cls, or under one of `keys` in .json. Without these the folder of an image is its class.
    Raises ValueError that names the archive where it is damaged or an image has no class.
    """
    samples: dict[str, list[_Member]] = {}
    beside: dict[str, dict[str, str]] = {}
    endings = image_endings()
    with open(path, "rb") as file:
        for member in _members(path, file):
            key = member.name[: -len(member.ending) - 1]
            if f".{member.ending.rpartition('.')[2]}" in endings:
                samples.setdefault(key, []).append(member)
            elif member.ending in LABELS:
                file.seek(member.offset)
                beside.setdefault(key, {})[member.ending] = file.read(member.size).decode(errors="replace").strip()
    without = next((key for key, facts in beside.items() if "cls" in facts and key not in samples), None)
    if without is not None:
        raise ValueError(f"sample '{without}' of '{path}' has a class and no image; known: {' '.join(sorted(endings))}")
    return [sample for key, images in samples.items() for sample in _labelled(path, images, beside.get(key, {}), keys)]


def _labelled(path: Path, images: list[_Member], facts: dict[str, str], keys: Sequence[str]) -> Iterator[Sample]:
    label = _label(path, images[0].name, facts, keys)
    if label is not None:
        plain = [image for image in images if "." not in image.ending] or images  # a mask is x.mask.png
        if len(plain) > 1:
            names = ", ".join(image.name for image in plain)
            raise ValueError(f"a sample of '{path}' holds several images for one class ({names}); leave one of them")
        images = plain
    for name, offset, size, _ in images:
        own = PurePosixPath(name).parent.name if label is None else label
        if own == "":
            raise ValueError(
                f"'{name}' of '{path}' has no class: expected its number in {PurePosixPath(name).stem}.cls beside it, "
                f"or in .json under {' or '.join(keys)}, or else a folder, CLASS/{name}"
            )
        yield Sample(name, offset, size, own, facts.get("cls.txt"))


def _label(path: Path, name: str, facts: dict[str, str], keys: Sequence[str]) -> int | str | None:
    """The class that stands beside an image, a number where it reads as one; None where there is none."""
    found = None
    if "json" in facts:
        try:
            known = json.loads(facts["json"])
        except json.JSONDecodeError as error:
            raise ValueError(f"the .json beside '{name}' of '{path}' is not JSON ({error})") from error
        found = next((known[key] for key in keys if key in known), None) if isinstance(known, dict) else None
    if "cls" in facts and (found is None or tuple(keys) == KEYS):
        found = facts["cls"]
    if found is None:
        return None
    if not isinstance(found, (int, str)) or found == "" or str(found).startswith("-"):
        raise ValueError(f"the class of '{name}' of '{path}' is a number from 0 on, or a name; got {found!r}")
    return int(found) if str(found).isdecimal() else str(found)


def _members(path: Path, file: IO[bytes]) -> Iterator[_Member]:
    """The files in an archive; ValueError where it does not go on to its end."""
    offset, count = 0, 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                count += 1
                place = PurePosixPath(info.name)
                offset = info.offset_data + info.size
                if place.name.startswith(".") or not info.isfile():
                    _refuse_link(path, info)
                    continue
                yield _Member(str(place), info.offset_data, info.size, place.name.partition(".")[2].lower())
            offset = archive.offset  # where it stopped: tarfile takes a broken header for the end
        file.seek(offset)
        whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _damaged(path, count, offset) from error
    if not whole:
        raise _damaged(path, count, offset)


def _refuse_link(path: Path, info: tarfile.TarInfo) -> None:
    if (info.islnk() or info.issym()) and PurePosixPath(info.name).suffix.lower() in image_endings():
        raise ValueError(
            f"'{info.name}' of '{path}' is a link to {info.linkname}, not an image; "
            "write the archive with tar --dereference --hard-dereference"
        )


def _damaged(path: Path, count: int, offset: int) -> ValueError:
    return ValueError(
        f"shard '{path}' is damaged or cut off: {count} files are whole, up to byte {offset}; "
        "fetch or write it again, or move it elsewhere"
    )
