"""The vision transformer of every comparison: one pipeline, any positional encoding, pictures of any size."""

from __future__ import annotations

from itertools import groupby

import torch
from timm.layers import PatchEmbed, calculate_drop_path_rates
from torch import Tensor, nn

from cpvt.config import ModelConfig, sides
from cpvt.encodings import ModelShape, PositionalEncoding, create_encoding
from cpvt.models.packing import check_sides, pad_to_patches, plan_packs
from cpvt.models.parts import Block, Positions
from cpvt.shapes import Grid, Layout


class VisionTransformer(nn.Module):
    """A vision transformer (pre-norm, as DeiT) that takes pictures of any size and any positional encoding.

    Pictures (B, C, H, W), or a list of (C, H_i, W_i) each of its own size, go in, logits (B, classes) come out. Sides
    that the patch does not divide are padded with zeros on the right and at the bottom; nothing is cropped, and no
    picture of a list meets another's tokens or padding: it gets the answer it would get alone. The head reads the class token, or for
    `global_pool='avg'` the mean of the tokens after the final norm, with no class token at all.
    Names of parameters are timm's, except under `encoding.`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.patch_embed = PatchEmbed(
            config.img_size, config.patch_size, config.in_chans, config.embed_dim,
            flatten=False, output_fmt="NHWC", strict_img_size=False, dynamic_img_pad=True,
        )  # fmt: skip
        self.num_prefix_tokens = int(config.has_class_token)
        if config.has_class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.embed_dim))
        height, width = self.patch_embed.dynamic_feat_size(sides(config.img_size))
        shape = ModelShape(config.embed_dim, config.depth, config.num_heads, (height, width))
        rates = calculate_drop_path_rates(config.drop_path_rate, config.depth)
        self.blocks = nn.ModuleList(
            Block(config.embed_dim, config.num_heads, config.mlp_ratio, config.qkv_bias, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.head = nn.Linear(config.embed_dim, config.num_classes) if config.num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _init_linear(module, config.weight_init)
        if config.has_class_token:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.encoding: PositionalEncoding = create_encoding(config.encoding, shape)  # draws its own weights, last

    def forward(self, pictures: Tensor | list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """Logits (B, classes) of pictures (B, C, H, W), or of a list of (C, H_i, W_i)."""
        return self.forward_head(self.forward_features(pictures))

    def forward_features(self, pictures: Tensor | list[Tensor] | tuple[Tensor, ...]) -> Tensor | list[Tensor]:
        """Tokens after the final norm, (B, P + N, D); of a list a list of (P + N_i, D)."""
        if not isinstance(pictures, (list, tuple)):
            return self._features(*self.embed(pictures))
        padded = pad_to_patches(pictures, self.config)
        features: dict[int, Tensor] = {}
        for numbers in plan_packs([picture.shape for picture in padded], self.config, padded[0].device):
            x, layout, positions = self._embed_list([padded[number] for number in numbers])
            x = self._features(x, layout, positions)
            features.update(zip(numbers, x[0].split(layout.lengths) if layout.packed else x.unbind()))
        return [features[number] for number in range(len(padded))]

    def _features(self, x: Tensor, layout: Layout, positions: Positions) -> Tensor:
        return self.norm(self._through(len(self.blocks), x, layout, positions))

    def _through(self, blocks: int, x: Tensor, layout: Layout, positions: Positions) -> Tensor:
        """Tokens after the first `blocks` blocks, the encoding applied after each."""
        for depth, block in zip(range(1, blocks + 1), self.blocks):
            x = self.encoding(block(x, positions), layout, depth)
        return x

    def forward_head(self, x: Tensor | list[Tensor], pre_logits: bool = False) -> Tensor:
        """Logits of the tokens that `forward_features` returns, or with `pre_logits` what the head reads.

        Where every token is read (`global_pool=''`), the tokens of a list come back end to end, (T, classes).
        """
        prefix = self.num_prefix_tokens
        if self.config.global_pool == "token":
            x = x[:, 0] if isinstance(x, Tensor) else torch.stack([tokens[0] for tokens in x])
        elif self.config.global_pool == "avg":
            x = x[:, prefix:].mean(dim=1) if isinstance(x, Tensor) else torch.stack([t[prefix:].mean(dim=0) for t in x])
        elif not isinstance(x, Tensor):
            x = torch.cat(x)
        return x if pre_logits else self.head(x)

    def embed(self, pictures: Tensor) -> tuple[Tensor, Layout, Positions]:
        """Tokens as block 1 receives them, (B, P + N, D), where they stand, and what attention knows of it."""
        if getattr(pictures, "ndim", None) != 4 or pictures.shape[1] != self.config.in_chans:
            got = tuple(pictures.shape) if isinstance(pictures, Tensor) else type(pictures).__name__
            raise ValueError(
                f"the model needs pictures of shape (B, {self.config.in_chans}, H, W), or a list of pictures; got {got}"
            )
        check_sides(pictures.shape, self.config.patch_size)
        x, grid = self._embed(pictures)
        layout = Layout((grid,), self.num_prefix_tokens)
        return x, layout, Positions.build(self.encoding, layout, x)

    def _embed(self, pictures: Tensor) -> tuple[Tensor, Grid]:
        patches = self.patch_embed(pictures)  # (B, h, w, D)
        grid = (patches.shape[1], patches.shape[2])
        # contiguous: the convolution leaves channels first in memory, and every norm of every block would copy
        x = self.encoding(patches.flatten(1, 2).contiguous(), Layout((grid,)), 0)  # (B, N, D)
        if self.num_prefix_tokens:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1)
        return x, grid

    def _embed_list(self, pictures: list[Tensor]) -> tuple[Tensor, Layout, Positions]:
        """As `embed`, for pictures (C, H_i, W_i), equal sizes side by side: a pack (1, T, D), or a batch if all are equal."""
        batches = [torch.stack(list(equal)) for _, equal in groupby(pictures, key=lambda picture: picture.shape)]
        if len(batches) == 1:
            return self.embed(batches[0])
        embedded = [self._embed(batch) for batch in batches]
        x = torch.cat([tokens.flatten(0, 1) for tokens, _ in embedded])[None]
        layout = Layout(tuple(grid for tokens, grid in embedded for _ in tokens), self.num_prefix_tokens)
        return x, layout, Positions.build(self.encoding, layout, x)

    def attention_map(self, pictures: Tensor, block: int) -> Tensor:
        """How much each patch attends to each other in one block (counted from 1), (B, heads, N, N)."""
        if not 1 <= block <= len(self.blocks):
            raise ValueError(f"block must be from 1 to {len(self.blocks)}; got {block}")
        x, layout, positions = self.embed(pictures)
        x = self._through(block - 1, x, layout, positions)
        looked_at: Block = self.blocks[block - 1]  # type: ignore[assignment]
        weights = looked_at.attn.weights(looked_at.norm1(x), positions)
        return weights[:, :, self.num_prefix_tokens :, self.num_prefix_tokens :]

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone: the class token and the encoding, PEG included."""
        return {name for name, _ in self.named_parameters() if name == "cls_token" or name.startswith("encoding.")}


def _check(config: ModelConfig) -> None:
    if config.embed_dim % config.num_heads:
        raise ValueError(f"embed_dim must be a multiple of num_heads; got {config.embed_dim} and {config.num_heads}")
    if config.weight_init not in ("deit", "xavier"):
        raise ValueError(f"weight_init must be 'deit' or 'xavier'; got '{config.weight_init}'")
    if config.global_pool not in ("token", "avg", ""):
        raise ValueError(f"global_pool must be 'token', 'avg' or ''; got '{config.global_pool}'")
    if config.global_pool == "token" and not config.has_class_token:
        raise ValueError("global_pool 'token' reads the class token, so class_token=False does not go with it")


def _init_linear(layer: nn.Linear, weight_init: str) -> None:
    """The patch embedding and norms keep torch's start."""
    if weight_init == "xavier":
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
