"""Whatever is to be measured: any vision model, of any library, seen through one small interface."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from cpvt.config import split_options
from cpvt.models import VisionTransformer
from cpvt.adapters import hugging_face, timm_models, torchvision_models
from cpvt.adapters.base import UnsupportedSizeError, ModelAdapter, logits_of
from cpvt.adapters.token_maps import UnsupportedError
from cpvt.adapters.own import OwnAdapter

__all__ = [
    "LIBRARIES",
    "UnsupportedError",
    "UnsupportedSizeError",
    "ModelAdapter",
    "build",
    "describe",
    "is_external",
    "logits_of",
    "open_adapter",
    "adapter_of",
]

LIBRARIES = {  # prefix -> the module that knows that library's models
    "timm": timm_models,
    "hf": hugging_face,
    "torchvision": torchvision_models,
}


def is_external(name: str) -> bool:
    """Whether a name is of another library's model, such as "timm:vit_small_patch16_224"."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def open_adapter(name: str, checkpoint: str | Path | None = None, pretrained: bool = True) -> ModelAdapter:
    """A model by library and name, ready to be measured: "timm:NAME", "hf:PATH_OR_NAME", "torchvision:NAME".

    Options of the library's own constructor go in brackets: "timm:vit_tiny_patch16_224(dynamic_img_size=True)".
    checkpoint: a file with weights (.safetensors, or .pth without pickled code); without one the library's own
    published weights, or with `pretrained=False` none. Raises ValueError for a name that the library does not know (near
    ones are listed), for weights that do not fit or cannot be had, and where the library is not installed.
    """
    library, rest, options = _split(name)
    adapter: ModelAdapter = LIBRARIES[library].open_adapter(name, rest, options, checkpoint, pretrained)
    return adapter


def build(name: str, num_classes: int, size: int | None = None, in_chans: int = 3) -> nn.Module:
    """A fresh model of another library, with random weights, for so many classes and, where it asks, that training size."""
    library, rest, options = _split(name)
    model: nn.Module = LIBRARIES[library].build(rest, options, num_classes, size, in_chans)
    return model


def describe(name: str, num_classes: int = 1000, in_chans: int = 3) -> ModelAdapter:
    """What another library says of a model by name (training size, normalisation, patch); its weights are random."""
    return adapter_of(build(name, num_classes, None, in_chans), name)


def adapter_of(model: Callable[..., Any], name: str | None = None, **facts: Any) -> ModelAdapter:
    """A model already at hand, ready to be measured; `facts` are the fields of ModelAdapter, where they are known."""
    kinds: list[tuple[bool, type[ModelAdapter]]] = [
        (isinstance(model, VisionTransformer), OwnAdapter),
        (_is_from(model, "timm."), timm_models.TimmAdapter),
        (_is_from(model, "transformers."), hugging_face.HuggingFaceAdapter),
        (_is_from(model, "torchvision."), torchvision_models.TorchvisionAdapter),
    ]
    kind = next((kind for holds, kind in kinds if holds), ModelAdapter)
    if isinstance(model, nn.Module):
        model.eval()
    return kind(model, name or type(model).__name__, **{**kind.facts_of(model), **facts})


def _is_from(model: Callable[..., Any], package: str) -> bool:
    return any(each.__module__.startswith(package) for each in type(model).__mro__)


def _split(name: str) -> tuple[str, str, dict[str, Any]]:
    """("timm", "vit_tiny", {"depth": 4}) from "timm:vit_tiny(depth=4)"."""
    library, _, rest = name.partition(":")
    if library not in LIBRARIES or not rest:
        near = difflib.get_close_matches(library, LIBRARIES, n=1)
        hint = f" Did you mean {near[0]}:{rest}?" if near else ""
        raise ValueError(f"a model is a run's folder or {', '.join(f'{m}:NAME' for m in LIBRARIES)}; got '{name}'.{hint}")
    if not rest.endswith(")") or Path(rest).exists():
        return library, rest, {}
    return (library, *split_options(rest))
