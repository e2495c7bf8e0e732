"""Adapter of torchvision's models."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any
from urllib.error import URLError

from torch import Tensor, nn

from cpvt.adapters.base import ModelAdapter, sides_of
from cpvt.adapters.errors import UnsupportedError
from cpvt.adapters.token_maps import as_map
from cpvt.adapters.weights import load_weights_file
from cpvt.data import Transform
from cpvt.runtime.errors import error_line
from cpvt.runtime.hub import ALTERNATIVES


class TorchvisionAdapter(ModelAdapter):
    """A model of torchvision: every depth and attention map of a vision transformer, the last features of others."""

    model: Any

    @classmethod
    def facts_of(cls, model: Any) -> dict[str, Any]:
        if not hasattr(model, "image_size"):
            return {}
        return {"train_size": model.image_size, "patch_size": model.patch_size}

    def token_maps(self, images: Tensor) -> dict[int, Tensor]:
        layers = self._layers()
        if layers is None:
            return self._last_features(images)
        found: list[Tensor] = []
        handles = [layers[0].register_forward_pre_hook(lambda layer, inputs: found.append(inputs[0]))]
        handles += [layer.register_forward_hook(lambda layer, inputs, output: found.append(output)) for layer in layers]
        try:
            self._call(images)
        finally:
            for handle in handles:
                handle.remove()
        sides = sides_of(images)
        return {depth: as_map(x, sides, self.patch_size, self.name) for depth, x in enumerate(found)}

    def attention(self, images: Tensor, block: int) -> Tensor:
        layers = self._layers()
        if layers is None or not 1 <= block <= len(layers):
            raise UnsupportedError(
                f"'{self.name}' has no block {block} in `encoder.layers` whose attention could be looked at"
            )
        received: list[Tensor] = []
        attention = layers[block - 1].self_attention
        handle = attention.register_forward_pre_hook(lambda layer, inputs: received.append(inputs[0]))
        try:
            self._call(images)
        finally:
            handle.remove()
        with self.inference():
            weights: Tensor = attention(received[0], received[0], received[0], average_attn_weights=False)[1]
        return weights[:, :, 1:, 1:]  # the class token stands first

    def _layers(self) -> Any:
        return getattr(getattr(self.model, "encoder", None), "layers", None)

    def _last_features(self, images: Tensor) -> dict[int, Tensor]:
        stages = getattr(self.model, "features", None) or getattr(self.model, "layer4", None)
        if stages is None:
            return super().token_maps(images)
        found: list[Tensor] = []
        handle = stages.register_forward_hook(lambda layer, inputs, output: found.append(output))
        try:
            self._call(images)
        finally:
            handle.remove()
        return {-1: as_map(found[0], sides_of(images), self.patch_size, self.name)}


def open_model(
    model_name: str, options: dict[str, Any], checkpoint: str | Path | None, pretrained: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """A model by torchvision's name, with its published weights (the DEFAULT ones) or those of a file."""
    named = options.pop("weights", "DEFAULT")
    model = _create(model_name, named if pretrained and checkpoint is None else None, options)
    if checkpoint is not None:
        load_weights_file(model, Path(checkpoint))
    return model, _published(model_name, named)


def _published(model_name: str, named: str | None) -> dict[str, Any]:
    """How images are read for the published weights of a name, and at which size."""
    import torchvision

    weights = torchvision.models.get_model_weights(model_name)
    transform = getattr(weights, named or "DEFAULT", next(iter(weights))).transforms()
    crop, resize = transform.crop_size[0], transform.resize_size[0]
    how = Transform(tuple(transform.mean), tuple(transform.std), min(1.0, crop / resize), transform.interpolation.value)
    return {"transform": how} if model_name.startswith("vit_") else {"transform": how, "train_size": crop}


def build(model_name: str, options: dict[str, Any], num_classes: int, size: int | None, in_chans: int) -> nn.Module:
    """A fresh model by torchvision's name; `size` is asked for where the architecture has a size."""
    import torchvision

    if in_chans != 3:
        raise ValueError(f"torchvision's models read 3 channels; these images have {in_chans}")
    options = {"num_classes": num_classes, **options}
    options.pop("weights", None)
    if size is not None and model_name in torchvision.models.list_models():
        taken = inspect.signature(torchvision.models.get_model_builder(model_name)).parameters
        if "image_size" in taken or model_name.startswith("vit_"):
            options = {"image_size": size, **options}
    return _create(model_name, None, options)


def _create(model_name: str, weights: str | None, options: dict[str, Any]) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if model_name not in known:
        near = difflib.get_close_matches(model_name, known, n=5, cutoff=0.5)
        hint = f"; near ones: {', '.join(near)}" if near else ""
        raise ValueError(f"torchvision {torchvision.__version__} knows no classifier '{model_name}'{hint}")
    try:
        model: nn.Module = torchvision.models.get_model(model_name, weights=weights, **options)
    except (KeyError, OSError, TypeError, ValueError) as error:
        if weights and isinstance(error, URLError):
            raise ValueError(
                f"the weights of 'torchvision:{model_name}' could not be fetched ({error.reason}); connect, or pass "
                f"{ALTERNATIVES}"
            ) from error
        what = f"its published weights, or pass {ALTERNATIVES}" if weights else f"the options {options}"
        raise ValueError(f"torchvision could not make '{model_name}' with {what}: {error_line(error)}") from error
    return model
