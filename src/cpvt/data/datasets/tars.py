"""Tar archives of labelled images, indexed once for random access."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from cpvt.data.decoding import image_endings

LABELS = ("cls", "json", "cls.txt")  # files next to an image: its class, metadata, the name of its class
KEYS = ("label", "cls")  # of the class in the metadata


class Sample(NamedTuple):
    """The position of an image in an archive, and its class: a number or a name."""

    name: str
    offset: int  # bytes
    size: int  # bytes
    label: int | str
    class_name: str | None  # where it is given besides a number


class _Member(NamedTuple):
    name: str
    offset: int
    size: int
    ending: str  # of the file name, after its first dot, as in WebDataset


def read_samples(path: Path, keys: Sequence[str] = KEYS) -> list[Sample]:
    """Every labelled image of a tar archive, in stored order.

    Files with the same name up to the first dot form a sample, as in WebDataset: an image, and its class as a number
    or name in .cls, or under one of `keys` in .json. Without these the folder of an image is its class.
    Raises ValueError that names the archive where it is damaged or an image has no class.
    """
    samples: dict[str, list[_Member]] = {}
    metadata: dict[str, dict[str, str]] = {}
    endings = image_endings()
    with open(path, "rb") as file:
        for member in _members(path, file):
            key = member.name[: -len(member.ending) - 1]
            if f".{member.ending.rpartition('.')[2]}" in endings:
                samples.setdefault(key, []).append(member)
            elif member.ending in LABELS:
                file.seek(member.offset)
                metadata.setdefault(key, {})[member.ending] = file.read(member.size).decode(errors="replace").strip()
    without = next((key for key, found in metadata.items() if "cls" in found and key not in samples), None)
    if without is not None:
        raise ValueError(f"sample '{without}' of '{path}' has a class and no image; known: {' '.join(sorted(endings))}")
    return [
        sample for key, images in samples.items() for sample in _labelled(path, images, metadata.get(key, {}), keys)
    ]


def _labelled(path: Path, images: list[_Member], metadata: dict[str, str], keys: Sequence[str]) -> Iterator[Sample]:
    label = _label(path, images[0].name, metadata, keys)
    if label is not None:
        plain = [image for image in images if "." not in image.ending] or images  # a mask is x.mask.png
        if len(plain) > 1:
            names = ", ".join(image.name for image in plain)
            raise ValueError(f"a sample of '{path}' holds several images for one class ({names}); keep one of them")
        images = plain
    for name, offset, size, _ in images:
        own = PurePosixPath(name).parent.name if label is None else label
        if own == "":
            raise ValueError(
                f"'{name}' of '{path}' has no class: expected its number in {PurePosixPath(name).stem}.cls next to it, "
                f"or in .json under {' or '.join(keys)}, or else a folder, CLASS/{name}"
            )
        yield Sample(name, offset, size, own, metadata.get("cls.txt"))


def _label(path: Path, name: str, metadata: dict[str, str], keys: Sequence[str]) -> int | str | None:
    """The class given next to an image, as a number where it is one; None where there is none."""
    found = None
    if "json" in metadata:
        try:
            known = json.loads(metadata["json"])
        except json.JSONDecodeError as error:
            raise ValueError(f"the .json next to '{name}' of '{path}' is not JSON ({error})") from error
        found = next((known[key] for key in keys if key in known), None) if isinstance(known, dict) else None
    if "cls" in metadata and (found is None or tuple(keys) == KEYS):
        found = metadata["cls"]
    if found is None:
        return None
    if not isinstance(found, (int, str)) or found == "" or str(found).startswith("-"):
        raise ValueError(f"the class of '{name}' of '{path}' must be a number of 0 or more, or a name; got {found!r}")
    return int(found) if str(found).isdecimal() else str(found)


def _members(path: Path, file: IO[bytes]) -> Iterator[_Member]:
    """The files in an archive; ValueError where it is cut off."""
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
            offset = archive.offset  # where tarfile stopped; it takes a broken header for the end
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
