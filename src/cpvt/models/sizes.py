"""The named sizes and variants of the model, and the configuration behind each name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from cpvt.config import ModelConfig, Size, encoding_name, parse_size, sides, split_options
from cpvt.config.scale import parse_scale

SIZES: dict[str, dict[str, Any]] = {
    "micro": dict(embed_dim=64, depth=4, num_heads=4, patch_size=4, img_size=32, weight_init="xavier"),
    "mini": dict(embed_dim=96, depth=6, num_heads=3, patch_size=4, img_size=32, num_classes=10, weight_init="xavier"),
    "mini_patch8_64": dict(
        embed_dim=96, depth=6, num_heads=3, patch_size=8, img_size=64, num_classes=10, weight_init="xavier"
    ),
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
    for size, fields in SIZES.items():
        config = ModelConfig(**fields)
        shape = f"width {config.embed_dim}, {config.depth} blocks, patch {config.patch_size}"
        for suffix, (options, words) in VARIANTS.items():
            models[f"cpvt_{size}{suffix}"] = (dataclasses.replace(config, **options), f"CPVT, {shape}: {words}")
        if config.patch_size == 16:
            learned = dataclasses.replace(config, encoding="learned")
            models[f"deit_{size}"] = (learned, f"DeiT, {shape}: learned table, class token")
    return models


MODELS = _catalogue()


def model_config(name: str, **options: Any) -> ModelConfig:
    """The configuration behind a name, with options (fields of ModelConfig) in place of its own, also in brackets:
    "cpvt_micro(patch_size=8)"."""
    name, inner = split_options(name)
    options = {**inner, **options}
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"unknown model '{name}'.{hint} Known: {', '.join(MODELS)}")
    known = [field.name for field in dataclasses.fields(ModelConfig)]
    for option in options:
        if option not in known:
            raise ValueError(f"create_model does not take '{option}'; known options: {', '.join(known)}")
    if options.get("encoding") is not None:
        options["encoding"] = encoding_name(options["encoding"])
    if options.get("img_size") is not None:
        options["img_size"] = tidy_size(options["img_size"])
    if options.get("scale") is not None:
        options["scale"] = parse_scale(options["scale"])
    if options.get("scale_grid") is not None:  # a list, where it comes from JSON
        options["scale_grid"] = tuple(options["scale_grid"])
    return dataclasses.replace(MODELS[name][0], **options)


def nearest_name(config: ModelConfig) -> str:
    """The model whose configuration agrees with this one in most fields; the first of several."""
    fields = dataclasses.asdict(config)

    def agreement(name: str) -> int:
        return sum(value == fields[field] for field, value in dataclasses.asdict(MODELS[name][0]).items())

    return max(MODELS, key=agreement)


def tidy_size(size: int | Sequence[int]) -> Size:
    """A size as configurations keep it: one side for a square, else a tuple of height and width."""
    height, width = sides(parse_size(size))  # type: ignore[arg-type]
    return height if height == width else (height, width)
