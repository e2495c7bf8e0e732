"""Decoding of every type of file to an upright RGB or grey image; an error names the file."""

import io
import os
import struct
import subprocess
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from cpvt.data import BadImageError, Transform, decode, pixel_limit
from cpvt.data.decoding import FORMATS, image_endings, upright
from cpvt.data.protocols import find_protocol
from tests.data.files import PNG, png, png_chunk, saved, tiff

RED, WHITE = (255, 0, 0), (255, 255, 255)
RED_AS_GREY = 76  # 0.299 * 255, by ITU-R 601


def palette():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, *RED])
    image.putpixel((1, 0), 1)
    return image


def sixteen_bit():
    return Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))


def rgba():
    return Image.fromarray(np.array([[(*RED, 255), (*RED, 0), (0, 0, 0, 51)]], dtype=np.uint8))


KINDS = {  # kind -> image, how it is saved, the pixels of its first row in RGB and in grey
    "rgb": (Image.new("RGB", (2, 1), RED), "PNG", {}, [RED, RED], [RED_AS_GREY] * 2),
    "grey": (Image.new("L", (2, 1), 100), "PNG", {}, [(100,) * 3] * 2, [100, 100]),
    "black and white": (Image.new("1", (2, 1), 1), "PNG", {}, [WHITE] * 2, [255, 255]),
    "palette": (palette(), "PNG", {}, [(0, 0, 255), RED], [29, RED_AS_GREY]),
    "palette with transparency": (palette(), "PNG", {"transparency": 0}, [WHITE, RED], [255, RED_AS_GREY]),
    "transparent": (rgba(), "PNG", {}, [RED, WHITE, (204,) * 3], [RED_AS_GREY, 255, 204]),
    "16-bit grey": (sixteen_bit(), "PNG", {}, [(0,) * 3, (100,) * 3, WHITE], [0, 100, 255]),
    "CMYK": (Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "JPEG", {"quality": 100}, [RED] * 2, [RED_AS_GREY] * 2),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_kind_of_file_is_converted(kind, mode, tmp_path):
    image, kind_of_file, options, colours, greys = KINDS[kind]
    image.save(tmp_path / "image", kind_of_file, **options)
    decoded = decode(tmp_path / "image", "image", mode)
    assert decoded.mode == mode
    expected = np.array([colours if mode == "RGB" else greys])
    np.testing.assert_allclose(np.asarray(decoded, dtype=int), expected, atol=3 if kind_of_file == "JPEG" else 1)


def grey(*values, dtype):
    return Image.fromarray(np.array([values], dtype=dtype))


KNOWN_RANGES = {  # file -> its two pixels from 0 to 255
    "floats from 0 to 1": (saved(grey(0.2, 1.0, dtype=np.float32), "TIFF"), [51, 255]),
    "dark floats": (saved(grey(0.0, 0.4, dtype=np.float32), "TIFF"), [0, 102]),
    "floats, white is zero": (tiff(struct.pack("<2f", 0.0, 0.8), 32, 0, 3), [255, 51]),
    "16 bits": (tiff(struct.pack("<2H", 257, 65535), 16), [1, 255]),
    "16 bits, white is zero": (tiff(struct.pack("<2H", 0, 257 * 200), 16, 0), [255, 55]),
    "12 bits": (tiff(bytes([0xFF, 0xF8, 0x00]), 12), [255, 128]),
    "dark PGM of 16 bits": (b"P5 2 1 65535\n" + struct.pack(">2H", 255, 0), [1, 0]),
    "PGM of 12 bits": (b"P5 2 1 4095\n" + struct.pack(">2H", 4095, 819), [255, 51]),
    "PFM": (b"Pf 2 1 -1.0\n" + struct.pack("<2f", 1.0, 0.2), [255, 51]),
    "PNG of 16 bits, a grey transparent": (png(16, 0, struct.pack(">2H", 0, 512), struct.pack(">H", 0)), [255, 2]),
    "PNG of 2 bits, a grey transparent": (png(2, 0, bytes([0b01100000]), struct.pack(">H", 1)), [255, 170]),
    "PNG of 4 bits, a grey transparent": (png(4, 0, bytes([0x23]), struct.pack(">H", 2)), [255, 51]),
    "PNG of 8 bits, a grey transparent": (png(8, 0, bytes([2, 3]), struct.pack(">H", 2)), [255, 3]),
}


@pytest.mark.parametrize("kind", KNOWN_RANGES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_values_are_scaled_by_the_range_that_the_file_has(kind, mode):
    content, expected = KNOWN_RANGES[kind]
    assert np.asarray(decode(io.BytesIO(content), kind, mode)).reshape(2, -1)[:, 0].tolist() == expected


UNKNOWN_RANGES = {  # file -> why it is refused
    "not a number": (saved(grey(0.5, np.nan, dtype=np.float32), "TIFF"), "it holds values that are not finite"),
    "infinite": (saved(grey(0.5, np.inf, dtype=np.float32), "TIFF"), "it holds values that are not finite"),
    "negative": (saved(grey(-0.5, 0.5, dtype=np.float32), "TIFF"), "its floats are from -0.5 to 0.5, and only"),
    "above 1": (saved(grey(0, 37.5, dtype=np.float32), "TIFF"), "its floats are from 0 to 37.5, and only those from 0"),
    "32 bits": (saved(grey(0, 70000, dtype=np.int32), "TIFF"), "its integers have a sign"),
    "32 bits, no sign": (tiff(struct.pack("<2I", 0, 200), 32), "its integers have 32 bits"),
    "CT": (tiff(struct.pack("<2h", -1000, 3000), 16, 1, 2), "its integers have a sign"),
    "8 bits and a sign": (tiff(struct.pack("<2b", -1, 1), 8, 1, 2), "its integers have a sign"),
    "a colour of 16 bits transparent": (
        png(16, 2, struct.pack(">6H", 0, 0, 0, 0, 0, 1), bytes(6)), "one of its colours of 16 bits is transparent"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNKNOWN_RANGES)
def test_values_of_an_unknown_range_are_refused_by_name(kind):
    content, why = UNKNOWN_RANGES[kind]
    with pytest.raises(BadImageError, match=rf"^image 'scan.tif' does not decode \({why}"):
        decode(io.BytesIO(content), "scan.tif")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_with_an_exif_rotation_is_upright(mode, tmp_path):
    values = np.full((16, 24, 3), 255, dtype=np.uint8)
    values[:8, :8] = 0  # stored at the top left; the upright image has it at the top right
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(values).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    decoded = decode(tmp_path / "turned.jpg", "turned.jpg", mode)
    assert decoded.size == (16, 24)
    upright = np.full((24, 16), 255)
    upright[:8, 8:] = 0
    np.testing.assert_allclose(np.asarray(decoded.convert("L"), dtype=int), upright, atol=5)


def turned_jpeg():
    """A JPEG that lies in its file, 24 x 16 pixels there."""
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    return saved(Image.fromarray(values), "JPEG", exif=exif)


OPENED = {
    "turned": turned_jpeg(), "16-bit grey": saved(sixteen_bit(), "PNG"), "transparent": saved(rgba(), "PNG"),
    "palette with transparency": saved(palette(), "PNG", transparency=0),
}  # fmt: skip


@pytest.mark.parametrize("kind", OPENED)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_that_pil_opened_is_read_like_its_file(kind, mode):
    decoded, opened = decode(io.BytesIO(OPENED[kind]), kind, mode), Image.open(io.BytesIO(OPENED[kind]))
    once = upright(opened, mode)
    for image in (once, upright(once, mode), upright(decoded, mode)):
        assert image.mode == mode
        assert np.array_equal(image, decoded)
    assert opened.info.keys() == Image.open(io.BytesIO(OPENED[kind])).info.keys(), "the user's image is as it was"
    halves = (0.5,) * len(mode)
    transform = Transform(halves, halves, size=8)
    expected = transform(decoded)
    assert torch.equal(transform(opened), expected)
    assert torch.equal(transform.whole(opened), transform.whole(decoded))
    protocol = find_protocol("resize")(transform, (8, 8))
    assert torch.equal(protocol(opened, np.random.default_rng(0)), expected)


def test_an_open_file_is_read_like_a_path():
    file = io.BytesIO()
    Image.new("RGB", (3, 2), RED).save(file, "PNG")
    file.seek(0)
    assert np.array_equal(decode(file, "in memory"), np.full((2, 3, 3), RED))


def write_truncated_jpeg(path):
    values = np.random.default_rng(0).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG")
    path.write_bytes(file.getvalue()[: len(file.getvalue()) // 2])


BROKEN = {
    "truncated": write_truncated_jpeg,
    "text": lambda path: path.write_text("not an image"),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_is_not_a_whole_image_is_an_error_that_names_it(kind, tmp_path):
    path = tmp_path / "holiday.jpg"
    BROKEN[kind](path)
    with pytest.raises(BadImageError, match=r"image '.*holiday\.jpg' does not decode .*fix or remove the file"):
        decode(path, str(path))


def turned_file(kind, **options):
    """An image of 24x16 pixels whose EXIF says that it is to be rotated, and its pixels as they are stored."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    if kind != "TIFF":
        exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
        exif.get_ifd(0x8825)[1] = "N"
    content = saved(image, kind, exif=exif, **options)
    return content, np.asarray(Image.open(io.BytesIO(content)).convert("RGB") if kind == "JPEG" else image)


def garble(content, draw, *spans):
    """The content with one to eight bytes of one of the spans (first, last) replaced."""
    changed, (first, last) = bytearray(content), spans[draw.integers(len(spans))]
    for _ in range(draw.integers(1, 9)):
        changed[draw.integers(first, last)] = draw.integers(256)
    return bytes(changed)


def metadata_spans(kind, content):
    """Where the EXIF of a file is; of a TIFF, entries of its directory that do not decide about pixels."""
    if kind == "TIFF":
        (start,) = struct.unpack_from("<I", content, 4)
        (count,) = struct.unpack_from("<H", content, start)
        places = range(start + 2, start + 2 + 12 * count, 12)
        tags = {struct.unpack_from("<H", content, place)[0]: place for place in places}
        return [(tags[tag] + 2, tags[tag] + 12) for tag in (0x10F, 0x112)]
    mark, size_at, start, length = {
        "PNG": (b"eXIf", -4, 4, ">I"), "WEBP": (b"EXIF", 4, 8, "<I"), "JPEG": (b"Exif", -2, -2, ">H")
    }[kind]  # fmt: skip
    place = content.index(mark)
    return [(place + 8, place + start + struct.unpack_from(length, content, place + size_at)[0])]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("JPEG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}),
        ("TIFF", {"compression": "tiff_deflate"}),
    ],
)  # fmt: skip
def test_garbage_in_the_exif_costs_at_most_the_rotation(kind, options, tmp_path):
    content, stored = turned_file(kind, **options)
    upright, draw = np.rot90(stored, -1), np.random.default_rng(1)
    assert np.array_equal(decode(io.BytesIO(content), "a"), upright)
    allowed = {Image.fromarray(stored).transpose(turn).tobytes() for turn in Image.Transpose} | {stored.tobytes()}
    unturned = 0
    for number in range(200):
        garbled = garble(content, draw, *metadata_spans(kind, content))
        found = decode(io.BytesIO(garbled), str(number))
        assert found.tobytes() in allowed
        unturned += np.array_equal(found, stored)
    assert unturned > 10
    (tmp_path / "a").write_bytes(garbled)
    assert np.array_equal(decode(tmp_path / "a", "a"), found)


@pytest.mark.parametrize("tag", [700, 0x8769, 0x8825, 0x83BB, 0x8773, 0x9C9B])
def test_a_tag_of_a_tiff_that_points_nowhere_costs_nothing(tag):
    image, draw = Image.new("RGB", (3, 2), RED), np.random.default_rng(0)
    content = saved(image, "TIFF")
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    entries = [content[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12)]
    for _ in range(50):
        kind, length, where = draw.integers(1, 14), draw.choice([0, 1, 2, 8, 30]), draw.integers(2**32)
        own = sorted([*entries, struct.pack("<HHII", tag, kind, length, where)], key=lambda each: each[1::-1])
        directory = struct.pack("<H", len(own)) + b"".join(own) + bytes(4)
        changed = content[:4] + struct.pack("<I", len(content)) + content[8:] + directory
        assert np.array_equal(decode(io.BytesIO(changed), "a"), image)


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP", b"pHYs", b"gAMA", b"cHRM", b"acTL", b"fcTL", b"tEXt", b"eXIf"])
@pytest.mark.parametrize("mark", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("crc", [0, 1])
def test_garbage_in_other_metadata_of_a_png_costs_nothing(name, mark, crc):
    content = saved(rgba(), "PNG")
    place = content.index(mark) - 4
    garbled = content[:place] + png_chunk(name, b"k\0\x55\3", crc) + content[place:]
    assert np.array_equal(decode(io.BytesIO(garbled), "a"), decode(io.BytesIO(content), "a"))


def test_pixels_that_are_damaged_are_an_error_still():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for kind, lost in (("PNG", 40), ("JPEG", 200), ("TIFF", 200), ("WEBP", 100)):
        content = saved(noise, kind)
        place = content.index(b"IDAT") + 40 if kind == "PNG" else len(content) - lost
        with pytest.raises(BadImageError, match="^image 'a' does not decode"):
            decode(io.BytesIO(content[:place]), "a")
    broken = bytearray(saved(noise, "PNG"))
    broken[19] ^= 8  # width, against its check sum
    with pytest.raises(BadImageError, match="^image 'a' does not decode"):
        decode(io.BytesIO(broken), "a")


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_an_image_of_more_pixels_than_allowed_is_refused_with_size_limit_and_option(kind, recwarn):
    content, own = saved(Image.new("L", (30, 20), 7), kind), Image.MAX_IMAGE_PIXELS
    for limit in (599, 100):  # PIL warns below the double, and raises above
        with pixel_limit(limit), pytest.raises(BadImageError) as error:
            decode(io.BytesIO(content), "plan.png")
        assert str(error.value) == (
            f"image 'plan.png' has 600 pixels, and {limit} are allowed; raise --max-image-pixels, or remove the file"
        )
    with pixel_limit(600):
        whole = decode(io.BytesIO(content), "plan.png")
        assert np.asarray(whole.crop((0, 0, 30, 20))).tolist() == np.full((20, 30, 3), 7).tolist()
    assert (Image.MAX_IMAGE_PIXELS, list(recwarn)) == (own, [])


def test_the_limit_is_pils_own_by_default_and_can_be_lifted():
    header = struct.pack(">2I5B", 13400, 13400, 1, 0, 0, 0, 0)  # 179,560,000 pixels
    rows = zlib.compress(bytes(13400 * 1676), 9)
    content = PNG + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    with pytest.raises(BadImageError, match="has 179,560,000 pixels, and 178,956,970 are allowed"):
        decode(io.BytesIO(content), "a", "L")
    with pixel_limit(179_560_000):
        assert decode(io.BytesIO(content), "a", "L").size == (13400, 13400)


def outcome(content):
    try:
        return decode(io.BytesIO(content), "a")
    except BadImageError as error:
        return error


def test_threads_share_no_limit_and_leave_pils_as_it_was():
    content, own, filters = saved(Image.new("L", (30, 20)), "PNG"), Image.MAX_IMAGE_PIXELS, list(warnings.filters)

    def size(limit):
        with pixel_limit(limit):
            return [decode(io.BytesIO(content), "a").size for _ in range(20)]

    def refused(limit):
        with pixel_limit(limit):
            return sum(isinstance(outcome(content), BadImageError) for _ in range(20))

    def opened(number):  # by somebody else in the process
        return [Image.open(io.BytesIO(content)).size for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(job, limit) for limit in range(600, 640) for job in (size, opened)]
        refusals = [pool.submit(refused, limit) for limit in (1, 299, 599) * 20]
        assert [job.result() for job in jobs] == [[(30, 20)] * 20] * 80
        assert [job.result() for job in refusals] == [20] * 60
    assert (Image.MAX_IMAGE_PIXELS, warnings.filters) == (own, filters)


OTHER_FORMATS = {  # that PIL knows: through other programs, through handlers that are to be installed, or not as pixels
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n0 0 4 4 rectfill\nshowpage\n%%EOF\n",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 4, 4, 72) + bytes(6) + b"\1\0\t\0" + bytes(14),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "GRIB": b"GRIB\0\0\0\1" + bytes(64),
    "BUFR": b"BUFR" + bytes(64),
    "MPEG": struct.pack(">I", 0x1B3) + b"\x00\x40\x04" + bytes(64),
}


@pytest.mark.parametrize("kind", OTHER_FORMATS)
@pytest.mark.parametrize("name", ["a.jpg", "a.eps"])
def test_a_file_of_another_format_is_never_opened_whatever_its_name(kind, name, tmp_path, monkeypatch):
    def start(*command, **options):
        raise AssertionError(f"started {command}")

    for module, function in ((subprocess, "Popen"), (os, "system"), (os, "posix_spawn"), (os, "fork")):
        monkeypatch.setattr(module, function, start)
    (tmp_path / name).write_bytes(OTHER_FORMATS[kind])
    with Image.open(tmp_path / name) as opened:
        assert opened.format == kind
    with pytest.raises(
        BadImageError, match=r"^image 'a' does not decode \(it is none of what is read: JPEG, PNG, WEBP, "
    ):
        decode(tmp_path / name, "a")


def test_every_format_that_is_read_is_known_to_pil_but_those_that_its_build_may_lack():
    assert set(FORMATS) - {"AVIF", "WEBP", "JPEG2000"} <= set(Image.OPEN)
    assert {".jpg", ".png", ".webp", ".gif", ".tif", ".mpo"} <= image_endings()
    assert not {".eps", ".ps", ".wmf", ".h5", ".grib", ".mpg", ".pdf", ".psd"} & image_endings()


def test_a_file_that_is_not_there_is_an_error_that_names_it_and_what_it_links_to(tmp_path):
    with pytest.raises(BadImageError, match=r"^image 'gone.jpg' does not exist; fix or remove it$"):
        decode(tmp_path / "gone.jpg", "gone.jpg")
    (tmp_path / "link.jpg").symlink_to("gone.jpg")
    with pytest.raises(BadImageError, match=r"^image 'link.jpg' is a link to 'gone.jpg', which does not exist; fix"):
        decode(tmp_path / "link.jpg", "link.jpg")
