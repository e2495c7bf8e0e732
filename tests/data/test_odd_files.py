"""A thousand odd files: each reads as the pixels that were put into it, or is refused by name."""

import io
import struct

import numpy as np
import PIL
import pytest
from PIL import Image

from cpvt.data import BadImageError, decode
from tests.data.files import PNG, png_chunk, saved, tiff

SIZES = [(7, 5), (1, 40), (40, 1), (1, 1), (16, 16), (3, 300)]  # height, width
LOSSLESS = {  # of RGB
    "PNG": [{}, {"optimize": True}], "BMP": [{}], "DIB": [{}], "PPM": [{}], "QOI": [{}], "PCX": [{}], "SGI": [{}],
    "TGA": [{}, {"rle": True}],
    "TIFF": [{"compression": each} for each in ("raw", "tiff_lzw", "tiff_deflate", "packbits")],
    "WEBP": [{"lossless": True, "exact": True}], "JPEG2000": [{}, {"progression": "RLCP"}],
}  # fmt: skip
PIL_WRITES_NARROW_PCX = int(PIL.__version__.split(".")[0]) >= 13  # before, widths of 1 and 3 are written wrong
WHITE = 255.0
TURNED = {  # orientation -> the stored array from the upright one
    1: lambda upright: upright, 2: np.fliplr, 3: lambda upright: np.rot90(upright, 2), 4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1), 6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright.swapaxes(0, 1), 2), 8: lambda upright: np.rot90(upright, -1),
}  # fmt: skip
REFUSED = None


def noise(draw, size, channels=3, highest=256, dtype=np.uint8):
    """Random values; (H, W), or (H, W, channels)."""
    return draw.integers(0, highest, size if channels == 1 else (*size, channels)).astype(dtype)


def grey(values):
    return np.repeat(np.asarray(values, dtype=float)[..., None], 3, axis=2)


def over_white(colours, alpha):
    """Colours from 0 to 255 on white, where alpha is from 0 to 255."""
    share = alpha[..., None] / 255.0
    return colours * share + WHITE * (1 - share)


def lossless(draw, size):
    for kind, choices in LOSSLESS.items():
        values = noise(draw, size)
        if kind == "PCX" and size[1] in (1, 3) and not PIL_WRITES_NARROW_PCX:
            continue
        yield from ((f"{kind} {each}", saved(Image.fromarray(values), kind, **each), values) for each in choices)
        if kind not in ("WEBP", "QOI"):
            level = noise(draw, size, 1)
            yield f"{kind} grey", saved(Image.fromarray(level), kind, **choices[0]), grey(level)


def bits(draw, size):
    for kind in ("PNG", "TIFF", "BMP", "PPM", "PCX"):
        values = noise(draw, size, 1, 2)
        yield f"{kind} of 1 bit", saved(Image.fromarray(values * WHITE).convert("1"), kind), grey(values * WHITE)


def palettes(draw, size):
    for kind in ("PNG", "GIF", "BMP", "TIFF", "TGA", "PCX"):
        for colours in (2, 7, 16, 256):
            table, values = noise(draw, (colours,)), noise(draw, size, 1, colours)
            image = Image.frombytes("P", size[::-1], values.tobytes())
            image.putpalette(table.tobytes())
            yield f"{kind}, {colours} colours", saved(image, kind), table[values]
            if kind in ("PNG", "GIF"):
                expected = table[values].astype(float)
                expected[values == 1] = WHITE
                yield f"{kind}, {colours} colours, one transparent", saved(image, kind, transparency=1), expected
            if kind == "PNG":
                alpha = noise(draw, (colours,), 1)
                content = saved(image, kind, transparency=alpha.tobytes())
                yield f"{kind}, {colours} alphas", content, over_white(table[values], alpha[values])


def alphas(draw, size):
    for kind, options in {"PNG": {}, "TIFF": {}, "TGA": {}, "SGI": {}, "QOI": {}, "WEBP": LOSSLESS["WEBP"][0]}.items():
        values = noise(draw, size, 4)
        content = saved(Image.fromarray(values), kind, **options)
        yield f"{kind} with alpha", content, over_white(values[..., :3], values[..., 3])
    values = noise(draw, size, 2)
    content = saved(Image.merge("LA", planes(values)), "PNG")
    yield "grey PNG with alpha", content, over_white(grey(values[..., 0]), values[..., 1])
    values = noise(draw, size)
    colour = tuple(values[0, 0].tolist())
    expected = np.where((values == colour).all(axis=2)[..., None], WHITE, values)
    yield "PNG, a colour transparent", saved(Image.fromarray(values), "PNG", transparency=colour), expected


def planes(values):
    return [Image.fromarray(np.ascontiguousarray(values[..., channel])) for channel in range(values.shape[2])]


def inks(draw, size):
    values = noise(draw, size, 4)
    ink, black = values[..., :3].astype(float), values[..., 3:].astype(float)
    expected = (WHITE - ink) * (WHITE - black) / WHITE
    yield "CMYK TIFF", saved(Image.merge("CMYK", planes(values)), "TIFF"), expected
    flat = Image.new("CMYK", size[::-1], (0, 255, 255, 0))
    yield "CMYK JPEG", saved(flat, "JPEG", quality=100), np.broadcast_to((255, 0, 0), (*size, 3))


def deep(draw, size):
    values = noise(draw, size, 1, 65536, np.uint16)
    for kind in ("PNG", "TIFF", "PPM"):
        yield f"{kind} of 16 bits", saved(Image.fromarray(values), kind), grey(values / 257.0)
    dark = noise(draw, size, 1, 200, np.uint16)
    yield "dark PPM of 16 bits", saved(Image.fromarray(dark), "PPM"), grey(dark / 257.0)
    floats = draw.random(size).astype(np.float32)
    yield "float TIFF", saved(Image.fromarray(floats), "TIFF"), grey(floats * WHITE)
    yield "PFM", saved(Image.fromarray(floats), "PPM"), grey(floats * WHITE)
    for name, wrong in (("NaN", np.nan), ("inf", np.inf), ("negative", -0.25), ("large", 40.0)):
        bad = floats.copy()
        bad[-1, -1] = wrong
        yield f"{name} in a float TIFF", saved(Image.fromarray(bad), "TIFF"), REFUSED
    yield "TIFF of 32 bits", saved(Image.fromarray(values.astype(np.int32) * 3), "TIFF"), REFUSED
    yield "CT", tiff(struct.pack("<2h", *draw.integers(-1000, 3000, 2).tolist()), 16, 1, 2), REFUSED


def turned(draw, size):
    for orientation, store in TURNED.items():
        for kind, options in {"PNG": {}, "TIFF": {}, "WEBP": LOSSLESS["WEBP"][0]}.items():
            values, exif = noise(draw, size), Image.Exif()
            exif[0x0112] = orientation
            content = saved(Image.fromarray(np.ascontiguousarray(store(values))), kind, exif=exif, **options)
            yield f"{kind} with orientation {orientation}", content, values


def animated(draw, size):
    for kind, options in {"GIF": {}, "PNG": {}, "TIFF": {}, "WEBP": LOSSLESS["WEBP"][0]}.items():
        frames = [np.broadcast_to(noise(draw, (1, 1)), (*size, 3)).copy() for _ in range(3)]
        images = [Image.fromarray(frame) for frame in frames]
        yield (
            f"{kind} of 3 frames",
            saved(images[0], kind, save_all=True, append_images=images[1:], **options),
            frames[0],
        )


def huge(draw, size):
    width, height = (int(side) for side in draw.integers(50_000, 60_000, 2))
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    yield "huge PNG", PNG + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b""), REFUSED
    yield "huge GIF", b"GIF89a" + struct.pack("<2H3B", width, height, 0, 0, 0) + b"," + bytes(20) + b";", REFUSED
    bmp = struct.pack("<3I", 54, 0, 54) + struct.pack("<3I2H6I", 40, width, height, 1, 24, *[0] * 6)
    yield "huge BMP", b"BM" + bmp, REFUSED
    yield "huge PPM", f"P6 {width} {height} 255\n".encode() + bytes(30), REFUSED
    small = saved(Image.new("L", (2, 2)), "TIFF")
    yield "huge TIFF", small.replace(*edge(256, 2, width)).replace(*edge(257, 2, height)), REFUSED


def edge(tag, before, after):
    """An entry of a TIFF's directory, and the same with another value."""
    return [struct.pack("<HHII", tag, 4, 1, value) for value in (before, after)]


GROUPS = (lossless, bits, palettes, alphas, inks, deep, turned, animated, huge)


def made(group, rounds=2):
    """The odd files of a group: name, content, expected values (H, W, 3) from 0 to 255, or REFUSED."""
    for number in range(rounds):
        for place, size in enumerate(SIZES):
            yield from group(np.random.default_rng((GROUPS.index(group), number, place)), size)


def test_there_are_a_thousand():
    assert sum(1 for group in GROUPS for _ in made(group)) >= 1000


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_an_odd_file_reads_as_what_was_put_into_it_or_is_refused_by_name(group):
    for name, content, expected in made(group):
        if expected is REFUSED:
            with pytest.raises(BadImageError, match=f"^image '{name}' (has|does not decode)"):
                decode(io.BytesIO(content), name)
            continue
        expected = np.asarray(expected, dtype=float)
        found = np.asarray(decode(io.BytesIO(content), name), dtype=float)
        assert found.shape == expected.shape, name
        assert np.abs(found - expected).max() <= (3 if "JPEG" in name and "2000" not in name else 1), name
        shade = np.asarray(decode(io.BytesIO(content), name, "L"), dtype=float)
        assert np.abs(shade - expected @ (0.299, 0.587, 0.114)).max() <= 3, name
