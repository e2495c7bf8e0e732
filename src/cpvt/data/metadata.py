"""Image files without their metadata, to read the pixels of those whose metadata are garbage."""

from __future__ import annotations

import struct
import zlib

PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
TIFF_ORIENTATION, TIFF_SHORT = 274, 3
TIFF_PIXELS = {  # tags that decide about pixels
    *range(254, 267), 273, *range(277, 282), 284, 317, 320, *range(322, 326), *range(332, 335), *range(338, 342), 347,
    *range(512, 533),
}  # fmt: skip


def without_metadata(content: bytes) -> bytes:
    """A PNG, TIFF or JPEG file without what may be garbage and is not needed for the pixels.

    A rotation that can be read is kept. Raises ValueError for other formats, struct.error for a file that is cut off.
    """
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(content)
    if content[:4] in (b"II*\0", b"MM\0*"):
        return _tiff(content, "<" if content.startswith(b"II") else ">")
    if content.startswith(b"\xff\xd8"):
        return content.replace(b"ICC_PROFILE\0", bytes(12))  # PIL passes over other garbage
    raise ValueError("expected a PNG, TIFF or JPEG file")


def _png(content: bytes) -> bytes:
    kept, place = [content[:8]], 8
    while place < len(content):
        size, name = struct.unpack_from(">I4s", content, place)
        chunk = content[place : place + 12 + size]
        whole = chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if name in PNG_PIXELS or (name == b"eXIf" and whole):
            kept.append(chunk)
        place += 12 + size
    return b"".join(kept)


def _tiff(content: bytes, order: str) -> bytes:
    changed = bytearray(content)
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", content, place)
        if tag not in TIFF_PIXELS and (tag, kind, length) != (TIFF_ORIENTATION, TIFF_SHORT, 1):
            struct.pack_into(f"{order}H", changed, place + 2, 0)  # a type that PIL passes over
    return bytes(changed)
