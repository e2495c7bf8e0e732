"""Decoding of any image file to an upright RGB or grey image; an error names the file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePath
from typing import IO

import numpy as np
from PIL import Image, ImageOps

COMMON = ("JPEG", "PNG", "WEBP")
SYSTEM = ("__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN", "lost+found")  # folders of systems


class BadImageError(ValueError):
    """An image that does not decode; the message names it."""


def decode(file: str | Path | IO[bytes], name: str, mode: str = "RGB") -> Image.Image:
    """Decode a whole image file, rotate it as its EXIF says, and convert it to `mode` ('RGB' or 'L').

    Palette, CMYK, transparent and 16-bit images are converted; transparent pixels become white.
    Raises BadImageError with `name` where the file is not a whole image.
    """
    try:
        with Image.open(file, formats=_formats()) as opened:
            opened.load()
            ImageOps.exif_transpose(opened, in_place=True)
            return convert(opened, mode)
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise many types: OSError, SyntaxError, struct.error, ...
        raise undecodable(name, error) from error


def undecodable(name: str, error: Exception) -> BadImageError:
    """The error for an image that a decoder rejects."""
    return BadImageError(
        f"image '{name}' does not decode ({type(error).__name__}: {error}); "
        "fix or remove the file, or pass --on-bad-image skip"
    )


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """All formats that PIL reads, the common ones first: PIL tries them in order, and some are slow to try."""
    Image.init()
    return sorted(Image.OPEN, key=lambda name: name not in COMMON)


@lru_cache(maxsize=1)
def image_endings() -> frozenset[str]:
    """Suffixes of the files that PIL reads, in lower case: .jpg, .png, ..."""
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN)


def is_hidden(path: PurePath) -> bool:
    """Whether a file lies in what an operating system or a program keeps for itself: .thumbs/, ._0.png, __MACOSX/."""
    return any(part.startswith(".") or part in SYSTEM for part in path.parts)


def convert(image: Image.Image, mode: str) -> Image.Image:
    """The image in 'RGB' or 'L', from any mode."""
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits or more: PIL clips where we scale
        values = np.asarray(image, dtype=np.float64)
        largest = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
        image = Image.fromarray((values.clip(0, largest) * (255.0 / largest)).round().astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image if image.mode == mode else image.convert(mode)


def check_usable(shape: Sequence[int], smallest: int, name: str) -> None:
    """Raise BadImageError with `name` for an image (..., H, W) with a side below `smallest` pixels."""
    height, width = shape[-2:]
    if min(height, width) < smallest:
        raise BadImageError(
            f"{name} has {height}x{width} pixels, and the model takes {smallest}x{smallest} or more; "
            "allow a longer side, remove the file, or pass --on-bad-image skip"
        )
