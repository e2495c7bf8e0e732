"""Image files made byte by byte, or by PIL."""

import io
import struct
import zlib

PNG = b"\x89PNG\r\n\x1a\n"


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(data, bits, photometric=1, sample_format=1):
    """A grey TIFF of one row of two pixels; photometric: 0 if white is zero; sample_format: 1 unsigned, 2 signed."""
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(data)}
    directory = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in {**tags, 339: sample_format}.items()]
    start = struct.pack("<4sI", b"II*\0", 8 + len(data)) + data + struct.pack("<H", len(directory))
    return start + b"".join(directory) + bytes(4)


def png_chunk(name, data, crc=0):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ crc)


def png(depth, colour, rows, transparent):
    """A PNG of one row, with a transparent grey or colour."""
    header = struct.pack(">2I5B", 2, 1, depth, colour, 0, 0, 0)
    chunks = {b"IHDR": header, b"tRNS": transparent, b"IDAT": zlib.compress(b"\0" + rows), b"IEND": b""}
    return PNG + b"".join(png_chunk(name, data) for name, data in chunks.items())
