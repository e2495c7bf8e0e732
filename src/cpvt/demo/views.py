"""What the demo shows of an image, as numbers: answers over test sizes, attention, and what each PEG adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cpvt.adapters import ModelAdapter, UnsupportedSizeError
from cpvt.adapters.classify import Prediction, as_image, classify, preprocessing_of
from cpvt.adapters.scale import lowest_entropy_logits, rule_under
from cpvt.config import MAX_IMAGE_PIXELS, Size, sides
from cpvt.data import pixel_limit
from cpvt.data.protocols import TABLE, Protocol
from cpvt.encodings import PEG
from cpvt.grids import patch_count
from cpvt.models import VisionTransformer
from cpvt.reporting.summary import pixels
from cpvt.results.checkpoints import as_adapter

PROTOCOLS = ("resize", "canvas")
MODES = ("true", "estimated", "off")  # of the scale of objects
MULTIPLES = (0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3)  # of the training size, the test sizes
MOST_PATCHES = 2304  # of an image: its attention takes 21 MB a head
MOST_CLASSES = 10**6  # of a model: more than any has
CLASS_TOKEN, EVERY_PATCH, ONE_PATCH = "class token", "every patch", "one patch"


class Curves(NamedTuple):
    """Probabilities over test sizes, a line for each class."""

    classes: tuple[str, ...]
    sizes: tuple[Size, ...]
    lines: dict[tuple[str, str], NDArray[np.float64]]
    """(protocol, mode) -> (sizes, classes), from 0 to 1; NaN at sizes that the model refuses."""
    scales: dict[tuple[str, str], list[tuple[float, float] | None]]
    """(protocol, mode) -> the scale that the model was given at each size; None for none."""


class PegMap(NamedTuple):
    """What one PEG added to each token of an image."""

    depth: int
    norms: NDArray[np.float32]
    """Norm of output minus input, (h, w)."""
    token_norm: float
    """The mean norm of the tokens that it was added to."""


class Viewer:
    """One model, and what can be seen of it for an image. It serves one caller at a time: hooks and the scale are its.

    run: as in `cpvt sweep`, or an adapter. weights: a file of weights for an external model. Raises ValueError for an
    unknown name, and for a model whose training size or normalisation is not known.
    """

    def __init__(self, run: str | ModelAdapter, device: str = "auto", weights: str | None = None) -> None:
        adapter = as_adapter(run, weights, device)
        self.adapter = replace(adapter, class_names=_distinct(adapter.class_names))
        self.recommended: Size = _short(preprocessing_of(self.adapter).sides)
        if self.adapter.train_size is None:
            raise ValueError(
                f"'{self.adapter.name}' does not state its training size, from which the demo takes its test sizes"
            )

    @property
    def own_model(self) -> VisionTransformer | None:
        """The model, if it is one of ours: only then attention and PEGs are shown."""
        return self.adapter.model if isinstance(self.adapter.model, VisionTransformer) else None

    @property
    def train_size(self) -> Size:
        """The training size, pixels."""
        assert self.adapter.train_size is not None  # checked when the model was opened
        return _short(sides(self.adapter.train_size))

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The test sizes, ascending: half to three times the training size in whole patches, and the recommended size.

        None has more than MOST_PATCHES patches, the recommended size aside.
        """
        patch = self.patch_size
        lengths = (round(max(sides(self.train_size)) * multiple / patch) * patch for multiple in MULTIPLES)
        found = {max(patch, length) for length in lengths}
        few: set[Size] = {each for each in found if patch_count((each, each), patch) <= MOST_PATCHES}
        return tuple(sorted(few | {self.recommended}, key=pixels))

    @property
    def modes(self) -> tuple[str, ...]:
        """The ways to give the model an object scale: 'off' alone where it takes none.

        A model of one class is sure of it at every scale, so none is estimated.
        """
        if not self.adapter.takes_scale:
            return MODES[2:]
        one_class = 1 in (len(self.adapter.class_names or ()), getattr(self.adapter.model, "num_classes", 0))
        return tuple(each for each in MODES if each != "estimated" or not one_class)

    @property
    def blocks(self) -> int:
        """How many blocks the model has, 0 for one that is not ours."""
        return len(self.own_model.blocks) if self.own_model else 0

    @property
    def patch_size(self) -> int:
        """The side of a patch, pixels."""
        return self.adapter.patch_size or 1

    @property
    def queries(self) -> tuple[str, ...]:
        """Whose attention can be shown, what the head reads first."""
        reads = (CLASS_TOKEN,) if self.own_model and self.own_model.num_prefix_tokens else ()
        return (*reads, EVERY_PATCH, ONE_PATCH)

    def open_image(self, path: str) -> Image.Image:
        """Decode an image file, upright and in the model's mode; BadImageError says what is wrong with one."""
        with pixel_limit(MAX_IMAGE_PIXELS):
            return as_image(path, f"'{Path(path).name}'", self._transform.mode)

    def preprocessing(self, protocol: str, size: Size) -> Protocol:
        """How the image is shown; under canvas it is first shrunk to the training size, so that the field grows."""
        adapter = self.adapter
        if protocol == "canvas":
            adapter = replace(adapter, transform=replace(self._transform, longest_side=max(sides(self.train_size))))
        return preprocessing_of(adapter, protocol, size)

    def predict(self, image: Image.Image, size: Size, protocol: str, scale: str, top: int) -> Prediction:
        """The top classes; scale: 'protocol', as `cpvt predict` does, or one of MODES."""
        preprocessing, rule = self.preprocessing(protocol, size), self._rule(protocol, scale)
        return next(classify(self.adapter, [image], preprocessing, top=top, scale=rule))

    def curves(self, image: Image.Image, top: int) -> Curves:
        """The probabilities of the classes that are on top at the recommended size, at every test size."""
        classes = tuple(name for name, _ in self.predict(image, self.recommended, "resize", "protocol", top).classes)
        lines: dict[tuple[str, str], NDArray[np.float64]] = {}
        scales: dict[tuple[str, str], list[tuple[float, float] | None]] = {}
        for protocol in PROTOCOLS:
            for mode in self.modes:
                found = [self._answer(image, size, protocol, mode) for size in self.sizes]
                values = [[answer.get(name, np.nan) for name in classes] for answer, _ in found]
                lines[protocol, mode] = np.array(values)
                scales[protocol, mode] = [scaled for _, scaled in found]
        return Curves(classes, self.sizes, lines, scales)

    def _answer(
        self, image: Image.Image, size: Size, protocol: str, mode: str
    ) -> tuple[dict[str, float], tuple[float, float] | None]:
        """Class -> probability, and the scale that was given; nothing at a size that the model refuses."""
        try:
            found = self.predict(image, size, protocol, mode, top=MOST_CLASSES)
        except UnsupportedSizeError:
            return {}, None
        return dict(found.classes), found.scale

    def seen(self, image: Image.Image, size: Size, protocol: str) -> NDArray[np.uint8]:
        """The image as the model sees it, (H, W, 3) from 0 to 255."""
        values = self._input(image, size, protocol)[0].cpu().numpy()
        transform = self._transform
        values = values[::-1] if transform.channel_order == "BGR" else values
        mean, std = (np.array(each, dtype=np.float32)[:, None, None] for each in (transform.mean, transform.std))
        shown = ((values * std + mean) * 255).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        return np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown

    def attention(
        self, image: Image.Image, size: Size, protocol: str, scale: str, block: int, query: str,
        patch: Sequence[int] = (0, 0),
    ) -> NDArray[np.float32]:  # fmt: skip
        """How much a query attends to each patch in one block (from 1), the mean over heads, (h, w).

        query: one of `queries`; 'every patch' is the mean over the patches, 'one patch' the one at row and column
        `patch`. Attention to prefix tokens is left out. ValueError for a model that is not ours.
        """
        model = self._need_own("attention")
        adapter, images = self._with_scale(image, size, protocol, scale)
        with adapter.inference():
            rows = model.attention_map(images.to(adapter.dtype), block, prefix=True)[0].float().mean(0)
        first, (h, w) = model.num_prefix_tokens, model.patch_embed.dynamic_feat_size(images.shape[2:])
        row = min(max(patch[0], 0), h - 1) * w + min(max(patch[1], 0), w - 1)
        chosen = {CLASS_TOKEN: rows[0], EVERY_PATCH: rows[first:].mean(0), ONE_PATCH: rows[first + row]}[query]
        return chosen[first:].reshape(h, w).cpu().numpy()

    def pegs(self, image: Image.Image, size: Size, protocol: str, scale: str) -> list[PegMap]:
        """What each PEG of the model added, by depth; none in a model without PEG. ValueError for one not ours."""
        model, found = self._need_own("what PEG adds"), list[PegMap]()
        modules, depths = dict(model.encoding.named_modules()), model.encoding.layers()

        def note(depth: int, inputs: tuple[Any, ...], output: Tensor) -> None:
            tokens, (h, w) = inputs[0][0, -inputs[1][0] * inputs[1][1] :].float(), inputs[1]
            norms = (output[0, -h * w :].float() - tokens).norm(dim=-1)
            found.append(PegMap(depth, norms.reshape(h, w).cpu().numpy(), float(tokens.norm(dim=-1).mean())))

        handles = [
            modules[name].register_forward_hook(lambda _, inputs, output, depth=depth: note(depth, inputs, output))
            for name, depth in depths.items()
            if type(modules.get(name)) is PEG
        ]
        try:
            adapter, images = self._with_scale(image, size, protocol, scale)
            found.clear()  # an estimate of the scale has run the model, too
            adapter.logits(images)
        finally:
            for handle in handles:
                handle.remove()
        return sorted(found, key=lambda each: each.depth)

    @property
    def _transform(self) -> Any:
        return self.adapter.transform

    def _input(self, image: Image.Image, size: Size, protocol: str) -> Tensor:
        """What the model sees, (1, C, H, W): as the first image that `classify` gets."""
        return self.preprocessing(protocol, size)(image, np.random.default_rng(0))[None].to(self.adapter.device)

    def _rule(self, protocol: str, scale: str) -> Any:
        """What a mode means under a protocol; 'true' is the true scale, also to a model whose own rule is 'paper'."""
        if scale == "true":
            own = rule_under(TABLE[protocol].scale_rule, "protocol", self.adapter)
            return TABLE[protocol].scale_rule if own == "paper" else own
        if not self.adapter.takes_scale:
            return "protocol"
        return {"estimated": "auto", "off": "paper"}.get(scale, scale)

    def _with_scale(self, image: Image.Image, size: Size, protocol: str, scale: str) -> tuple[ModelAdapter, Tensor]:
        """The model, under the scale with which it predicts, and what it sees."""
        images = self._input(image, size, protocol)
        rule = rule_under(TABLE[protocol].scale_rule, self._rule(protocol, scale), self.adapter)
        if rule == "auto":
            rule = lowest_entropy_logits(self.adapter, images)[1][0]
        return (self.adapter if rule is None else self.adapter.with_scale(rule)), images

    def _need_own(self, what: str) -> VisionTransformer:
        if self.own_model is None:
            raise ValueError(f"{what} is shown for cpvt's own models; '{self.adapter.name}' is another library's")
        return self.own_model


def _distinct(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Names of classes in which those that several classes share hold the class's index: 'crane (134)'."""
    while names and len(set(names)) < len(names):
        counts = Counter(names)
        names = tuple(f"{name} ({index})" if counts[name] > 1 else name for index, name in enumerate(names))
    return names


def _short(size: tuple[int, int]) -> Size:
    return size[0] if size[0] == size[1] else size
