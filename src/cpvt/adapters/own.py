"""Adapter of our own vision transformer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from cpvt.adapters.base import ModelAdapter, widen
from cpvt.config.scale import ScaleRule
from cpvt.encodings import ModelShape, create_encoding
from cpvt.models import VisionTransformer
from cpvt.models.scale import find_scale


class OwnAdapter(ModelAdapter):
    """A `cpvt.models.VisionTransformer`: any size, every depth, every attention map."""

    model: VisionTransformer

    @classmethod
    def facts_of(cls, model: Any) -> dict[str, Any]:
        return {"train_size": model.config.img_size, "patch_size": model.config.patch_size}

    def scale_at(self, rule: ScaleRule, size: tuple[int, int]) -> tuple[float, float] | None:
        rows, columns = self.model.patch_embed.dynamic_feat_size(size)
        found = find_scale(rule, (rows, columns), self.model.scale_grid, self.model.grid)
        return None if found is None else (max(1.0, found[0]), max(1.0, found[1]))

    def _run(self, images: Tensor, method: str, **options: Any) -> Any:
        if method != "__call__":
            return super()._run(images, method, **options)
        with torch.inference_mode():  # given by the call: several threads may share the model
            return self.model(images.to(self.dtype), scale=self.scale)

    def logits_of_list(self, images: list[Tensor]) -> Tensor:
        with torch.inference_mode():
            return widen(self.model([image.to(self.dtype) for image in images], scale=self.scale))

    def token_maps(self, images: Tensor) -> dict[int, Tensor]:
        with self.inference():
            first, layout, _ = self.model.embed(images.to(self.dtype))
            later = self.model.forward_intermediates(images.to(self.dtype), intermediates_only=True)
        maps = [first[:, layout.prefix_tokens :].unflatten(1, layout.grid)]
        return dict(enumerate([*maps, *(each.permute(0, 2, 3, 1) for each in later)]))

    def attention(self, images: Tensor, block: int) -> Tensor:
        with self.inference():
            return self.model.attention_map(images.to(self.dtype), block)

    def untrained(self, seed: int = 0) -> ModelAdapter:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.model.is_described:
                return self._with(type(self.model)(self.model.config).to(self.device), "untrained")
            model = copy.deepcopy(self.model)
            model.init_weights()
            return self._with(model, "untrained")

    def without_positions(self) -> ModelAdapter:
        model, config = copy.deepcopy(self.model), self.model.config
        model.encoding = create_encoding("none", ModelShape(config.embed_dim, config.depth, config.num_heads, (1, 1)))
        return self._with(model, "no positions")
