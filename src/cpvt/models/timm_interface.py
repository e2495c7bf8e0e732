"""What timm's functions ask of a model besides its forward: heads, sizes, parameter groups, how to rebuild it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from timm.layers import PatchEmbed
from torch import nn

from cpvt.config import ModelConfig, Size, parse_size, sides
from cpvt.config.base import check_ranges
from cpvt.config.scale import ScaleRule, parse_scale
from cpvt.encodings import PositionalEncoding, change_encoding
from cpvt.encodings.coordinates import check_grid
from cpvt.encodings.text import split_encoding
from cpvt.grids import Grid
from cpvt.models.sizes import nearest_name, tidy_size

PREFIX = ("cls_token", "dist_token")  # in their order before the patches
Indices = int | Sequence[int] | None  # blocks, counted from 0, negative ones from the end; an int: the last so many


class Backbone(nn.Module):
    """A model that timm can list, profile, change and prune; `config` always describes the model as it is now."""

    config: ModelConfig
    patch_embed: PatchEmbed
    encoding: PositionalEncoding
    blocks: nn.ModuleList
    norm: nn.Module
    head: nn.Module
    head_dist: nn.Module  # where the model is distilled
    grad_checkpointing = False
    distilled_training = False
    is_described = True  # whether `config` says how the encoding is built

    num_classes = property(lambda self: self.config.num_classes)
    in_chans = property(lambda self: self.config.in_chans)
    global_pool = property(lambda self: self.config.global_pool)
    embed_dim = num_features = head_hidden_size = property(lambda self: self.config.embed_dim)
    num_prefix_tokens = property(lambda self: self.config.prefix_tokens)

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches at the training size."""
        height, width = self.patch_embed.dynamic_feat_size(sides(self.config.img_size))
        return height, width

    @property
    def scale_grid(self) -> Grid:
        """The grid at which the object scale is 1: that of training, before `set_input_size` changed it."""
        return self.config.scale_grid or self.grid

    @property
    def scale(self) -> ScaleRule:
        """The object scale of a call that passes none: 'pixels', 'fit', 'fit*FACTOR', a number, or (rows, columns)."""
        return self.config.scale

    @scale.setter
    def scale(self, rule: ScaleRule) -> None:
        self.config = replace(self.config, scale=parse_scale(rule))

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What timm knows of weights and images; their size is always the training size.

        timm sets it for the models it builds; for others, such as a trained run, it follows from the configuration.
        """
        if "_known_to_timm" not in self.__dict__:
            self.pretrained_cfg = {**describe_to_timm(self.config), "architecture": nearest_name(self.config)}
        known: dict[str, Any] = self.__dict__["_known_to_timm"]
        known["input_size"] = (self.config.in_chans, *sides(self.config.img_size))
        return known

    @pretrained_cfg.setter
    def pretrained_cfg(self, known: dict[str, Any]) -> None:
        self.__dict__["_known_to_timm"] = dict(known)

    default_cfg = pretrained_cfg  # timm's older name for it

    @property
    def _model_args(self) -> dict[str, Any]:
        """timm stores this next to uploaded weights and builds a downloaded model from it."""
        return asdict(self.config)

    @_model_args.setter
    def _model_args(self, asked: dict[str, Any]) -> None:
        """timm stores here what it was asked to build; the configuration already holds that."""

    @property
    def _traits(self) -> dict[str, Any]:
        """What timm reads about the input, such as the training size."""
        return {"img_size": sides(self.config.img_size), "fixed_input_size": False, "first_conv": "patch_embed.proj"}

    @_traits.setter
    def _traits(self, noted: dict[str, Any]) -> None:
        """As for `_model_args`."""

    def list_features(self) -> list[dict[str, Any]]:
        """For each block its width, its stride in pixels, and the module whose output the next block receives."""
        after = {depth: f"encoding.{name}" for depth, name in self.encoding.outputs().items()}
        return [
            {
                "module": after.get(depth, f"blocks.{depth - 1}"),
                "num_chs": self.config.embed_dim,
                "reduction": self.config.patch_size,
            }
            for depth in range(1, len(self.blocks) + 1)
        ]

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """The last linear layer, or the identity where there is none; both of a distilled model, as in timm."""
        return (self.head, self.head_dist) if self.config.distilled else self.head

    def set_distilled_training(self, enable: bool = True) -> None:
        """Return (logits, distillation logits) in training, not their mean.

        Raises ValueError where there is no second head.
        """
        if enable and not self.config.distilled:
            raise ValueError("this model has no head that learns from a teacher; build it with distilled=True")
        self.distilled_training = enable

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new head (two where the model is distilled) on the model, for `num_classes` classes (0: none).

        global_pool: another pooling. Class and distillation tokens stay even where no head reads them: the blocks were
        trained with them. Raises ValueError for 'token' where there is none.
        """
        config = replace(self.config, num_classes=num_classes)
        if global_pool is not None and global_pool != config.global_pool:
            config = replace(config, global_pool=global_pool, class_token=config.has_class_token)
        check_config(config)
        self.config = config
        like = self.patch_embed.proj.weight
        for name in head_names(config):
            head = create_head(config).to(like.device, like.dtype).train(self.training)
            init_linears(head, config.weight_init)
            setattr(self, name, head)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the outputs of blocks in training and recompute the rest in the backward pass."""
        self.grad_checkpointing = enable

    def set_input_size(self, img_size: Size | None = None, patch_size: Size | None = None) -> None:
        """Change the training size, in pixels, and the patch; None leaves either as it is.

        The model takes every size before and after; what changes is the grid that encodings start from. With the same
        patch, no logits at the new size change, unless the model's rule is 'pixels', whose scale is 1 at the training
        size: scales still count from the grid before (`scale_grid`), and a learned table is resized bicubically, as for
        an image of that size. Another patch resamples the patch embedding (Beyer et al., FlexiViT, arXiv 2212.08013).
        Raises ValueError for a patch that is not square, or larger than the image.
        """
        patch = sides(patch_size or self.config.patch_size)
        if patch[0] != patch[1]:
            raise ValueError(f"patch_size must be one side, as patches are square here; got {patch}")
        before = self.scale_grid
        config = replace(self.config, img_size=tidy_size(img_size or self.config.img_size), patch_size=patch[0])
        check_config(config)
        split_encoding(self.config.encoding)  # raises before anything is changed
        self.patch_embed.set_input_size(img_size=sides(config.img_size), patch_size=patch)
        self.config = config
        text = change_encoding(self.encoding, self.config.encoding, lambda part: part.set_grid(self.grid))
        self.config = replace(self.config, encoding=text, scale_grid=None if before == self.grid else before)
        self.feature_info = self.list_features()

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop blocks that no wanted intermediate needs, with their PEGs and tables; returns the wanted blocks."""
        taken = take_indices(indices, len(self.blocks))
        depth = max(taken) + 1
        self.blocks = self.blocks[:depth]
        text = change_encoding(self.encoding, self.config.encoding, lambda part: part.prune(depth))
        self.config = replace(self.config, depth=depth, encoding=text)
        self.feature_info = self.list_features()
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay: prefix tokens and the encoding, PEG included."""
        return {name for name, _ in self.named_parameters() if name in PREFIX or name.startswith("encoding.")}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into layers, for layer-wise learning rate decay.

        The stem holds the patch embedding, the prefix tokens and all positions that block 1 uses: learned tables, a
        relative one shared by all blocks, a PEG at depth 0. What serves block d alone (its table, a PEG after
        it) belongs to `blocks.{d - 1}`.
        """
        later = {re.escape(name): depth for name, depth in self.encoding.layers().items() if depth}
        other = rf"(?!\.(?:{'|'.join(later)})\b)" if later else ""
        return {
            "stem": rf"^(?:patch_embed|{'|'.join(PREFIX)}|encoding{other})",
            "blocks": [
                (r"^blocks\.(\d+)", None),
                *((rf"^encoding\.{name}\b", (depth - 1,)) for name, depth in later.items()),
                (r"^norm", (99999,)),  # timm's sign for: with the layer before
            ],
        }


def take_indices(indices: Indices, blocks: int) -> list[int]:
    """Numbers from 0 of the blocks meant: all for None, the last so many for an int; ValueError for others."""
    wanted = blocks if indices is None else indices
    taken = [*range(-wanted, 0)] if isinstance(wanted, int) else list(wanted)
    if not taken or min(taken) < -blocks or max(taken) >= blocks:
        raise ValueError(
            f"indices must be a number of blocks from 1 to {blocks}, or blocks from {-blocks} to {blocks - 1}; "
            f"got {indices}"
        )
    return [number % blocks for number in taken]


def head_names(config: ModelConfig) -> tuple[str, ...]:
    """Names of the modules that give logits, as timm has them."""
    return ("head", "head_dist") if config.distilled else ("head",)


def create_head(config: ModelConfig) -> nn.Module:
    """A linear layer from tokens to classes; the identity for no classes."""
    return nn.Linear(config.embed_dim, config.num_classes) if config.num_classes else nn.Identity()


def init_linears(module: nn.Module, weight_init: str) -> None:
    """Initialise every linear layer of a module as the configuration says."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            init_linear(layer, weight_init)


def init_linear(layer: nn.Linear, weight_init: str) -> None:
    """Draw the weight of a linear layer and set its bias to zero."""
    if weight_init == "xavier":
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def check_config(config: ModelConfig) -> None:
    """Raise ValueError for a configuration that contradicts itself, or holds impossible numbers."""
    for name in ("patch_size", "in_chans", "embed_dim", "depth", "num_heads", "num_classes"):
        number, least = getattr(config, name), int(name != "num_classes")
        if not isinstance(number, int) or number < least:
            square = ", the side of a square patch" if name == "patch_size" else ""
            raise ValueError(f"{name} must be a whole number of {least} or more{square}; got {number!r}")
    height, width = sides(parse_size(config.img_size))
    if min(height, width) < config.patch_size:
        raise ValueError(f"img_size must be a patch or more, {config.patch_size} pixels; got {config.img_size}")
    parse_scale(config.scale)
    check_grid(config.scale_grid)
    check_ranges(config, {"above 0": ("mlp_ratio",), "from 0 to below 1": ("drop_rate", "drop_path_rate")})
    if config.embed_dim % config.num_heads:
        raise ValueError(f"embed_dim must be a multiple of num_heads; got {config.embed_dim} and {config.num_heads}")
    if config.weight_init not in ("deit", "xavier"):
        raise ValueError(f"weight_init must be 'deit' or 'xavier'; got '{config.weight_init}'")
    if config.global_pool not in ("token", "avg", ""):
        raise ValueError(
            f"global_pool must be 'token' (cls on the command line), 'avg' (gap) or ''; got '{config.global_pool}'"
        )
    if config.distilled and config.global_pool == "" and config.num_classes:
        raise ValueError(
            "a distilled model's heads read one vector an image, so global_pool must be 'token' or 'avg'; got ''"
        )
    if config.global_pool == "token" and not config.has_class_token:
        raise ValueError("global_pool 'token' reads the class token, so class_token=False does not go with it")


def describe_to_timm(config: ModelConfig) -> dict[str, Any]:
    """What timm wants to know of a model: its input and its classes, in timm's words."""
    return {
        "input_size": (config.in_chans, *sides(config.img_size)),
        "num_classes": config.num_classes,
        "fixed_input_size": False,
        "first_conv": "patch_embed.proj",
        "classifier": head_names(config) if config.distilled else "head",
        "license": "mit",
        "paper_ids": "arXiv:2102.10882",
        "paper_name": "Conditional Positional Encodings for Vision Transformers",
    }
