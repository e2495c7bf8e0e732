"""Adapter of timm's models, and of models with timm's interface."""

from __future__ import annotations

import copy
import difflib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cpvt.adapters.base import ModelAdapter
from cpvt.adapters.errors import UnsupportedError, UnsupportedSizeError
from cpvt.adapters.weights import load_weights_file
from cpvt.config import sides
from cpvt.data import Transform
from cpvt.runtime.errors import error_line
from cpvt.runtime.hub import ALTERNATIVES, not_fetched, quick_hub


class TimmAdapter(ModelAdapter):
    """A model of timm, or with its interface."""

    model: Any

    @classmethod
    def facts_of(cls, model: Any) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if getattr(model, "pretrained_cfg", None):
            from timm.data import resolve_model_data_config

            found = resolve_model_data_config(model)
            mean, std = tuple(found["mean"]), tuple(found["std"])
            if getattr(model, "in_chans", 3) == 1 and len(mean) == 3:  # timm keeps those of the colours
                mean, std = (sum(mean) / 3,), (sum(std) / 3,)
            facts["transform"] = Transform(
                mean, std, min(1.0, found["crop_pct"]), found["interpolation"], crop_mode=found["crop_mode"]
            )
            facts["train_size"] = _size(found["input_size"][1:])
        embedding: Any = getattr(model, "patch_embed", None)
        if getattr(embedding, "img_size", None) is not None:
            facts["train_size"] = _size(embedding.img_size)
        stride = getattr(getattr(embedding, "proj", None), "stride", None)
        if stride is not None:
            facts["patch_size"] = max(stride)
        return facts

    def at_size(self, sides: tuple[int, int]) -> ModelAdapter:
        model = self.model
        if getattr(model, "dynamic_img_size", False):
            return replace(self, resize_method="dynamic_img_size")
        if not hasattr(model, "set_input_size") or self._is_built_for(sides):
            return self
        changed = copy.deepcopy(model)
        try:
            changed.set_input_size(sides)
        except (AssertionError, ValueError, RuntimeError, TypeError) as error:
            raise UnsupportedSizeError(f"set_input_size: {error_line(error)}") from error
        return replace(self, model=changed.eval(), resize_method="set_input_size")

    def _is_built_for(self, wanted: tuple[int, int]) -> bool:
        built = self.facts_of(self.model).get("train_size")
        return built is not None and sides(built) == wanted

    def token_maps(self, images: Tensor) -> dict[int, Tensor]:
        if not hasattr(self.model, "forward_intermediates"):
            return super().token_maps(images)
        blocks, received = getattr(self.model, "blocks", None), []
        handle = None
        if isinstance(blocks, (nn.ModuleList, nn.Sequential)) and len(blocks):
            handle = blocks[0].register_forward_pre_hook(lambda block, inputs: received.append(inputs[0]))
        try:
            found = self._call(images, "forward_intermediates", intermediates_only=True, output_fmt="NCHW")
        finally:
            if handle is not None:
                handle.remove()
        maps = {depth: tokens.permute(0, 2, 3, 1) for depth, tokens in enumerate(found, start=1)}
        if received and received[0].ndim == 3:
            h, w = maps[1].shape[1:3]
            maps[0] = received[0][:, received[0].shape[1] - h * w :].unflatten(1, (h, w))
        return dict(sorted(maps.items()))

    def attention(self, images: Tensor, block: int) -> Tensor:
        layer = _attention_of(self.model, block, self.name)
        grids: list[Tensor] = []
        fused, layer.fused_attn = layer.fused_attn, False
        handle = layer.attn_drop.register_forward_pre_hook(lambda module, inputs: grids.append(inputs[0]))
        try:
            self._call(images)
        finally:
            layer.fused_attn = fused
            handle.remove()
        prefix = getattr(self.model, "num_prefix_tokens", 0)
        return grids[0][:, :, prefix:, prefix:]


def _attention_of(model: Any, block: int, name: str) -> Any:
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)) or not 1 <= block <= len(blocks):
        raise UnsupportedError(f"'{name}' has no block {block} in `blocks` whose attention could be looked at")
    layer: Any = getattr(blocks[block - 1], "attn", None)
    if not hasattr(layer, "fused_attn") or not hasattr(layer, "attn_drop"):
        raise UnsupportedError(f"block {block} of '{name}' has no attention of timm's kind (fused_attn, attn_drop)")
    return layer


def _size(wanted: Any) -> int | tuple[int, int]:
    height, width = wanted if isinstance(wanted, (tuple, list)) else (wanted, wanted)
    return height if height == width else (height, width)


def open_model(
    model_name: str, options: dict[str, Any], checkpoint: str | Path | None, pretrained: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """A model by timm's name, with timm's published weights or those of a file."""
    model = _create(model_name, pretrained=pretrained and checkpoint is None, **options)
    if checkpoint is not None:
        load_weights_file(model, Path(checkpoint))
    return model, {}


def build(model_name: str, options: dict[str, Any], num_classes: int, size: int | None, in_chans: int) -> nn.Module:
    """A fresh model by timm's name; `size` is asked for where the architecture has a size."""
    options = {"num_classes": num_classes, "in_chans": in_chans, **options}
    if size is None or "img_size" in options:
        return _create(model_name, pretrained=False, **options)
    try:
        return _create(model_name, pretrained=False, **{**options, "img_size": size})
    except ValueError as error:
        if "img_size" not in str(error):
            raise
    return _create(model_name, pretrained=False, **options)


def _create(model_name: str, pretrained: bool, **options: Any) -> nn.Module:
    import timm

    if not model_name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) and not timm.is_model(
        model_name.partition(".")[0]
    ):
        near = difflib.get_close_matches(model_name, timm.list_models(), n=5, cutoff=0.5)
        hint = f"; near ones: {', '.join(near)}" if near else ""
        raise ValueError(f"timm {timm.__version__} knows no model '{model_name}'{hint}")
    of_hub = model_name.startswith(("hf-hub:", "hf_hub:"))
    with quick_hub(pretrained or of_hub) as reachable, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return timm.create_model(model_name, pretrained=pretrained, **options)
        except (TypeError, RuntimeError, OSError, AssertionError) as error:
            if not reachable and isinstance(error, OSError):
                raise not_fetched(f"the weights of 'timm:{model_name}'", ALTERNATIVES) from error
            what, hint = ("its published weights", f"; pass {ALTERNATIVES}") if pretrained else ("these options", "")
            raise ValueError(f"timm could not make '{model_name}' with {what}: {error_line(error)}{hint}") from error
