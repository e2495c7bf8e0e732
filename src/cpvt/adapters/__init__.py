"""Adapts any vision model to one small interface: ours, timm's, Hugging Face's, torchvision's, or a bare module."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from cpvt.adapters.base import ModelAdapter, logits_of
from cpvt.adapters.errors import CpvtError, UnsupportedError, UnsupportedSizeError
from cpvt.config import split_options

__all__ = [
    "RANDOM", "TABLE", "CpvtError", "Library", "ModelAdapter", "UnsupportedError", "UnsupportedSizeError",
    "adapter_of", "build", "describe", "is_external", "logits_of", "open_adapter", "prefixes",
]  # fmt: skip


class Library(NamedTuple):
    """Where the package keeps what it knows of a library's models; the module is imported when it is needed."""

    package: str
    """Its classes' modules begin so: a model at hand is recognised by it."""
    module: str
    """Ours, with `open_model` (a model by name and what is known of it) and `build` (one with random weights)."""
    adapter: str
    """The subclass of ModelAdapter there."""
    several_sizes: tuple[str, ...] = ()
    """Options of constructors with which some of its models take images of several sizes in training."""

    def load(self) -> Any:
        """The module."""
        return import_module(self.module)


RANDOM = "random"  # in place of a file with weights
OWN = Library("cpvt.models", "cpvt.adapters.own", "OwnAdapter")
TABLE = {  # the prefix of names, as in timm:vit_small_patch16_224 -> its library
    "timm": Library(
        "timm", "cpvt.adapters.timm_models", "TimmAdapter", ("dynamic_img_size=True", "strict_img_size=False")
    ),
    "hf": Library(
        "transformers", "cpvt.adapters.hugging_face", "HuggingFaceAdapter", ("interpolate_pos_encoding=True",)
    ),
    "torchvision": Library("torchvision", "cpvt.adapters.torchvision_models", "TorchvisionAdapter"),
}


def prefixes() -> str:
    """The prefixes of other libraries' models, for messages: "timm:, hf: or torchvision:"."""
    *others, last = (f"{prefix}:" for prefix in TABLE)
    return f"{', '.join(others)} or {last}"


def is_external(name: str) -> bool:
    """Whether a name is of another library's model, such as "timm:vit_small_patch16_224"."""
    return name.partition(":")[0] in TABLE and ":" in name


def open_adapter(name: str, checkpoint: str | Path | None = None, pretrained: bool = True) -> ModelAdapter:
    """A model by library and name, ready to be measured: "timm:NAME", "hf:PATH_OR_NAME", "torchvision:NAME".

    Options of the library's own constructor go in brackets: "timm:vit_tiny_patch16_224(dynamic_img_size=True)".
    checkpoint: a file with weights (.safetensors, or .pth without pickled code), or "random". Without one the model has
    the weights that the library publishes, or random ones with `pretrained=False`, also in the brackets. Raises
    ValueError for a name that the library does not know (close ones are listed), for weights that do not fit, are
    missing or cannot be fetched, and where the library is not installed.
    """
    library, rest, options = _split(name)
    pretrained &= options.pop("pretrained", True)
    if str(checkpoint) == RANDOM and not Path(RANDOM).exists():
        checkpoint, pretrained = None, False
    model, facts = TABLE[library].load().open_model(rest, options, checkpoint, pretrained)
    return adapter_of(model.eval(), name, **facts)


def build(name: str, num_classes: int, size: int | None = None, in_chans: int = 3) -> nn.Module:
    """A model of another library with random weights; `size` is its training size, where the architecture has one."""
    library, rest, options = _split(name)
    options.pop("pretrained", None)
    model: nn.Module = TABLE[library].load().build(rest, options, num_classes, size, in_chans)
    return model


def describe(name: str, num_classes: int = 1000, in_chans: int = 3) -> ModelAdapter:
    """What another library says of a model by name (training size, normalisation, patch); its weights are random."""
    return adapter_of(build(name, num_classes, None, in_chans).eval(), name)


def adapter_of(model: Callable[..., Any], name: str | None = None, **facts: Any) -> ModelAdapter:
    """A model already at hand, in the mode it is in; `facts` are the fields of ModelAdapter, where they are known."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    library = next((each for each in (OWN, *TABLE.values()) if _is_from(model, each.package)), None)
    kind: type[ModelAdapter] = getattr(library.load(), library.adapter) if library else ModelAdapter
    return kind(model, name or type(model).__name__, **{**kind.facts_of(model), **facts})


def _is_from(model: Callable[..., Any], package: str) -> bool:
    return any(f"{each.__module__}.".startswith(f"{package}.") for each in type(model).__mro__)


def _split(name: str) -> tuple[str, str, dict[str, Any]]:
    """("timm", "vit_tiny", {"depth": 4}) from "timm:vit_tiny(depth=4)"."""
    library, _, rest = name.partition(":")
    if library not in TABLE or not rest:
        near = difflib.get_close_matches(library, TABLE, n=1)
        hint = f" Did you mean {near[0]}:{rest}?" if near else ""
        raise ValueError(f"a model is a run's folder or {', '.join(f'{m}:NAME' for m in TABLE)}; got '{name}'.{hint}")
    if not rest.endswith(")") or Path(rest).exists():
        return library, rest, {}
    rest, options = split_options(rest)
    if refused := sorted({"dtype", "torch_dtype"} & options.keys()):
        raise ValueError(
            f"weights are always float32, so '{name}' takes no {refused[0]}; --precision bf16 trains faster"
        )
    return library, rest, options
