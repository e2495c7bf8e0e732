"""Tar archives of labelled images, indexed once for random access."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from cpvt.data.decoding import image_endings, is_hidden

CLASS = ("cls", "label", "class")  # endings of the files next to an image that hold its class; the first there is wins
UNCLEAR = ("index", "inx", "target")  # may be the class, or the image's number
ENDINGS = (*CLASS, *UNCLEAR, "json", "cls.txt")  # also metadata, and the name of the class
KEYS = ("label", "cls", "class")  # of the class in the metadata


class Sample(NamedTuple):
    """The position of an image in an archive, and its class: a number or a name."""

    name: str
    offset: int  # bytes
    size: int  # bytes
    label: int | str
    class_name: str | None  # where it is given besides a number
    by_folder: bool  # whether the class is the name of the image's folder


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def read_samples(path: Path, keys: Sequence[str] = KEYS) -> list[Sample]:
    """Every labelled image of a tar archive, in stored order.

    The class of an image is a number or name in a file of the same name that ends in .cls, .label or .class, or under
    one of `keys` in .json. The names are compared as a whole, then up to each dot, as `x.mask.png` belongs to `x.cls`
    in WebDataset. Without these the folder of an image is its class.
    Raises ValueError that names the archive where it is damaged, an image has no class, or a class has no image.
    """
    images: dict[str, list[_Member]] = {}  # by the sample that they belong to
    metadata: dict[str, dict[str, str]] = {}
    found: list[_Member] = []
    endings = image_endings()
    with open(path, "rb") as file:
        for member in _members(path, file):
            ending = next((each for each in ENDINGS if member.name.lower().endswith(f".{each}")), None)
            if PurePosixPath(member.name).suffix.lower() in endings:
                found.append(member)
            elif ending is not None:
                file.seek(member.offset)
                content = file.read(member.size).decode(errors="replace").strip()
                metadata.setdefault(member.name[: -len(ending) - 1], {})[ending] = content
    for member in found:
        whole, own, *shorter = _stems(member.name)
        images.setdefault(next((key for key in (whole, own, *shorter) if key in metadata), own), []).append(member)
    _check_used(path, images, metadata)
    samples = [each for key in images for each in _labelled(path, key, images[key], metadata.get(key, {}), keys)]
    _check_folders(path, samples)
    return samples


def _stems(name: str) -> list[str]:
    """A file's name up to its end and up to each of its dots, longest first."""
    folder, slash, base = name.rpartition("/")
    words = base.split(".")
    return [folder + slash + ".".join(words[:count]) for count in range(len(words), 0, -1)]


def _is_extra(name: str, key: str) -> bool:
    """Whether a name is that of sample `key` with a word more, such as x.mask; x.v2 is rather another image."""
    return len(name) > len(key) and not any(letter.isdigit() for letter in name[len(key) :])


def _check_used(path: Path, images: dict[str, list[_Member]], metadata: dict[str, dict[str, str]]) -> None:
    """Raise ValueError for a class without an image."""
    for key in (key for key, found in metadata.items() if not found.keys().isdisjoint(CLASS)):
        if key not in images and not any(each in images and _is_extra(key, each) for each in _stems(key)):
            known = " ".join(sorted(image_endings()))
            raise ValueError(f"sample '{key}' of '{path}' has a class and no image; known: {known}")


def _check_folders(path: Path, samples: list[Sample]) -> None:
    """Raise ValueError where folders that are classes hold each other, or have the same name."""
    folders = {str(PurePosixPath(sample.name).parent): None for sample in samples if sample.by_folder}
    by_name: dict[str, str] = {}
    for folder in folders:
        place = PurePosixPath(folder)
        other = next((str(each) for each in place.parents if str(each) in folders), by_name.get(place.name))
        if other is not None:
            raise ValueError(
                f"'{path}' has images in '{other}' and in '{folder}', and the folder of an image is its class: "
                "put all images of a class into one folder, CLASS/name.jpg, or their classes into .cls files"
            )
        by_name[place.name] = folder


def _labelled(
    path: Path, key: str, images: list[_Member], metadata: dict[str, str], keys: Sequence[str]
) -> Iterator[Sample]:
    label = _label(path, images[0].name, metadata, keys)
    if label is not None:
        own = [image for image in images if not _is_extra(image.name.rpartition(".")[0], key)] or images
        if len(own) > 1:
            names = ", ".join(image.name for image in own)
            raise ValueError(f"a sample of '{path}' holds several images for one class ({names}); keep one of them")
        images = own
    for name, offset, size in images:
        found = PurePosixPath(name).parent.name if label is None else label
        if found == "":
            raise ValueError(
                f"'{name}' of '{path}' has no class: expected its number in {PurePosixPath(name).stem}.cls next to it, "
                f"or in .json under {' or '.join(keys)}, or else a folder, CLASS/{name}"
            )
        yield Sample(name, offset, size, found, metadata.get("cls.txt"), label is None)


def _label(path: Path, name: str, metadata: dict[str, str], keys: Sequence[str]) -> int | str | None:
    """The class given next to an image, as a number where it is one; None where there is none."""
    found = None
    if "json" in metadata:
        try:
            known = json.loads(metadata["json"])
        except json.JSONDecodeError as error:
            raise ValueError(f"the .json next to '{name}' of '{path}' is not JSON ({error})") from error
        found = next((known[key] for key in keys if key in known), None) if isinstance(known, dict) else None
    given = next((metadata[ending] for ending in CLASS if ending in metadata), None)
    if given is not None and (found is None or tuple(keys) == KEYS):
        found = given
    unclear = next((ending for ending in UNCLEAR if ending in metadata), None)
    if found is None and unclear is not None:
        raise ValueError(
            f"'{name}' of '{path}' has .{unclear} next to it, which may be its class or its number: "
            "rename it to .cls if it is the class, else leave it out"
        )
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
                if is_hidden(place):
                    continue
                if info.isfile():
                    yield _Member(str(place), info.offset_data, info.size)
                else:
                    _refuse_link(path, info)
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
