"""Reads how an image processor of Hugging Face makes tensors, by running it on probe images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cpvt.data import Transform

RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # PIL's numbers
WIDTH, HEIGHT = 320, 240  # of the probe images, pixels
LEVELS = 3.0  # of 255: how far two libraries' resizing may be apart on a smooth image


def transform_of(processor: Any, channels: int = 3) -> Transform:
    """The transform that gives the processor's own tensor; ValueError that says what no transform here can do.

    Solid images tell the values of each channel, a ramp tells the crop. The tensor of the ramp is compared in the end.
    """
    mean, std, order = _values(processor, channels)
    ramp = _ramp(channels)
    wanted = _run(processor, ramp)
    columns, rows = _seen(wanted, std, order)
    squashes = abs(columns - rows) < 0.02
    if not squashes and abs(columns * WIDTH - rows * HEIGHT) > 0.02 * HEIGHT:
        raise ValueError(
            f"it shows {columns:.0%} of the columns and {rows:.0%} of the rows of a {WIDTH}x{HEIGHT} image"
        )
    crop_mode = "squash" if squashes else "center"
    transform = Transform(mean, std, _crop_ratio(processor, rows), _interpolation(processor), None, order, crop_mode)
    height, width = wanted.shape[1:]
    ours = transform.resize(ramp, (height, width))
    scale = 255 * torch.tensor(std[:: -1 if order == "BGR" else 1])[:, None, None]
    worst = float(((ours - wanted) * scale).abs().max())
    if worst > LEVELS + 255 / min(height, width):  # a pixel may be cropped on the other side
        raise ValueError(f"its tensor is up to {worst:.0f} of 255 levels from ours")
    return transform


def _interpolation(processor: Any) -> str:
    resample = getattr(processor, "resample", None)
    of_timm = getattr(processor, "data_config", {}).get("interpolation")  # a processor around timm's transform
    return str(of_timm) if of_timm else RESAMPLING[2 if resample is None else int(resample)]


def _crop_ratio(processor: Any, measured: float) -> float:
    """What the processor says its crop keeps, or a usual ratio, where that is what it does; else as measured."""
    size, crop = (dict(getattr(processor, name, None) or {}) for name in ("size", "crop_size"))
    resized = size.get("shortest_edge") or size.get("height") or 1
    usual = (getattr(processor, "crop_pct", None) or 1.0, (crop.get("height") or 0) / resized, 0.875, 1.0)
    return next((each for each in usual if each <= 1 and abs(each - measured) < 0.005), min(1.0, round(measured, 3)))


def _run(processor: Any, image: Image.Image) -> Tensor:
    """The processor's tensor (C, h, w) of an image."""
    found, channels = processor([image], return_tensors="pt").get("pixel_values"), len(image.getbands())
    if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[:2] != (1, channels):
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"it gives pixel_values {got}; expected (1, {channels}, height, width)")
    return found[0].float()


def _values(processor: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean and deviation that give the processor's values of solid images, and its order of channels."""

    def solid(colour: tuple[int, ...]) -> Tensor:
        tensor = _run(processor, Image.new("RGB" if channels == 3 else "L", (WIDTH, HEIGHT), colour))
        return tensor[:, tensor.shape[1] // 2, tensor.shape[2] // 2].double()

    black = solid((0,) * channels)
    slopes = torch.stack([solid(tuple(255 * (i == k) for i in range(channels))) - black for k in range(channels)])
    order = "RGB" if _is_diagonal(slopes) else "BGR"
    if order == "BGR":
        slopes, black = slopes.flip(1), black.flip(0)
    if not _is_diagonal(slopes):
        raise ValueError("its channels are not those of the image, scaled and shifted, in the order RGB or BGR")
    std = [1 / slope for slope in slopes.diagonal().tolist()]
    mean = [-value * deviation for value, deviation in zip(black.tolist(), std)]
    return (
        _plain(mean, getattr(processor, "image_mean", None)),
        _plain(std, getattr(processor, "image_std", None)),
        order,
    )


def _plain(measured: list[float], stated: Any) -> tuple[float, ...]:
    """Measured values without their rounding: the processor's own where they are equal, else 6 digits."""
    if (
        isinstance(stated, (list, tuple))
        and len(stated) == len(measured)
        and np.allclose(measured, stated, rtol=0, atol=1e-6)
    ):
        return tuple(map(float, stated))
    return tuple(float(f"{value:.6g}") + 0.0 for value in measured)


def _is_diagonal(slopes: Tensor) -> bool:
    return bool((slopes.diagonal() > 0).all()) and torch.equal(slopes, slopes.diagonal().diag())


def _ramp(channels: int) -> Image.Image:
    """Levels that rise along columns (red), along rows (green) and along both (blue, or grey)."""
    x = (np.arange(WIDTH)[None] + 0.5) / WIDTH + np.zeros((HEIGHT, 1))
    y = (np.arange(HEIGHT)[:, None] + 0.5) / HEIGHT + np.zeros((1, WIDTH))
    bands = [x, y, (x + y) / 2] if channels == 3 else [(x + y) / 2]
    pixels = np.stack([np.round(255 * band).astype(np.uint8) for band in bands], axis=2)
    return Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])


def _seen(tensor: Tensor, std: tuple[float, ...], order: str) -> tuple[float, float]:
    """Fractions of the ramp's columns and rows that a processor's tensor (C, h, w) of it shows."""
    levels = (tensor.flip(0) if order == "BGR" else tensor) * torch.tensor(std)[:, None, None]
    grey = 2 if len(levels) == 1 else 1  # grey holds half a ramp along each axis
    along_columns, along_rows = levels[0].mean(0) * grey, levels[min(1, len(levels) - 1)].mean(1) * grey
    return _rise(along_columns), _rise(along_rows)


def _rise(values: Tensor) -> float:
    """How much a line through the values, but for those near the border, rises over all of them."""
    count, edge = len(values), 3
    at = torch.arange(count, dtype=torch.float64) - (count - 1) / 2
    inner = slice(edge, count - edge)
    return float((at * values)[inner].sum() / at[inner].square().sum() * count)
