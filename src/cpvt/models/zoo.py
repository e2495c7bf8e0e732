"""Names of models and what they mean."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from cpvt.config import ModelConfig
from cpvt.models.vit import VisionTransformer

SIZES: dict[str, dict[str, Any]] = {
    "micro": dict(embed_dim=64, depth=4, num_heads=4, patch_size=4, img_size=32, weight_init="xavier"),
    "tiny": dict(embed_dim=192, depth=12, num_heads=3),
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
}
VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    "": (dict(encoding="peg"), "one PEG after block 1, class token"),
    "_gap": (dict(encoding="peg", global_pool="avg"), "one PEG after block 1, mean of the tokens"),
    "_peg5": (dict(encoding="peg5"), "PEGs after blocks 1 to 5, class token"),
    "_peg5_gap": (dict(encoding="peg5", global_pool="avg"), "PEGs after blocks 1 to 5, mean of the tokens"),
}


def _catalogue() -> dict[str, tuple[ModelConfig, str]]:
    models = {}
    for size, sides in SIZES.items():
        config = ModelConfig(**sides)
        shape = f"width {config.embed_dim}, {config.depth} blocks, patch {config.patch_size}"
        for suffix, (options, words) in VARIANTS.items():
            models[f"cpvt_{size}{suffix}"] = (dataclasses.replace(config, **options), f"CPVT, {shape}: {words}")
        if size != "micro":
            learned = dataclasses.replace(config, encoding="learned")
            models[f"deit_{size}"] = (learned, f"DeiT, {shape}: learned table, class token")
    return models


MODELS = _catalogue()


def describe_models() -> dict[str, str]:
    """Name -> one line on each model that `create_model` knows."""
    return {name: words for name, (_, words) in MODELS.items()}


def model_config(name: str, **options: Any) -> ModelConfig:
    """The configuration behind a name, with options (fields of ModelConfig) in place of its own."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"unknown model '{name}'.{hint} Known: {', '.join(MODELS)}")
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    for option in options:
        if option not in known:
            raise ValueError(f"create_model does not take '{option}'; known options: {', '.join(known)}")
    return dataclasses.replace(MODELS[name][0], **options)


def create_model(name: str, **options: Any) -> VisionTransformer:
    """Build a fresh model by name, such as "cpvt_small_gap"; it takes pictures of any size.

    options: any field of ModelConfig, with timm's names: num_classes=1000, in_chans=3, img_size (the training size),
    encoding="learned+peg", global_pool="token" or "avg", drop_path_rate, ... Raises ValueError for a name or an
    option that does not exist, listing those that do.
    """
    return VisionTransformer(model_config(name, **options))
