"""Adapter of the models of Hugging Face's transformers."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpvt.adapters.base import ModelAdapter, sides_of
from cpvt.adapters.errors import UnsupportedError
from cpvt.adapters.processors import transform_of
from cpvt.adapters.token_maps import as_map
from cpvt.adapters.weights import load_weights_file
from cpvt.config import sides
from cpvt.runtime.errors import error_line
from cpvt.runtime.hub import not_fetched, quick_hub

HERE = "a folder that save_pretrained wrote, as in hf:PATH, or a type with random weights, as in hf:vit"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # files that describe one
INTERPOLATE = "interpolate_pos_encoding"


class HuggingFaceAdapter(ModelAdapter):
    """A model of transformers that takes pixel_values."""

    model: Any

    @classmethod
    def facts_of(cls, model: Any) -> dict[str, Any]:
        size, patch = getattr(model.config, "image_size", None), getattr(model.config, "patch_size", None)
        facts: dict[str, Any] = {}
        if isinstance(size, int) or (isinstance(size, (list, tuple)) and len(size) == 2):
            facts["train_size"] = size if isinstance(size, int) else (tuple(size) if size[0] != size[1] else size[0])
        if isinstance(patch, int):
            facts["patch_size"] = patch
        return facts

    def at_size(self, sides_wanted: tuple[int, int]) -> ModelAdapter:
        interpolates = INTERPOLATE in inspect.signature(self.model.forward).parameters
        built = self.facts_of(self.model).get("train_size")
        if not interpolates or (built is not None and sides(built) == sides_wanted):
            return self
        return replace(self, resize_method=INTERPOLATE)

    def token_maps(self, images: Tensor) -> dict[int, Tensor]:
        output = self._call(images, output_hidden_states=True)
        hidden = getattr(output, "reshaped_hidden_states", None) or getattr(output, "hidden_states", None)
        if hidden is None:
            raise UnsupportedError(f"'{self.name}' returns no hidden states")
        return {
            depth: as_map(tokens, sides_of(images), self.patch_size, self.name) for depth, tokens in enumerate(hidden)
        }

    def attention(self, images: Tensor, block: int) -> Tensor:
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")
        try:
            found = getattr(self._call(images, output_attentions=True), "attentions", None)
        finally:
            self.model.set_attn_implementation(before)
        if not found or not 1 <= block <= len(found) or found[block - 1] is None:
            raise UnsupportedError(f"'{self.name}' gives no attention for block {block}")
        weights: Tensor = found[block - 1]
        if len(weights) != len(images):
            raise UnsupportedError(f"'{self.name}' attends within windows, so there is no one map of an image")
        h, w = as_map(weights[:, 0].transpose(1, 2), sides_of(images), self.patch_size, self.name).shape[1:3]
        prefix = weights.shape[-1] - h * w
        return weights[:, :, prefix:, prefix:]

    def _run(self, images: Tensor, method: str, **options: Any) -> Any:
        interpolates = {INTERPOLATE: True} if self.resize_method == INTERPOLATE else {}
        return super()._run(images, method, **interpolates, **options)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ValueError("models of Hugging Face need the package transformers: pip install 'cpvt[hf]'") from error
    return transformers


def _float32(transformers: Any) -> dict[str, Any]:
    """The option that keeps weights in float32, whatever dtype the model's configuration states."""
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if release >= (4, 56) else "torch_dtype": torch.float32}


def open_model(
    model_name: str, options: dict[str, Any], checkpoint: str | Path | None, pretrained: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """A folder that `save_pretrained` wrote, or a name on the hub; with its own normalisation where it has one."""
    transformers = _transformers()
    if checkpoint is not None or not pretrained:
        model = _from_config(model_name, options)
        if checkpoint is not None:
            load_weights_file(model, Path(checkpoint))
        return model, {}
    local = Path(model_name).exists()
    if not local and (model_name.startswith((".", "/", "~")) or model_name.count("/") > 1):
        raise ValueError(f"'{model_name}' is no folder that save_pretrained wrote, and no name on the hub")
    with quick_hub(not local) as reachable:
        try:
            model, loaded = transformers.AutoModelForImageClassification.from_pretrained(
                model_name,
                use_safetensors=True,
                output_loading_info=True,
                **_float32(transformers),
                **_of_config(options),
            )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            if not reachable and isinstance(error, OSError):
                raise not_fetched(f"the weights of 'hf:{model_name}'", HERE) from error
            raise ValueError(
                f"transformers could not open '{model_name}' as a classifier of images: {error_line(error)}"
            ) from error
        facts = _facts_of_processor(transformers, model_name, getattr(model.config, "num_channels", 3))
    if loaded["missing_keys"]:
        missing = ", ".join(sorted(loaded["missing_keys"])[:5])
        raise ValueError(f"'{model_name}' was not saved as a classifier: it has no weights for {missing}")
    pegs = sorted(name for name in loaded["unexpected_keys"] if ".peg." in f".{name}")
    if pegs:
        raise ValueError(
            f"'{model_name}' holds PEGs of a retrofitted model ({pegs[0]}, ...), which transformers leaves out: load "
            "its weights into cpvt.retrofit(model, ...) and test that (docs/retrofit.md, Saving and loading)"
        )
    return _prepared(model, options), facts


def _facts_of_processor(transformers: Any, model_name: str, channels: int) -> dict[str, Any]:
    """The transform that the model's own image processor amounts to; nothing where a model has no processor."""
    folder = Path(model_name)
    if folder.exists() and not any((folder / name).exists() for name in PROCESSORS):
        return {}
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(model_name)
    except (OSError, ValueError, ImportError) as error:
        if not folder.exists() and isinstance(error, OSError):  # none on the hub
            return {}
        raise ValueError(
            f"transformers could not open the image processor of '{model_name}': {error_line(error)}"
        ) from error
    try:
        return {"transform": transform_of(processor, channels)}
    except (ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"'{model_name}' wants its images from {type(processor).__name__}, which cpvt cannot imitate: {error}. "
            "A copy of its folder without preprocessor_config.json is read as --mean, --std and --crop-pct say"
        ) from error


def build(model_name: str, options: dict[str, Any], num_classes: int, size: int | None, in_chans: int) -> nn.Module:
    """A fresh model of a type of transformers, such as "vit" or "dinov2", or of the configuration in a folder."""
    defaults = {"num_labels": num_classes, "num_channels": in_chans}
    if size is not None:
        defaults["image_size"] = size
    return _from_config(model_name, {**defaults, **options})


def _from_config(model_name: str, options: dict[str, Any]) -> nn.Module:
    transformers = _transformers()
    local = os.path.isdir(model_name)
    named = "/" in model_name or local
    with quick_hub(named and not local) as reachable:
        try:
            automatic = transformers.AutoConfig
            config = (automatic.from_pretrained if named else automatic.for_model)(model_name, **_of_config(options))
            config.architectures = config.architectures or []  # some models iterate over it
            model: nn.Module = transformers.AutoModelForImageClassification.from_config(
                config, **_float32(transformers)
            )
        except (OSError, ValueError, TypeError) as error:
            if not reachable and isinstance(error, OSError):
                raise not_fetched(f"the configuration of 'hf:{model_name}'", HERE) from error
            raise ValueError(
                f"transformers could not make '{model_name}' with {options}: {error_line(error)[:300]}"
            ) from error
    return _prepared(model, options)


def _of_config(options: dict[str, Any]) -> dict[str, Any]:
    """The options that are of a model's configuration: all but that of its calls."""
    return {name: value for name, value in options.items() if name != INTERPOLATE}


def _prepared(model: nn.Module, options: dict[str, Any]) -> nn.Module:
    """The model; with interpolate_pos_encoding=True, every call fits its positions to the image, in training too."""
    if options.get(INTERPOLATE):
        if INTERPOLATE not in inspect.signature(model.forward).parameters:
            raise ValueError(f"{type(model).__name__} of transformers has no option {INTERPOLATE}")
        model.register_forward_pre_hook(_interpolate, with_kwargs=True)
    return model


def _interpolate(model: nn.Module, images: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
    return images, {INTERPOLATE: True, **options}
