"""JPEGs that are decoded when they are resized: at a reduced scale where they are shown much smaller."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from PIL import Image

FACTORS = (8, 4, 2)  # at which libjpeg decodes, the strongest first
Box = tuple[int, int, int, int]  # left, top, right, bottom, pixels
GAP = 2  # a region that is decoded at a reduced scale keeps so many pixels, along each axis, for each that is shown
_wanted: ContextVar[bool] = ContextVar("reduced_jpegs", default=False)


@contextmanager
def reduced_jpegs(wanted: bool) -> Iterator[None]:
    """Within it `decode` returns a JPEG as a DeferredImage, if that is wanted."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def is_wanted() -> bool:
    """Whether JPEGs are deferred here and now."""
    return _wanted.get()


class DeferredImage(Image.Image):
    """An image, or a part of one, that is decoded only when it is used.

    It has the sides of the whole image, so that crops are drawn and sizes computed as ever. `crop` decodes nothing.
    `resize` decodes at 1/2, 1/4 or 1/8 where, along both axes, at least GAP decoded pixels remain for each that is
    shown. Everything else decodes the image whole; from then on it is an image like any other.
    """

    is_loaded = True  # of a copy from another process, which pickle makes of its pixels

    def __init__(
        self, decode: Callable[[int, Box], Image.Image], sides: tuple[int, int], mode: str, turned: bool,
        box: Box | None = None,
    ) -> None:  # fmt: skip
        """decode: a part of the image at 1/factor, upright and in `mode`, by its box there.

        sides: width and height of the whole image at factor 1, pixels.
        turned: whether it lies turned or mirrored in the file. box: the part (left, top, right, bottom).
        """
        super().__init__()
        self.decode, self.sides, self.turned, self.box = decode, sides, turned, box or (0, 0, *sides)
        self._mode, self._size = mode, (self.box[2] - self.box[0], self.box[3] - self.box[1])
        self.is_loaded = False

    def load(self) -> Any:
        if not self.is_loaded:
            self.im, self.is_loaded = self.decode(1, self.box).im, True
        return super().load()

    def crop(self, box: tuple[float, float, float, float] | None = None) -> Image.Image:
        left, top, right, bottom = map(round, box or (0, 0, *self.size))
        inside = 0 <= left < right <= self.width and 0 <= top < bottom <= self.height
        if self.is_loaded or not inside:
            return super().crop(box)
        x, y = self.box[:2]
        return DeferredImage(
            self.decode, self.sides, self.mode, self.turned, (x + left, y + top, x + right, y + bottom)
        )

    def resize(
        self, size: Any, resample: int | None = None, box: Any = None, reducing_gap: float | None = None
    ) -> Image.Image:
        as_ever = self.is_loaded or resample == Image.Resampling.NEAREST or box is not None
        factor = 1 if as_ever else self.reduction(size)
        if factor == 1:
            return super().resize(size, resample, box, reducing_gap)
        left, top, right, bottom = (place / factor for place in self.box)
        x, y = math.floor(left), math.floor(top)
        part = self.decode(factor, (x, y, math.ceil(right), math.ceil(bottom)))
        return part.resize(size, resample, (left - x, top - y, right - x, bottom - y), reducing_gap)

    def reduction(self, size: tuple[int, int]) -> int:
        """The strongest reduction (1, 2, 4 or 8) for an image shown at `size`, width and height in pixels."""
        enough = (
            each
            for each in FACTORS
            if all(side >= GAP * each * shown for side, shown in zip(self.size, size))
            # the reduced image covers up to a pixel more at its end, which is not at the end of one that is turned
            and not (self.turned and any(side % each for side in self.sides))
        )
        return next(enough, 1)
