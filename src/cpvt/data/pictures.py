"""Decoding: any picture file becomes an upright RGB or grey picture, or an error that names the file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

USUAL = ("JPEG", "PNG", "WEBP")


class BadPictureError(ValueError):
    """A picture that does not decode; the message names it."""


def decode(file: str | Path | IO[bytes], name: str, mode: str = "RGB") -> Image.Image:
    """Read a picture file wholly, turn it upright as its EXIF says, and convert it to `mode` ('RGB' or 'L').

    Palette, CMYK, transparent and 16-bit pictures are converted; transparency is laid on white.
    Raises BadPictureError with `name` where the file is not a whole picture.
    """
    try:
        with Image.open(file, formats=_formats()) as opened:
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)
            return convert(opened, mode)
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, struct.error, ...
        raise BadPictureError(
            f"picture '{name}' does not decode ({type(error).__name__}: {error}); "
            "mend or remove the file, or pass --on-bad-image skip"
        ) from error


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """All that PIL reads, the usual first: it tries one after the other, some at the cost of a small decoding."""
    Image.init()
    return sorted(Image.OPEN, key=lambda name: name not in USUAL)


@lru_cache(maxsize=1)
def picture_endings() -> frozenset[str]:
    """How files are called that PIL reads, in small letters: .jpg, .png, ..."""
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def convert(picture: Image.Image, mode: str) -> Image.Image:
    """The picture in 'RGB' or 'L', whatever mode it came in."""
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more: PIL would clip, not scale
        values = np.asarray(picture, dtype=np.float64)
        largest = 65535.0 if picture.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
        picture = Image.fromarray((values.clip(0, largest) * (255.0 / largest)).round().astype(np.uint8))
    elif picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        background = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(background, picture)
    return picture if picture.mode == mode else picture.convert(mode)


def check_usable(shape: Sequence[int], smallest: int, name: str) -> None:
    """Raise BadPictureError with `name` for a picture (..., H, W) with a side below the smallest that a model takes."""
    height, width = shape[-2:]
    if min(height, width) < smallest:
        raise BadPictureError(
            f"{name} comes to {height}x{width} pixels, and the model takes {smallest}x{smallest} or more; "
            "allow a longer side, remove the file, or pass --on-bad-image skip"
        )
