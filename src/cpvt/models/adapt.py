"""Adapts a trained model to another training size, other classes, further PEGs, or distillation."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from torch import Tensor

from cpvt.config import ModelConfig
from cpvt.encodings import parse_encoding
from cpvt.encodings.text import split_encoding, write_term
from cpvt.grids import Grid
from cpvt.models.timm_interface import PREFIX, head_names
from cpvt.models.vit import VisionTransformer

# fields that may differ from those of the given model; class_token is compared by its effect
FREE = (
    "img_size",
    "num_classes",
    "drop_rate",
    "drop_path_rate",
    "weight_init",
    "distilled",
    "class_token",
    "encoding",
    "scale",
    "attn_temperature",
    "scale_grid",
)


def adapt_model(
    model: VisionTransformer, wanted: ModelConfig, same_classes: bool = True
) -> tuple[VisionTransformer, list[str]]:
    """A new model as wanted with the weights of the given one, and messages about what changed.

    The given model is consumed. A new training size changes no logits at that size (see `set_input_size`), so the new
    model's `config` may write the encoding differently. Heads are reinitialised where the number of classes differs, or
    with `same_classes=False` the classes themselves. A new distillation token starts as the class token, its head as
    the head. PEGs that the encoding wanted has at its end, and the model has not, start at zero: they change no answer.
    Raises ValueError that lists what else differs.
    """
    words, pegs = list[str](), _new_pegs(model.config.encoding, wanted.encoding, model.grid)
    _refuse_other(model, wanted, same_encoding=bool(pegs))
    if wanted.img_size != model.config.img_size:
        before = model.config
        model.set_input_size(wanted.img_size)
        moved = "" if model.config.encoding == before.encoding else f", encoding now {model.config.encoding}"
        words.append(f"training size {before.img_size} -> {wanted.img_size}{moved}")
    for name in ("scale", "attn_temperature"):
        if getattr(wanted, name) != getattr(model.config, name):
            words.append(f"{name} {getattr(model.config, name)} -> {getattr(wanted, name)}")
    if wanted.num_classes != model.num_classes or not same_classes:
        why = (
            "other classes"
            if wanted.num_classes == model.num_classes
            else f"{model.num_classes} classes -> {wanted.num_classes}"
        )
        words.append(f"{why}: the head starts afresh")
        model.reset_classifier(wanted.num_classes)
    state = model.state_dict()
    if wanted.distilled and not model.config.distilled:
        words.append("a head for the teacher's answers was added; it starts as a copy of the other")
        state |= _second_head(model)
    elif model.config.distilled and not wanted.distilled:
        words.append("the head for the teacher's answers was left behind; answers are other ones without it")
        state = {name: tensor for name, tensor in state.items() if not name.startswith(("dist_token", "head_dist."))}
    taken = ("drop_rate", "drop_path_rate", "weight_init", "distilled", "scale", "attn_temperature")
    config = replace(model.config, **{name: getattr(wanted, name) for name in taken})
    if pegs:
        words.append(f"added {'+'.join(pegs)}, which starts at zero")
        config, state = _beside_pegs(config, state, pegs)
    continued = VisionTransformer(config)
    if pegs:
        state = {name: torch.zeros_like(tensor) for name, tensor in continued.state_dict().items()} | state
    continued.load_state_dict(state)
    return continued, words


def _second_head(model: VisionTransformer) -> dict[str, Tensor]:
    """The distillation token and head, as copies of the class token and head."""
    state = model.state_dict()
    found = {PREFIX[1]: state[PREFIX[0]].clone()} if model.num_prefix_tokens else {}
    first, second = head_names(replace(model.config, distilled=True))
    parts = model.get_submodule(first).state_dict()
    return found | {f"{second}.{name}": tensor.clone() for name, tensor in parts.items()}


def _refuse_other(model: VisionTransformer, wanted: ModelConfig, same_encoding: bool) -> None:
    """Raise ValueError where blocks of two models differ, or their encoding, unless that is known to be fine."""
    before, after = asdict(model.config), asdict(wanted)
    changed = [
        f"{name}: {before[name]} -> {after[name]}"
        for name in before
        if name not in FREE and before[name] != after[name]
    ]
    if wanted.has_class_token != model.config.has_class_token:
        changed.append(f"class_token: {model.config.has_class_token} -> {wanted.has_class_token}")
    if not same_encoding and not _same_encoding(model.config.encoding, wanted.encoding, model.grid):
        changed.append(f"encoding: {model.config.encoding} -> {wanted.encoding}")
    if changed:
        raise ValueError(
            "a model is trained on as it is, or with PEGs more; the one to start from differs in "
            f"{', '.join(changed)}. Ask for the same, or start from a file of weights that fit"
        )


def _new_pegs(before: str, after: str, grid: Grid) -> list[str]:
    """The PEGs by which the second encoding is the first and more, as its terms; none where it is another."""
    terms, asked = split_encoding(before), split_encoding(after)
    shared = [] if before == "none" else terms
    more = [write_term(*term) for term in asked[len(shared) :]]
    kept = "+".join(write_term(*term) for term in asked[: len(shared)])
    same = not shared or (len(asked) > len(shared) and _same_encoding(before, kept, grid))
    return more if same and all(name in ("peg", "peg5") for name, _ in asked[len(shared) :]) else []


def _beside_pegs(
    config: ModelConfig, state: dict[str, Tensor], pegs: list[str]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A configuration with further PEGs, and the weights of the others under the names that they have beside them."""
    count = len(split_encoding(config.encoding))
    terms = [] if config.encoding == "none" else [config.encoding]
    if count == 1 and terms:  # a sum now, whose first part it is
        state = {
            f"encoding.parts.0.{name.removeprefix('encoding.')}" if name.startswith("encoding.") else name: tensor
            for name, tensor in state.items()
        }
    return replace(config, encoding="+".join([*terms, *pegs])), state


def _same_encoding(before: str, after: str, grid: Grid) -> bool:
    """Whether two texts name one encoding; a grid that the second leaves out is taken from the first."""
    terms, asked = parse_encoding(before), parse_encoding(after)
    if len(terms) != len(asked):
        return False
    for (name, options), (asked_name, asked_options) in zip(terms, asked):
        known = {"grid": grid, **options}
        if name != asked_name or known != {"grid": known["grid"], **asked_options}:
            return False
    return True
