"""The vision transformer of every comparison: one pipeline, any positional encoding, images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from timm.layers import PatchEmbed, calculate_drop_path_rates
from timm.models import register_notrace_function, register_notrace_module
from torch import Tensor, nn
from torch.fx import Proxy
from torch.utils.checkpoint import checkpoint

from cpvt.config import ModelConfig
from cpvt.config.scale import ScaleRule
from cpvt.encodings import PEG, ModelShape, PositionalEncoding, create_encoding
from cpvt.encodings.base import check_returned, has_hooks
from cpvt.encodings.naming import Builder, is_named
from cpvt.encodings.peg import PEGWithoutResidual
from cpvt.grids import Layout, check_tokens
from cpvt.models.attention import Attention, AttentionInputs, Block, Mlp
from cpvt.models.hub import HubModel
from cpvt.models.packing import check_batch, pad_to_patches, plan_packs
from cpvt.models.scale import Temperature, find_scale, find_temperature, is_list, refuse_scale, rule_of, spread_rules
from cpvt.models.timm_interface import (
    PREFIX,
    Indices,
    check_config,
    create_head,
    head_names,
    init_linears,
    take_indices,
)

for layer in (PEG, PEGWithoutResidual):
    register_notrace_module(layer)  # it inspects shapes and devices, so it is a leaf of an FX graph
for leaf in (check_batch, check_returned, check_tokens, find_scale, find_temperature, refuse_scale):
    register_notrace_function(leaf)

STAGES = ("forward_features", "forward_head", "run_blocks", "_run_block", "_pool", "_features")  # of a forward
Images = Tensor | list[Tensor] | tuple[Tensor, ...]
AnyScale = ScaleRule | list[ScaleRule] | None
Logits = Tensor | tuple[Tensor, Tensor]  # a pair in distilled training: one for each head


class VisionTransformer(HubModel):
    """A vision transformer (pre-norm, as DeiT) that takes images of any size and any positional encoding.

    It maps images (B, C, H, W), or a list of images (C, H_i, W_i) of any sizes, to logits (B, classes). Sides that the
    patch does not divide are padded with zeros on the right and at the bottom. Images of a list attend only to
    themselves, so each gets the logits that it would get alone. The head reads the class token, or for
    `global_pool='avg'` the mean of the tokens after the final norm; then there is no class token.
    A distilled model (`distilled=True`) returns the mean of two heads. The second reads a distillation token, which PEG
    skips like the class token, or the same mean of the tokens (Touvron et al., arXiv 2012.12877).
    Parameter names are timm's, except under `encoding.`. `Backbone` holds what timm asks for besides the forward,
    `HubModel` how it is saved and loaded.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        encoding: Builder | PositionalEncoding | None = None,
    ) -> None:
        super().__init__()
        check_config(config)
        self.config = config
        with nullcontext() if device is None else torch.device(device):
            self._build(config, encoding or config.encoding)
        self.to(dtype)  # weights are drawn in float32 whatever their dtype
        self.feature_info = self.list_features()

    def _build(self, config: ModelConfig, encoding: str | Builder | PositionalEncoding) -> None:
        self.patch_embed = PatchEmbed(
            config.img_size, config.patch_size, config.in_chans, config.embed_dim,
            flatten=False, output_fmt="NHWC", strict_img_size=False, dynamic_img_pad=True,
        )  # fmt: skip
        for name in PREFIX[: config.prefix_tokens]:
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, config.embed_dim)))
        rates = calculate_drop_path_rates(config.drop_path_rate, config.depth)
        self.blocks = nn.ModuleList(
            Block(config.embed_dim, config.num_heads, config.mlp_ratio, config.qkv_bias, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.head_drop = nn.Dropout(config.drop_rate)
        for name in head_names(config):
            self.add_module(name, create_head(config))
        self._init_trunk(config.weight_init)
        shape = ModelShape(config.embed_dim, config.depth, config.num_heads, self.grid, config.scale_grid)
        self.encoding = create_encoding(encoding, shape)  # draws its own weights, last
        self.is_described = is_named(encoding)

    def _init_trunk(self, weight_init: str) -> None:
        """Initialise blocks, heads and prefix tokens; the patch embedding and norms keep torch's initialisation."""
        init_linears(self.blocks, weight_init)
        for name in head_names(self.config):
            init_linears(self.get_submodule(name), weight_init)
        for token in self._prefix():
            nn.init.trunc_normal_(token, std=0.02)

    def _prefix(self) -> list[Tensor]:
        """The tokens before the patches, (1, 1, D) each."""
        return [getattr(self, name) for name in PREFIX[: self.num_prefix_tokens]]

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Draw all weights again, by 'deit' or 'xavier' (by default the configuration's), as in a new model.

        This also serves a model built on the device 'meta' and given memory by `to_empty`. needs_reset=False leaves the
        patch embedding and the norms as they are. The same seed gives the same weights as building the model.
        """
        config = replace(self.config, weight_init=mode or self.config.weight_init)
        check_config(config)
        self.config = config
        if needs_reset:
            for part in ("patch_embed", "blocks", "norm", *head_names(config)):
                for module in self.get_submodule(part).modules():
                    if callable(reset := getattr(module, "reset_parameters", None)):
                        reset()
        self._init_trunk(config.weight_init)
        self.encoding.reset_parameters()

    def forward(self, images: Images, scale: AnyScale = None) -> Logits:
        """Logits (B, classes) of images (B, C, H, W), or of a list of (C, H_i, W_i).

        scale: how much larger objects are than in training: a number of 1 or more, (rows, columns), or a rule, 'pixels'
        or 'fit'; a list has one for each image. By default the model's own rule, its attribute `scale`.
        A distilled model returns the mean of its two heads; after `set_distilled_training()`, in training, a pair.
        """
        if isinstance(images, Proxy) or not self._reads_prefix_only():
            return self.forward_head(self.forward_features(images, scale))
        return self.forward_head(self._features(images, scale, self.num_prefix_tokens))

    def _reads_prefix_only(self) -> bool:
        """Whether the prefix tokens are all that is read of the last block: by the head, and nobody else.

        Others read by hooks, or by a method or a part of their own.
        """
        last: Any = self.blocks[-1]
        if self.global_pool != "token" or type(last) is not Block or len(self.blocks) in self.encoding.at:
            return False
        norms = [(norm, nn.LayerNorm) for norm in (last.norm1, last.norm2, self.norm)]
        parts: list[tuple[nn.Module, type]] = [(last, Block), (last.attn, Attention), (last.mlp, Mlp), *norms]
        if any(
            type(part) is not kind or getattr(part.forward, "__func__", None) is not kind.forward
            for part, kind in parts
        ):
            return False
        if any(
            getattr(getattr(self, name), "__func__", None) is not getattr(VisionTransformer, name) for name in STAGES
        ):
            return False
        return not any(map(has_hooks, (self.norm, *last.modules(), *self.encoding.modules())))

    def forward_features(self, images: Images, scale: AnyScale = None) -> Tensor | list[Tensor]:
        """Tokens after the final norm, (B, P + N, D); for a list of images, or of scales, a list of (P + N_i, D)."""
        return self._features(images, scale)

    def _features(self, images: Images, scale: AnyScale, read: int | None = None) -> Tensor | list[Tensor]:
        """As `forward_features`; of batches only the first `read` tokens, if given."""
        if is_list(images, scale):
            return self._features_of_list(list(images), scale, read)
        x, layout, positions = self.embed(images, scale)  # type: ignore[arg-type]
        more: Any = {} if read is None else {"read": read}  # for a `run_blocks` of one's own
        return self.norm(self.run_blocks(x, layout, positions, **more)[0])

    def _features_of_list(self, images: list[Tensor], scale: AnyScale, read: int | None) -> list[Tensor]:
        """As `_features`, each image in the place that it has in the list."""
        padded = pad_to_patches(images, self.config, self.patch_embed.proj.weight.dtype)
        rules = spread_rules(scale, len(padded), self.scale)
        features: dict[int, Tensor] = {}
        for numbers in plan_packs([image.shape for image in padded], self.config, padded[0].device):
            chosen = [padded[number] for number in numbers], [rules[number] for number in numbers]
            x, layout, positions = self._embed_list(*chosen)
            more: Any = {} if layout.packed or read is None else {"read": read}
            x = self.norm(self.run_blocks(x, layout, positions, **more)[0])
            features.update(zip(numbers, x[0].split(layout.lengths) if layout.packed else x.unbind()))
        return [features[number] for number in range(len(padded))]

    def run_blocks(
        self, x: Tensor, layout: Layout, positions: AttentionInputs, count: int | None = None,
        taken: Sequence[int] = (), read: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
        """Tokens after the first `count` blocks (None: all), and those after each block in `taken`, numbered from 0.

        read: how many tokens of the last block of the model are computed, the first; None: all.
        """
        outputs = []
        for depth in range(1, 1 + (len(self.blocks) if count is None else count)):
            arguments = (depth, x, layout, positions, read if depth == len(self.blocks) else None)
            if self.grad_checkpointing:
                x = checkpoint(self._run_block, *arguments, use_reentrant=False)
            else:
                x = self._run_block(*arguments)
            if depth - 1 in taken:
                outputs.append(x)
        return x, outputs

    def _run_block(self, depth: int, x: Tensor, layout: Layout, positions: AttentionInputs, read: int | None) -> Tensor:
        """Block `depth`, counted from 1, with its own positional inputs, then the encoding after it."""
        positions = positions.at_block(self.encoding, layout, depth, x)
        if read is not None:
            last: Tensor = self.blocks[depth - 1](x, positions, read)
            return last  # the encoding changes patches alone
        y: Tensor = self.encoding(self.blocks[depth - 1](x, positions), layout, depth)
        return y

    def forward_intermediates(
        self,
        images: Tensor,
        indices: Indices = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Features and the outputs of blocks, as the next block receives them (a PEG in between included).

        indices: blocks from 0 (negative: from the end), None for all, or an int for the last n; in the order of the
        blocks. norm: apply the final norm to each. output_fmt: 'NCHW' for (B, D, h, w), 'NLC' for (B, N, D).
        return_prefix_tokens: return pairs with the prefix tokens (B, P, D), where there are any. stop_early: run no
        block after the last one asked for, so that the features are its output.
        Returns (features, intermediates), or the intermediates alone, or a dictionary with timm's keys
        'image_features', 'image_intermediates' and 'image_intermediates_prefix'.
        Raises ValueError for a list of images, whose grids differ, and for blocks that do not exist.
        """
        if isinstance(images, (list, tuple)):
            raise ValueError("intermediates need images (B, C, H, W) of one size, not a list; give one image at a time")
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC'; got '{output_fmt}'")
        taken = take_indices(indices, len(self.blocks))
        x, layout, positions = self.embed(images)
        x, outputs = self.run_blocks(x, layout, positions, max(taken) + 1 if stop_early else None, taken)
        outputs = [self.norm(each) for each in outputs] if norm else outputs
        prefix = [each[:, : self.num_prefix_tokens] for each in outputs] if self.num_prefix_tokens else []
        patches = [each[:, self.num_prefix_tokens :] for each in outputs]
        if output_fmt == "NCHW":
            patches = [each.unflatten(1, layout.grid).permute(0, 3, 1, 2).contiguous() for each in patches]
        if output_dict:
            found: dict[str, Any] = {"image_intermediates": patches}
            if prefix and return_prefix_tokens:
                found["image_intermediates_prefix"] = prefix
            return found if intermediates_only else {**found, "image_features": self.norm(x)}
        intermediates = list(zip(patches, prefix)) if prefix and return_prefix_tokens else patches
        return intermediates if intermediates_only else (self.norm(x), intermediates)

    def get_intermediate_layers(
        self,
        images: Tensor,
        n: Indices = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> Any:
        """The outputs of the last `n` blocks, or of those listed, (B, N, D), or (B, D, h, w) with `reshape`."""
        output_fmt = "NCHW" if reshape else "NLC"
        return self.forward_intermediates(
            images, n, return_prefix_tokens, norm, output_fmt=output_fmt, intermediates_only=True
        )

    def forward_head(self, x: Tensor | list[Tensor], pre_logits: bool = False) -> Logits:
        """Logits of the tokens that `forward_features` returns, or with `pre_logits` the input of the head.

        Where the two heads of a distilled model read a token each, `pre_logits` gives the mean of the two, as in timm.
        Where every token is read (`global_pool=''`), the tokens of a list are concatenated, (T, classes).
        """
        if isinstance(x, (list, tuple)):
            parts = [self._pool(tokens) for tokens in x]
            x = torch.stack(parts) if self.config.global_pool else torch.cat(parts)
        else:
            x = self._pool(x)
        read: Tensor = self.head_drop(x)
        if self.config.distilled:
            return self._answer_twice(read, pre_logits)
        return read if pre_logits else self.head(read)

    def _answer_twice(self, read: Tensor, pre_logits: bool) -> Logits:
        """Logits of both heads of a distilled model, from a token each, (B, 2, D), or from the same mean, (B, D)."""
        two_tokens = self.config.global_pool == "token"
        own, taught = (read[..., 0, :], read[..., 1, :]) if two_tokens else (read, read)
        if not pre_logits:
            own, taught = self.head(own), self.head_dist(taught)
            if self.distilled_training and self.training:
                return own, taught
        return (own + taught) / 2

    def _pool(self, tokens: Tensor) -> Tensor:
        """The input of the head from tokens (..., P + N, D); for a distilled model both prefix tokens, (..., 2, D)."""
        if self.config.global_pool == "token":
            return tokens[..., :2, :] if self.config.distilled else tokens[..., 0, :]
        if self.config.global_pool == "avg":
            return tokens[..., self.num_prefix_tokens :, :].mean(dim=-2)
        return tokens

    def embed(self, images: Tensor, scale: ScaleRule | None = None) -> tuple[Tensor, Layout, AttentionInputs]:
        """The input of block 1: tokens (B, P + N, D), their layout, and the positional inputs of attention."""
        if isinstance(scale, Proxy):  # an FX graph has an input for it
            images, scale = refuse_scale(images, scale), None
        images = check_batch(images, self.config.in_chans, self.config.patch_size, self.patch_embed.proj.weight.dtype)
        x, layout = self._embed(images, rule_of(scale, self.scale))
        return x, layout, self._attention_inputs(layout, x)

    def _embed(self, images: Tensor, rule: ScaleRule) -> tuple[Tensor, Layout]:
        patches = self.patch_embed(images)  # (B, h, w, D)
        grid = (patches.shape[1], patches.shape[2])
        scales = (
            None if isinstance(rule, str) and rule == "paper" else (find_scale(rule, grid, self.scale_grid, self.grid),)
        )
        # contiguous: the convolution leaves channels first in memory, which every norm would copy
        x = self.encoding(patches.flatten(1, 2).contiguous(), Layout((grid,), 0, scales), 0)  # (B, N, D)
        if self.num_prefix_tokens:
            prefix = [token.expand(x.shape[0], -1, -1).to(x.dtype) for token in self._prefix()]
            x = torch.cat([*prefix, x], dim=1)
        return x, Layout((grid,), self.num_prefix_tokens, scales)

    def _embed_list(self, images: list[Tensor], rules: list[ScaleRule]) -> tuple[Tensor, Layout, AttentionInputs]:
        """As `embed`, for images (C, H_i, W_i), equal sizes adjacent: a pack (1, T, D), or a batch if all are equal."""
        alike = groupby(zip(images, rules), key=lambda each: (each[0].shape, each[1]))
        batches = [(torch.stack([image for image, _ in equal]), rule) for (_, rule), equal in alike]
        if len(batches) == 1:
            return self.embed(*batches[0])
        embedded = [self._embed(*batch) for batch in batches]
        x = torch.cat([tokens.flatten(0, 1) for tokens, _ in embedded])[None]
        laid = [(layout.grids[0], layout.groups[0].scale) for tokens, layout in embedded for _ in tokens]
        layout = Layout(tuple(grid for grid, _ in laid), self.num_prefix_tokens, tuple(scale for _, scale in laid))
        return x, layout, self._attention_inputs(layout, x)

    def _attention_inputs(self, layout: Layout, x: Tensor) -> AttentionInputs:
        temperatures: list[Temperature] = [None]
        if self.config.attn_temperature and layout.scales is not None:
            temperatures = [find_temperature(each.grid, each.scale, self.scale_grid) for each in layout.groups]
        return AttentionInputs.build(self.encoding, layout, x, temperatures)

    def attention_map(self, images: Tensor, block: int, prefix: bool = False) -> Tensor:
        """Attention weights between the patches in one block (counted from 1), (B, heads, N, N).

        prefix: keep the prefix tokens, (B, heads, P + N, P + N); then every row sums to 1.
        """
        if not 1 <= block <= len(self.blocks):
            raise ValueError(f"block must be from 1 to {len(self.blocks)}; got {block}")
        x, layout, positions = self.embed(images)
        x, _ = self.run_blocks(x, layout, positions, block - 1)
        positions = positions.at_block(self.encoding, layout, block, x)
        looked_at: Block = self.blocks[block - 1]  # type: ignore[assignment]
        weights = looked_at.attn.weights(looked_at.norm1(x), positions)
        first = 0 if prefix else self.num_prefix_tokens
        return weights[:, :, first:, first:]
