"""Names of models and what they mean, to us and to timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model

from cpvt.config import split_options
from cpvt.models.hub import check_hub_encoding
from cpvt.models.pretrained import describe_shipped, shipped_names, shipped_scale
from cpvt.models.sizes import MODELS, model_config
from cpvt.models.timm_interface import describe_to_timm
from cpvt.models.vit import VisionTransformer
from cpvt.runtime.hub import PREFIX


def describe_models() -> dict[str, str]:
    """Name -> one line on each model that `create_model` knows."""
    shipped = shipped_names()
    return {name: words + ("; weights come with it" if name in shipped else "") for name, (_, words) in MODELS.items()}


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> VisionTransformer:
    """Build a model by name, such as "cpvt_small_gap"; it takes images of any size.

    pretrained: load the weights that come with the package for some names (`cpvt list` says which). For another number
    of classes the head is reinitialised. Otherwise all weights are random.
    options: any field of ModelConfig, with timm's names: num_classes=1000, in_chans=3, img_size (the training size),
    encoding="learned+peg" (or a class of your own), global_pool="token" or "avg", drop_path_rate, ...
    `timm.create_model` builds the same and also takes timm's own options, such as features_only=True.
    Raises ValueError for an unknown name or option, or a name without weights (the known ones are listed), and for
    options that the weights do not fit.
    """
    model_config(name, **options)  # complains
    name, inner = split_options(name)
    if pretrained and name not in shipped_names():
        known = ", ".join(shipped_names()) or "no model"
        raise ValueError(
            f"no weights of '{name}' come with the package, only of {known}; leave pretrained out to train it"
        )
    model: VisionTransformer = _build(name, pretrained, device=device, dtype=dtype, **{**inner, **options})
    return model


def _build(name: str, pretrained: bool = False, **options: Any) -> Any:
    """What timm calls: a model with timm's metadata, pretrained or features-only if asked."""

    def construct(*, device: Any = None, dtype: Any = None, **fields: Any) -> VisionTransformer:
        return VisionTransformer(model_config(name, **fields), device, dtype, _own_encoding(fields))

    _check_source(options)
    config = MODELS[name][0]
    if options.get("distilled"):  # two heads to skip where the weights have other classes
        heads = {"classifier": ("head", "head_dist")}
        options["pretrained_cfg_overlay"] = {**heads, **(options.get("pretrained_cfg_overlay") or {})}
    resize: dict[str, Any] = {}
    if pretrained:  # build for the weights' own size and prefix, and change them afterwards
        overlay = options.get("pretrained_cfg_overlay") or {}
        size = {"img_size": overlay["input_size"][1:]} if overlay.get("input_size") else {}
        source = model_config(name, **{**size, **options.get("pretrained_model_args", {})})
        wanted = model_config(name, **{key: options[key] for key in ("img_size", "patch_size") if key in options})
        if (wanted.img_size, wanted.patch_size) != (source.img_size, source.patch_size):
            resize = {"img_size": wanted.img_size, "patch_size": wanted.patch_size}
        options |= {"img_size": source.img_size, "patch_size": source.patch_size}
        options.setdefault("class_token", source.has_class_token)
        if name in shipped_names():
            options.setdefault("scale", shipped_scale(name))
    depth = options.get("depth", config.depth)
    features = {"out_indices": min(3, depth), "feature_cls": "getter"}  # the last three blocks, as timm's ViTs
    model = build_model_with_cfg(
        construct, name, pretrained, feature_cfg=features, pretrained_filter_fn=_check_weights, **options
    )
    if resize:
        getattr(model, "model", model).set_input_size(**resize)
    return model


def _check_source(options: dict[str, Any]) -> None:
    """Raise ValueError where a file of the hub, and not the caller, names an encoding from outside the package."""
    source, encoding = options.get("pretrained_cfg"), options.get("encoding")
    held = options.get("pretrained_model_args", options).get("encoding")
    if isinstance(source, dict) and source.get("source") == "hf-hub" and isinstance(held, str) and held == encoding:
        check_hub_encoding(held, f"{PREFIX}{source.get('hf_hub_id')}")


def _own_encoding(options: dict[str, Any]) -> Any:
    """A class or an instance that the caller gave; None for a name, which the configuration holds."""
    given = options.get("encoding")
    return None if isinstance(given, str) else given


def _check_weights(state: dict[str, torch.Tensor], model: VisionTransformer) -> dict[str, torch.Tensor]:
    """The weights, unchanged; ValueError where names or shapes outside the heads differ, which timm partly ignores."""
    apart = ("head.", "head_dist.", "patch_embed.proj.weight")  # timm fits these to classes and channels
    wanted = {name: each.shape for name, each in model.state_dict().items() if not name.startswith(apart)}
    held = {name: each.shape for name, each in state.items() if not name.startswith(apart)}
    if wanted != held:
        missing, extra = sorted(wanted.keys() - held.keys()), sorted(held.keys() - wanted.keys())
        other = [name for name in wanted if name in held and wanted[name] != held[name]][:3]
        raise ValueError(
            f"the weights are of another model: missing {missing or 'nothing'}, not expected {extra or 'nothing'}, "
            f"of another shape (the first three) {other or 'nothing'}. Give the encoding, depth, width and pooling "
            "they were trained with"
        )
    return state


def _entry_point(name: str) -> Callable[..., Any]:
    def build(pretrained: bool = False, **options: Any) -> Any:
        return _build(name, pretrained, **options)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = MODELS[name][1]
    return build


default_cfgs = generate_default_cfgs(  # timm looks for this name
    {
        name: describe_to_timm(config) | (describe_shipped(name) if name in shipped_names() else {})
        for name, (config, _) in MODELS.items()
    }
)


def register() -> None:
    """Make our names known to timm, which keeps those it has."""
    for name in MODELS:
        if not is_model(name):
            register_model(_entry_point(name))


register()
