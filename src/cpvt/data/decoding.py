"""Decoding of any image file to an upright RGB or grey image; an error names the file."""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path, PurePath
from threading import Lock
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from cpvt.config import MAX_IMAGE_PIXELS
from cpvt.data import deferred
from cpvt.data.metadata import without_metadata

FORMATS = (  # images of pixels, decoded in this process; PIL tries them in order, and would start Ghostscript for EPS
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "DIB", "ICO", "PCX", "QOI", "SGI", "TGA",
)  # fmt: skip
TIFF_BITS, TIFF_PHOTOMETRIC, TIFF_SAMPLE_FORMAT = 258, 262, 339  # tags
TIFF_WHITE_IS_ZERO, TIFF_SIGNED = 0, 2  # values of the second and the third
PNG_GREYS = {"L;2": 85, "L;4": 17}  # PIL multiplies the pixels by it, and not the one that is transparent
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # too many pixels
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
SYSTEM = ("__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN", "lost+found")  # folders of systems


class BadImageError(ValueError):
    """An image that cannot be used: it does not decode, is too small, or has no class; the message names it."""


class _Reading:
    """While images are read, in whatever thread: PIL lets through what our limits allow, and shows no warnings.

    PIL's limit belongs to the whole process, so it is only ever raised; `check_pixels` is what refuses.
    """

    def __init__(self) -> None:
        self.lock, self.limits = Lock(), list[float]()  # of everybody who reads now

    def __enter__(self) -> None:
        with self.lock:
            if not self.limits:
                self.before, self.caught = Image.MAX_IMAGE_PIXELS, warnings.catch_warnings()
                self.caught.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self.limits.append(_limit())
            self._raise()

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.limits.remove(_limit())  # within one pixel_limit, as on entering
            if self.limits:
                self._raise()
            else:
                Image.MAX_IMAGE_PIXELS = self.before
                self.caught.__exit__(None, None, None)

    def _raise(self) -> None:
        largest = max(self.limits)
        if self.before is not None:
            Image.MAX_IMAGE_PIXELS = None if largest == math.inf else max(self.before, int(largest))


def _limit() -> float:
    pixels = _max_pixels.get()
    return math.inf if pixels is None else pixels


READING = _Reading()
_max_pixels: ContextVar[int | None] = ContextVar("max_pixels", default=MAX_IMAGE_PIXELS)


@contextmanager
def pixel_limit(pixels: int | None) -> Iterator[None]:
    """Within it images of more than `pixels` pixels are refused; None: none are."""
    token = _max_pixels.set(pixels)
    try:
        with READING:
            yield
    finally:
        _max_pixels.reset(token)


def check_pixels(image: Image.Image) -> None:
    """Raise PIL's DecompressionBombError for an image, decoded or not, of more pixels than `pixel_limit` allows."""
    pixels = image.width * image.height
    if pixels > _limit():
        raise Image.DecompressionBombError(f"{pixels} pixels, more than {_limit()}")


class UnknownRangeError(ValueError):
    """Which values of an image are black and white is not known."""


def decode(file: str | Path | IO[bytes], name: str, mode: str = "RGB") -> Image.Image:
    """Decode a whole image file, rotate it as its EXIF says, and convert it to `mode` ('RGB' or 'L').

    Palette, CMYK, transparent, 16-bit and float images (0 to 1) are converted; transparent pixels become white. Of
    several frames the first is read. Garbage in the metadata costs at most the rotation. Within `reduced_jpegs` a JPEG
    is decoded when it is used, which then raises what is raised here otherwise.
    Raises BadImageError with `name` where the file is not there, is not a whole image, has more pixels than
    `pixel_limit` allows, or does not say what black and white are.
    """
    with READING:
        try:
            return _decode(file, name, mode)
        except Exception as error:  # decoders raise many types: OSError, SyntaxError, struct.error, ...
            with suppress(Exception):
                return _decode(io.BytesIO(without_metadata(_content(file))), name, mode)
            raise undecodable(name, error) from error


def _decode(file: str | Path | IO[bytes], name: str, mode: str) -> Image.Image:
    content = _content(file) if deferred.is_wanted() else b""
    with Image.open(io.BytesIO(content) if content else file, formats=_formats()) as opened:
        check_pixels(opened)
        _prepare(opened)
        if content and isinstance(opened, JpegImagePlugin.JpegImageFile):
            return _defer(opened, content, name, mode)
        opened.load()
        check_pixels(opened)  # an icon may hold a larger image than it says
        return upright(opened, mode)


def _defer(opened: JpegImagePlugin.JpegImageFile, content: bytes, name: str, mode: str) -> Image.Image:
    """The JPEG of an opened file, decoded from `content` when it is used."""
    size, turn = opened.size, _turn(opened)

    def decoded(factor: int, box: deferred.Box) -> Image.Image:
        try:
            with pixel_limit(None), Image.open(io.BytesIO(content), formats=_formats()) as again:
                if factor > 1:
                    again.draft(None, (size[0] // factor, size[1] // factor))
                again.load()
                return upright(again, mode).crop(box)  # in here: PIL before 13 limits crops too
        except Exception as error:  # of as many types as above
            raise undecodable(name, error) from error

    transposes = turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
    return deferred.DeferredImage(decoded, size[::-1] if transposes else size, mode, turned=turn is not None)


def _content(file: str | Path | IO[bytes]) -> bytes:
    """The bytes of a file, from its start."""
    if isinstance(file, (str, Path)):
        return Path(file).read_bytes()
    file.seek(0)
    return file.read()


def _prepare(opened: ImageFile.ImageFile) -> None:
    """Correct what PIL would take from the header for transparent."""
    if opened.format == "PNG" and "transparency" in opened.info:
        depth = opened.tile[0][3]
        if depth == "RGB;16B":
            raise UnknownRangeError("one of its colours of 16 bits is transparent, and 8 bits do not tell which")
        if depth in PNG_GREYS:
            opened.info["transparency"] *= PNG_GREYS[depth]


def undecodable(name: str, error: Exception) -> BadImageError:
    """The error for an image that a decoder rejects."""
    if isinstance(error, FileNotFoundError):
        link = str(error.filename) if os.path.islink(str(error.filename)) else None
        what = f"is a link to '{os.readlink(link)}', which does not exist" if link else "does not exist"
        return BadImageError(f"image '{name}' {what}; fix or remove it")
    if isinstance(error, BOMBS):
        pixels = int(re.findall(r"\d+", str(error))[0])
        return BadImageError(
            f"image '{name}' has {pixels:,} pixels, and {_max_pixels.get():,} are allowed; "
            "raise --max-image-pixels, or remove the file"
        )
    why, remedy = f"{type(error).__name__}: {error}", "fix"
    if isinstance(error, UnidentifiedImageError):  # whose message may be the address of a buffer
        why = f"it is none of what is read: {', '.join(_formats())}, in the forms that PIL knows"
    elif isinstance(error, UnknownRangeError):
        why, remedy = str(error), "save it in 8 or 16 bits"
    return BadImageError(f"image '{name}' does not decode ({why}); {remedy} or remove the file")


def with_hint(message: str) -> BadImageError:
    """The error for an image that may be skipped and was not."""
    return BadImageError(
        f"{message}, or pass --on-bad-image skip (on_bad_image='skip' to cpvt.predict, sweep or a DataConfig)"
    )


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """The formats that are read, as far as this PIL has them."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


@lru_cache(maxsize=1)
def image_endings() -> frozenset[str]:
    """Suffixes of the files that are read, in lower case: .jpg, .png, ..."""
    known = (*_formats(), "MPO")  # several JPEGs in one
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in known)


def is_hidden(path: PurePath) -> bool:
    """Whether a file lies in what an operating system or a program keeps for itself: .thumbs/, ._0.png, __MACOSX/."""
    return any(part.startswith(".") or part in SYSTEM for part in path.parts)


def upright(image: Image.Image, mode: str) -> Image.Image:
    """The image in 'RGB' or 'L', from any mode, rotated as its EXIF says; ValueError where its values have no range.

    An image that is upright already comes back as it is, so that whoever is not sure may call this again.
    """
    turn = _turn(image)
    image = _convert(image, mode)
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = {}  # holds the EXIF, which would turn it again
    return turned


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # garbage, on which PIL raises as many types as on images, costs no more than the rotation
        return None


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if getattr(image, "tag_v2", {}).get(TIFF_SAMPLE_FORMAT) == (TIFF_SIGNED,):
        raise UnknownRangeError("its integers have a sign, so that black and white are not known")
    if image.mode.startswith("I") or image.mode == "F":
        image = _scaled(image)
    elif image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image if image.mode == mode else image.convert(mode)


def _scaled(image: Image.Image) -> Image.Image:
    """Grey of 8 bits from more, or from floats.

    Raises UnknownRangeError where the file does not say what black and white are: to judge by the values of one image
    would show the next at another brightness.
    """
    values, tags = np.asarray(image, dtype=np.float64), getattr(image, "tag_v2", {})
    if image.mode == "F":
        largest, low, high = 1.0, values.min(), values.max()
        if not np.isfinite(values).all():
            raise UnknownRangeError("it holds values that are not finite")
        if low < 0 or high > 1:
            raise UnknownRangeError(f"its floats are from {low:g} to {high:g}, and only those from 0 to 1 are known")
    elif image.mode.startswith("I;16") or image.format == "PPM":
        largest = 4095.0 if tags.get(TIFF_BITS) == (12,) else 65535.0
    else:
        raise UnknownRangeError("its integers have 32 bits, of which images use a part that is not known")
    if tags.get(TIFF_PHOTOMETRIC) == TIFF_WHITE_IS_ZERO:  # PIL inverts 8 bits only
        values = largest - values
    values[values == image.info.get("transparency")] = largest  # as white as all that is transparent
    return Image.fromarray((values * (255.0 / largest)).round().astype(np.uint8))


def check_usable(shape: Sequence[int], smallest: int, name: str) -> None:
    """Raise BadImageError with `name` for an image (..., H, W) with a side below `smallest` pixels."""
    height, width = shape[-2:]
    if min(height, width) < smallest:
        raise BadImageError(
            f"{name} has {height}x{width} pixels, and the model takes {smallest}x{smallest} or more; "
            "allow a longer side, or remove the file"
        )
