"""Decoding of every type of file to an upright RGB or grey image; an error names the file."""

import io

import numpy as np
import pytest
from PIL import Image

from cpvt.data import BadImageError, decode

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


def test_a_missing_file_is_not_called_a_bad_image(tmp_path):
    with pytest.raises(FileNotFoundError):
        decode(tmp_path / "gone.jpg", "gone.jpg")
