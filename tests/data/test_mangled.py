"""Mangled files: each ends in an image or in the one error, and nothing else happens."""

import io
import os
import subprocess
import warnings

import numpy as np
import pytest
from PIL import Image, features

from cpvt.data import BadImageError, decode, pixel_limit
from tests.data.files import saved

KINDS = {  # format -> how it is saved
    "JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}, "GIF": {}, "BMP": {}, "PPM": {}, "TGA": {"rle": True},
    "TIFF": {"compression": "tiff_lzw"}, "AVIF": {}, "JPEG2000": {}, "PCX": {},
}  # fmt: skip
LACKED = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
FILES = 1000  # of each format


def mangled(content, draw):
    """The content with bits flipped, a part cut out or off, or bytes inserted; often in its first bytes."""
    first = int(draw.integers(min(len(content), 64 if draw.random() < 0.5 else len(content))))
    how = draw.integers(4)
    if how == 0:
        changed = bytearray(content)
        for place in {first, *draw.integers(len(content), size=draw.integers(4)).tolist()}:
            changed[place] ^= 1 << int(draw.integers(8))
        return bytes(changed)
    if how == 1:
        return content[:first]
    if how == 2:
        return content[:first] + content[first + int(draw.integers(1, 32)) :]
    return content[:first] + draw.bytes(int(draw.integers(1, 32))) + content[first:]


@pytest.fixture
def alone(monkeypatch):
    """No other program is started, and no warning is shown."""

    def start(*command, **options):
        raise SystemExit(f"started {command}")  # which no `except Exception` catches

    for module, name in ((subprocess, "Popen"), (os, "system"), (os, "posix_spawn"), (os, "fork"), (os, "execv")):
        monkeypatch.setattr(module, name, start)
    monkeypatch.setattr(warnings, "showwarning", start)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


@pytest.mark.parametrize("mode", ["RGB", "P", "exif"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mangled_file_is_an_image_or_the_one_error(kind, mode, alone):
    if kind in LACKED and not features.check(LACKED[kind]):
        pytest.skip(f"PIL was built without {kind}")
    draw = np.random.default_rng((list(KINDS).index(kind), len(mode)))
    image = Image.fromarray(draw.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    options = dict(KINDS[kind])
    if mode == "exif" and kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = 6, "maker"
        options["exif"] = exif
    if mode == "P" and kind in ("PNG", "GIF", "BMP", "TIFF", "TGA", "PCX"):
        image = image.quantize(16)
    content, ends = saved(image, kind, **options), {"image": 0, "error": 0}
    with pixel_limit(1_000_000):
        for number in range(FILES // 3 + 1):
            try:
                found = decode(io.BytesIO(mangled(content, draw)), f"file {number}")
            except BadImageError as error:
                named = str(error).startswith(f"image 'file {number}' ")
                ends["error"] += 1
            else:
                named = found.mode == "RGB" and np.asarray(found).shape == (found.height, found.width, 3)
                ends["image"] += 1
            assert named
    assert min(ends.values()) > 0, ends
