"""The interface between models and measurements: it adapts any module or callable; subclasses know one library."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpvt.adapters.errors import UnsupportedError, UnsupportedSizeError
from cpvt.adapters.token_maps import as_map, find_tokens
from cpvt.config import Size, sides
from cpvt.config.scale import ScaleRule, parse_scale, scale_at
from cpvt.data import Transform
from cpvt.runtime.errors import error_line

# parameters that hold positions, by the names that libraries give them
POSITIONS = re.compile(
    r"(^|[._])(pos_embed\w*|position_embeddings?|pos_embedding|relative_position_bias_table|rel_pos_\w+|table"
    r"|pos_block|peg)($|\.)"
)
ERRORS = (AssertionError, ValueError, RuntimeError, IndexError, NotImplementedError)  # with which models refuse sizes
ROTARY = re.compile(r"(^|[._])(rope\w*|rotary\w*)($|\.)")


@dataclass(frozen=True)
class ModelAdapter:
    """A model as measurements see it: images go in; logits, token maps and attention come out.

    Depth 0 is the input of block 1, depth d the output of block d, including positions that are added there.
    """

    model: Callable[..., Any]
    name: str  # as rows and pages call it
    transform: Transform | None = None  # how its images are read; None: as the data set is
    train_size: Size | None = None  # pixels; None: unknown
    class_names: tuple[str, ...] | None = None  # None: only their number is known
    patch_size: int | None = None  # pixels; None: unknown
    resize_method: str = "as it is"  # how it takes images of sizes that it was not built for
    scale: ScaleRule | None = None  # the object scale of every call; None: the model's own rule
    other_sizes: tuple[Size, ...] = ()  # besides train_size: an error at one size that none of these gives is a refusal
    autocast: torch.dtype | None = (
        None  # of what PyTorch computes in another precision than the weights'; None: nothing
    )

    @classmethod
    def facts_of(cls, model: Any) -> dict[str, Any]:
        """The fields that can be read off a model of this kind."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else iter(())
        return next((parameter.device for parameter in parameters), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's weights, in which it takes images."""
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else iter(())
        return next((each.dtype for each in parameters if each.is_floating_point()), torch.float32)

    @property
    def takes_scale(self) -> bool:
        """Whether the model takes an object scale: our own models, and others with PEGs in them."""
        return hasattr(self.model, "scale_grid")

    def with_scale(self, scale: ScaleRule | None) -> ModelAdapter:
        """This adapter with a scale rule of objects; None: the model's own rule.

        Raises ValueError for a rule that does not exist, and for a model that takes none.
        """
        if scale is None:
            return replace(self, scale=None)
        if not self.takes_scale:
            raise ValueError(
                f"'{self.name}' has no PEG, so it takes no scale ({scale}); leave scale (--scale) out, or add "
                "PEGs by cpvt.retrofit"
            )
        return replace(self, scale=parse_scale(scale))

    def scale_at(self, rule: ScaleRule, size: tuple[int, int]) -> tuple[float, float] | None:
        """The scale along rows and columns that a rule gives at a size (height, width), at least 1.

        None without a scale, or the training size is not known.
        """
        return None if rule == "paper" or self.train_size is None else scale_at(rule, size, sides(self.train_size))

    @contextmanager
    def applying_scale(self) -> Iterator[None]:
        """The model is given the scale inside; afterwards it has its own rule again."""
        model: Any = self.model
        before = model.scale if self.scale is not None else None
        if self.scale is not None:
            model.scale = self.scale
        try:
            yield
        finally:
            if self.scale is not None:
                model.scale = before

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Inference mode, with the model given the scale, under autocast where it is to be."""
        kind = self.device.type
        casting = nullcontext() if self.autocast is None else torch.autocast(kind, self.autocast)
        with self.applying_scale(), torch.inference_mode(), casting:
            yield

    @property
    def parameters(self) -> int:
        """How many parameters the model has."""
        return sum(p.numel() for p in self.model.parameters()) if isinstance(self.model, nn.Module) else 0

    @property
    def channels(self) -> int | None:
        """Channels of the images that the model reads, from its first convolution; None where it has none."""
        layers = self.model.modules() if isinstance(self.model, nn.Module) else iter(())
        return next((layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)), None)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W), in float32 of a model in half precision.

        UnsupportedSizeError where the model refuses their size; any other error of the model is raised as it is.
        """
        found = logits_of(self._call(images))
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"'{self.name}' must give logits of shape ({len(images)}, classes) for images "
                f"{tuple(images.shape)}; got {got}"
            )
        return widen(found)

    def logits_of_list(self, images: list[Tensor]) -> Tensor:
        """Logits (images, classes) of images (C, H_i, W_i), each as if alone."""
        return torch.cat([self.at_size(sides_of(each[None])).logits(each[None]) for each in images])

    def at_size(self, sides: tuple[int, int]) -> ModelAdapter:
        """This adapter, prepared for images of these sides by the model's own method; `resize_method` says which."""
        return self

    def token_maps(self, images: Tensor) -> dict[int, Tensor]:
        """Tokens (B, h, w, D) by depth, without prefix tokens. UnsupportedError where there are no spatial tokens."""
        return {-1: as_map(find_tokens(self._call(images), self.name), sides_of(images), self.patch_size, self.name)}

    def attention(self, images: Tensor, block: int) -> Tensor:
        """Attention between the patches in one block (from 1), (B, heads, N, N). UnsupportedError if unknown."""
        raise UnsupportedError(
            f"how to look at the attention of '{self.name}' ({type(self.model).__name__}) is not known"
        )

    def untrained(self, seed: int = 0) -> ModelAdapter:
        """The same architecture with fresh random weights."""
        return self._with(redraw(self._module("fresh weights"), seed), "untrained")

    def without_positions(self) -> ModelAdapter:
        """The same weights without the positional encoding. UnsupportedError where it is not known how."""
        model = copy.deepcopy(self._module("its encoding off"))
        if any(ROTARY.search(name) for name, _ in model.named_modules()):
            raise UnsupportedError(
                f"'{self.name}' turns its queries and keys by position; how to stop that is not known"
            )
        found = [parameter for name, parameter in model.named_parameters() if POSITIONS.search(name)]
        if not found:
            raise UnsupportedError(f"no positional encoding was found among the parameters of '{self.name}'")
        with torch.no_grad():
            for parameter in found:
                parameter.zero_()
        return self._with(model, "no positions")

    def _with(self, model: nn.Module, what: str) -> ModelAdapter:
        return replace(self, model=model.eval(), name=f"{self.name} ({what})")

    def _module(self, wanted: str) -> nn.Module:
        if not isinstance(self.model, nn.Module):
            raise UnsupportedError(f"'{self.name}' is no nn.Module, so it cannot be had with {wanted}")
        return self.model

    def _call(self, images: Tensor, method: str = "__call__", **options: Any) -> Any:
        """What a method of the model returns for images, which are cast to its dtype.

        Its error is an UnsupportedSizeError that quotes it where the same images run at another size, else its own.
        """
        try:
            return self._run(images, method, **options)
        except torch.OutOfMemoryError:
            raise
        except ERRORS as error:
            if not self._runs_elsewhere(images, method, **options):
                raise
            raise UnsupportedSizeError(error_line(error)) from error

    def _run(self, images: Tensor, method: str, **options: Any) -> Any:
        with self.inference():
            return getattr(self.model, method)(images.to(self.dtype), **options)

    def _runs_elsewhere(self, images: Tensor, method: str, **options: Any) -> bool:
        """Whether the model takes the same images at its training size or another known one."""
        known = {sides(size) for size in (self.train_size, *self.other_sizes) if size is not None}
        for other in known - {sides_of(images)}:
            try:
                self.at_size(other)._run(F.interpolate(images.float(), other), method, **options)
            except ERRORS:
                continue
            return True
        return False


@contextmanager
def kept_modes(model: Any) -> Iterator[None]:
    """Evaluates inside; afterwards every part is in training or evaluation mode as before, also after an error.

    model: a module, or what holds one as its `model`: a Checkpoint, an adapter. The name of a model has no modes.
    """
    module = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    modes = [(part, part.training) for part in module.modules()] if isinstance(module, nn.Module) else []
    if isinstance(module, nn.Module):
        module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def usable(logits: Tensor, name: str) -> Tensor:
    """The logits (images, classes), which give probabilities; UnsupportedSizeError where some are nan or infinite."""
    refuse_unusable(count_unusable(logits), len(logits), name)
    return logits


def count_unusable(logits: Tensor) -> int:
    """Of how many images the logits (images, classes) give no probabilities: they are nan or infinite."""
    return int((~(logits < torch.inf)).any(1).sum())  # -inf is a class of probability 0


def refuse_unusable(count: int, total: int, name: str) -> None:
    """Raise UnsupportedSizeError where the logits of some images give no probabilities."""
    if count:
        raise UnsupportedSizeError(
            f"'{name}' gives logits that are not finite for {count} of {total} images: its weights may be damaged, or "
            "numbers too large for fp16 (bf16 and fp32 hold larger ones)"
        )


def widen(found: Tensor) -> Tensor:
    """A tensor of half precision in float32, in which measurements are made; others as they are."""
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found


def logits_of(output: Any) -> Any:
    """The logits in what a classifier returns: itself, or its attribute or key `logits`."""
    return output["logits"] if isinstance(output, dict) and "logits" in output else getattr(output, "logits", output)


def sides_of(images: Tensor) -> tuple[int, int]:
    """Height and width of images (B, C, H, W)."""
    return images.shape[2], images.shape[3]


def redraw(model: nn.Module, seed: int) -> nn.Module:
    """A copy of a model with fresh random weights.

    Each layer uses its own initialisation. Where it has none: tables and tokens normal (std 0.02), biases 0, scales 1.
    """
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in fresh.modules():
            reset: Any = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            if callable(reset):
                reset()
            else:
                for name, parameter in module.named_parameters(recurse=False):
                    if parameter.ndim > 1:
                        parameter.copy_(torch.randn_like(parameter) * 0.02)
                    else:
                        parameter.fill_(0.0 if "bias" in name else 1.0)
    return fresh
