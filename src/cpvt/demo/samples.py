"""Example images of the demo, made offline: drawings, digits, and two photographs that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 256  # of a drawing, pixels


def write_samples(folder: Path, class_names: tuple[str, ...] | None) -> list[Path]:
    """Write the example images for a model with these classes to a folder; the files, the best first."""
    images = _digits() if class_names == tuple("0123456789") else {**_drawings(class_names or ()), **_photographs()}
    for name, image in images.items():
        image.save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in images]


def _digits() -> dict[str, Image.Image]:
    """Four test digits of scikit-learn, each at a place of its own."""
    from cpvt.data.datasets.digits import open_digits

    test = open_digits().test
    assert test is not None
    read = [test.read(number, np.random.default_rng(number)) for number in range(4)]
    return {f"digit-{number}-{label}": image for number, (image, label) in enumerate(read)}


def _photographs() -> dict[str, Image.Image]:
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images()
    return {Path(name).stem: Image.fromarray(each) for name, each in zip(photographs.filenames, photographs.images)}


def _drawings(class_names: tuple[str, ...]) -> dict[str, Image.Image]:
    """Drawings of the classes that a model has; where it has none of them, a ship and an airplane."""
    drawings = {"ship": _ship, "airplane": _airplane, "golf_ball": _golf_ball, "parachute": _parachute}
    known = [name for name in drawings if name in class_names] or ["ship", "airplane"]
    return {name: drawings[name]() for name in known}


def _sky(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Image.Image:
    mix = np.linspace(0, 1, SIDE)[:, None, None]
    rows = (np.array(top) * (1 - mix) + np.array(bottom) * mix).round().astype(np.uint8)
    return Image.fromarray(np.repeat(rows, SIDE, axis=1))


def _ship() -> Image.Image:
    image = _sky((120, 170, 220), (215, 230, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 160, SIDE, SIDE), fill=(38, 84, 128))
    for y in range(168, SIDE, 14):  # waves
        for x in range((y * 7) % 40 - 40, SIDE, 40):
            draw.line((x, y, x + 18, y), fill=(88, 138, 178), width=2)
    draw.polygon(((26, 140), (236, 140), (208, 186), (56, 186)), fill=(60, 40, 45))
    draw.polygon(((26, 140), (236, 140), (232, 148), (31, 148)), fill=(190, 60, 50))
    draw.rectangle((74, 104, 186, 140), fill=(238, 238, 232))
    draw.rectangle((100, 78, 160, 104), fill=(225, 225, 220))
    draw.rectangle((120, 44, 140, 78), fill=(200, 70, 50))
    for x in range(82, 180, 16):
        draw.rectangle((x, 114, x + 8, 122), fill=(60, 90, 120))
    return image


def _airplane() -> Image.Image:
    image = _sky((70, 130, 210), (190, 215, 240))
    draw = ImageDraw.Draw(image)
    for x, y in ((30, 190), (170, 212), (190, 40)):  # clouds
        for shift in (0, 18, 36):
            draw.ellipse((x + shift, y - shift % 36 // 3, x + shift + 34, y + 20), fill=(240, 244, 248))
    draw.polygon(((150, 120), (95, 60), (78, 60), (108, 122)), fill=(176, 182, 190))
    draw.polygon(((52, 118), (36, 78), (24, 78), (30, 124)), fill=(160, 40, 50))
    draw.ellipse((22, 106, 236, 142), fill=(232, 234, 238))
    draw.polygon(((152, 130), (92, 196), (74, 196), (108, 130)), fill=(150, 156, 166))
    draw.polygon(((46, 128), (26, 148), (18, 148), (26, 126)), fill=(150, 156, 166))
    for x in range(64, 200, 14):
        draw.ellipse((x, 116, x + 6, 122), fill=(70, 90, 120))
    return image


def _golf_ball() -> Image.Image:
    image = _sky((70, 120, 50), (110, 165, 70))
    draw = ImageDraw.Draw(image)
    for x in range(0, SIDE, 6):  # grass
        draw.line((x, SIDE, x + (x * 7) % 13 - 6, 120 + (x * 29) % 90), fill=(60 + x % 40, 130 + x % 30, 50), width=2)
    draw.ellipse((48, 176, 216, 226), fill=(50, 92, 40))
    for inset in range(24):  # lighter towards the upper left
        shade = 196 + 2 * inset
        draw.ellipse((50 + inset // 2, 40 + inset // 2, 206 - 3 * inset, 196 - 3 * inset), fill=(shade, shade, shade))
    for row, y in enumerate(range(54, 190, 14)):
        for x in range(58 + 7 * (row % 2), 200, 14):
            if (x + 3 - 128) ** 2 + (y + 3 - 118) ** 2 < 70**2:
                draw.ellipse((x, y, x + 7, y + 7), fill=(205, 207, 210), outline=(178, 180, 184))
    return image


def _parachute() -> Image.Image:
    image = _sky((60, 120, 205), (175, 210, 240))
    draw = ImageDraw.Draw(image)
    for x in range(40, 217, 22):  # lines
        draw.line((x, 118, 128, 214), fill=(60, 60, 70), width=1)
    colours = ((206, 50, 45), (240, 240, 236), (40, 70, 150), (240, 240, 236))
    for part in range(8):
        draw.pieslice((36, 30, 220, 206), 180 + 22.5 * part, 202.5 + 22.5 * part, fill=colours[part % 4])
    for x in range(36, 220, 23):  # the lower edge bends in
        draw.ellipse((x, 108, x + 23, 128), fill=(103, 153, 218))
    draw.ellipse((122, 208, 134, 220), fill=(90, 65, 55))
    draw.rectangle((120, 220, 136, 240), fill=(45, 55, 70))
    return image
