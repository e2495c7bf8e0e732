"""Classify images with any adapted model: from files, PIL images or arrays to class names and probabilities."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cpvt.adapters.base import ModelAdapter, kept_modes, sides_of, usable
from cpvt.adapters.scale import lowest_entropy_logits, rule_under
from cpvt.config import MAX_IMAGE_PIXELS, TOKEN_BUDGET, Size, parse_size, sides
from cpvt.config.base import some_names
from cpvt.config.scale import ScaleRule, scale_label
from cpvt.data import BadImageError, check_usable, decode, pixel_limit, with_hint
from cpvt.data.decoding import check_pixels, undecodable, upright
from cpvt.data.deferred import reduced_jpegs
from cpvt.data.protocols import TABLE, Protocol, find_protocol
from cpvt.grids import patch_count, within_budget


class Prediction(NamedTuple):
    """The top classes of one image."""

    image: str  # the path, or what it was
    size: tuple[int, int]  # width and height of the model's input, pixels
    original_size: tuple[int, int]  # width and height of the image, pixels
    classes: tuple[tuple[str, float], ...]  # name and probability, best first
    error: str | None = None  # why the image was skipped, if it was
    scale: tuple[float, float] | None = None  # of objects, along rows and columns, where the model was given one

    @property
    def label(self) -> str:
        """The most probable class; ValueError for an image that was skipped, which has none."""
        if not self.classes:
            raise ValueError(f"'{self.image}' has no class: {self.error or 'top=0 asked for none'}")
        return self.classes[0][0]

    def __str__(self) -> str:
        """One line: the image, its classes, best first; sizes are width x height."""
        if self.error is not None:
            return f"{self.image}: skipped, {self.error}"
        classes = "  ".join(f"{name} {probability:.1%}" for name, probability in self.classes)
        (width, height), (input_width, input_height) = self.original_size, self.size
        scale = f" at scale {scale_label(self.scale)}" if self.scale is not None and max(self.scale) > 1 else ""
        return f"{self.image}  {width}x{height} read at {input_width}x{input_height}{scale}  {classes}"


def preprocessing_of(adapter: ModelAdapter, protocol: str = "resize", size: Size | None = None) -> Protocol:
    """How images are read for a prediction: by default as in the tests of the model, at its recommended size.

    Under `native` the size is the longest side allowed, by default four times the training size.
    Raises ValueError for an unknown protocol, and where a size is needed.
    """
    if protocol not in TABLE:
        raise ValueError(f"protocol must be one of {', '.join(TABLE)}; got '{protocol}'")
    transform, limit = adapter.transform, TABLE[protocol].size_is_limit
    if transform is None:
        raise ValueError(f"how images are normalised for '{adapter.name}' is not known; load it from a run")
    wanted = (transform.size or adapter.train_size) if size is None else parse_size(size)
    if limit and size is None and adapter.train_size is not None:
        wanted = 4 * max(sides(adapter.train_size))
    if wanted is None:
        raise ValueError(f"'{adapter.name}' does not state its training size: pass size= (--size)")
    if limit and not isinstance(wanted, int):
        raise ValueError(f"under {protocol} a size is the longest side allowed, such as 224; got {wanted}")
    if min(sides(wanted)) < (adapter.patch_size or 1):
        raise ValueError(f"size {wanted} is smaller than a patch; the smallest side is {adapter.patch_size}")
    return find_protocol(protocol)(transform, sides(wanted))


def classify(
    adapter: ModelAdapter,
    images: Iterable[Any],
    preprocessing: Protocol,
    *,
    top: int = 5,
    scale: Any = "protocol",
    token_budget: int = TOKEN_BUDGET,
    on_bad_image: str = "error",
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> Iterator[Prediction]:
    """Yield the prediction of each image, a path, a PIL image or an array of 0 to 255, (H, W) or (H, W, 3).

    A forward pass holds up to `token_budget` patches; each image gets the answer that it gets alone. scale: the
    object scale, 'protocol' (the true one under the preprocessing), 'auto' (for each image that of the lowest entropy),
    or what `cpvt.config.scale.parse_scale` reads.
    Raises BadImageError for an image that cannot be used; with `on_bad_image="skip"` its prediction says why instead.
    """
    patch_size = adapter.patch_size or 1
    rule = rule_under(preprocessing.scale_rule, scale, adapter)
    adapter = adapter if rule in (None, "auto") else adapter.with_scale(rule)
    ready = adapter.at_size(preprocessing.sides) if preprocessing.stacks else adapter
    read = (_read(number, image, preprocessing, patch_size, max_image_pixels) for number, image in enumerate(images))
    for pack in within_budget(read, lambda each: patch_count(each.size[::-1], patch_size), token_budget):
        tensors = [each.tensor.to(adapter.device) for each in pack if each.tensor is not None]
        with kept_modes(adapter):
            answers = iter([*_answers(ready, tensors, rule, preprocessing.stacks)] if tensors else ())
        for each in pack:
            if each.tensor is not None:
                logits, applied = next(answers)
                check_names(adapter.class_names, len(logits), adapter.name)
                best = _best(logits, adapter.class_names, top)
                yield Prediction(each.name, each.size, each.original_size, best, scale=applied)
            elif on_bad_image == "skip":
                yield Prediction(each.name, each.size, each.original_size, (), str(each.error))
            else:
                raise with_hint(str(each.error))


def _answers(
    ready: ModelAdapter, images: list[Tensor], rule: ScaleRule | None, stack: bool
) -> Iterator[tuple[Tensor, tuple[float, float] | None]]:
    """The logits of each image, and the scale that the model was given, where it was."""
    if rule == "auto":
        for batch in [torch.stack(images)] if stack else [image[None] for image in images]:
            yield from zip(*lowest_entropy_logits(ready, batch))
        return
    scales = [None if rule is None else ready.scale_at(rule, sides_of(each[None])) for each in images]
    logits = ready.logits(torch.stack(images)) if stack else ready.logits_of_list(images)
    yield from zip(usable(logits, ready.name), scales)


class _Read(NamedTuple):
    name: str
    size: tuple[int, int]
    original_size: tuple[int, int]
    tensor: Tensor | None
    error: BadImageError | None


def _read(number: int, image: Any, preprocessing: Protocol, patch_size: int, max_image_pixels: int) -> _Read:
    name, size = str(image) if isinstance(image, (str, Path)) else f"image {number}", (0, 0)
    try:
        with pixel_limit(max_image_pixels), reduced_jpegs(preprocessing.transform.reduced_jpegs):
            whole = as_image(image, name, preprocessing.transform.mode)
        size = whole.size
        tensor = preprocessing(whole, np.random.default_rng(number))
        check_usable(tensor.shape, patch_size, f"image '{name}'")
    except BadImageError as error:
        return _Read(name, (0, 0), size, None, error)
    height, width = tensor.shape[1:]
    return _Read(name, (width, height), size, tensor, None)


def as_image(image: Any, name: str, mode: str) -> Image.Image:
    """A path, the bytes of a file, an open file, a PIL image or an array of 0 to 255 as an upright image in `mode`.

    Raises BadImageError for what does not decode, has too many pixels or values without a range; ValueError for
    anything else.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        image = io.BytesIO(image)
    if isinstance(image, (str, Path)) or hasattr(image, "read"):
        return decode(image, name, mode)
    if not isinstance(image, Image.Image):
        values = np.asarray(image)
        if values.dtype != np.uint8 or values.ndim not in (2, 3) or values.shape[2:] not in ((), (1,), (3,), (4,)):
            raise ValueError(
                f"{name}: expected a path, an open file or its bytes, a PIL image, or an array of uint8 (0 to 255), "
                f"(H, W) or (H, W, 3); got {type(image).__name__} of {values.dtype}, {tuple(values.shape)}. "
                "Tensors that are normalised already go to the model itself"
            )
        if not values.size:
            raise BadImageError(f"image '{name}' is an array without pixels, {tuple(values.shape)}; leave it out")
        image = Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values)
    try:
        check_pixels(image)
        image.load()
        return upright(image, mode)
    except Exception as error:  # PIL raises many types
        raise undecodable(name, error) from error


def check_names(names: Sequence[str] | None, classes: int, model: str) -> None:
    """Raise ValueError where a model gives another number of classes than it has names for."""
    if names and len(names) != classes:
        raise ValueError(
            f"'{model}' gives {classes} classes (was its head replaced?) and has names of {len(names)} "
            f"({some_names(names)}): pass the new ones, dataclasses.replace(run, class_names=(...))"
        )


def _best(logits: Tensor, names: Sequence[str] | None, top: int) -> tuple[tuple[str, float], ...]:
    best = logits.float().softmax(0).topk(min(top, len(logits)))
    chosen = best.indices.tolist()
    labels = [names[index] if names else str(index) for index in chosen]
    return tuple(zip(labels, best.values.tolist()))
