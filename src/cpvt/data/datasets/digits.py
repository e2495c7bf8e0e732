"""scikit-learn's handwritten digits at random places on a canvas: real data that needs no download."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cpvt.data.base import DataSet, DataSource

CANVAS = 32  # side of the canvas, pixels
SIDES = range(18, 27)  # sides to which digits are enlarged, pixels
TEST_SIZE = 597  # of 1,797 digits


class Digits:
    """One split of the digits; each read draws a size and a place for the digit on a black 32x32 canvas."""

    def __init__(self, values: NDArray[Any], labels: NDArray[Any], mode: str) -> None:
        self.labels, self.mode = labels, mode
        digits = [Image.fromarray((value * (255 / 16)).round().astype(np.uint8)) for value in values]  # 8x8 each
        self.enlarged = {
            side: np.stack([np.asarray(digit.resize((side, side), Image.Resampling.BICUBIC)) for digit in digits])
            for side in SIDES
        }

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int, generator: np.random.Generator) -> tuple[Image.Image, int]:
        side = int(generator.integers(SIDES.start, SIDES.stop))
        top, left = generator.integers(0, CANVAS - side + 1, size=2)
        canvas = np.zeros((CANVAS, CANVAS), dtype=np.uint8)
        canvas[top : top + side, left : left + side] = self.enlarged[side][index]
        image = Image.fromarray(canvas)
        return (image if self.mode == "L" else image.convert(self.mode)), int(self.labels[index])


def open_digits(mode: str = "L") -> DataSet:
    """1,200 training and 597 test digits, split by class with a fixed seed.

    Grey ('L') or RGB. Black is zero after normalisation, as the padding of a larger canvas is.
    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, through scikit-learn.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    train, test = train_test_split(
        np.arange(len(bunch.target)), test_size=TEST_SIZE, random_state=0, stratify=bunch.target
    )
    channels = 1 if mode == "L" else 3
    return DataSet(
        name="digits",
        class_names=tuple("0123456789"),
        train=Digits(bunch.images[train], bunch.target[train], mode),
        test=Digits(bunch.images[test], bunch.target[test], mode),
        mean=(0.0,) * channels,
        std=(0.5,) * channels,
        crop_ratio=1.0,
        augment="none",
    )


DIGITS = DataSource(
    "scikit-learn's handwritten digits on a 32x32 canvas, 1,200 to train and 597 to test; embedded, no download",
    matches=lambda name: name == "digits",
    open=lambda name, root, mode: open_digits(mode),
    mode="L",
    reads_root=False,
)
