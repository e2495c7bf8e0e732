"""Options of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cpvt.config.base import Size
from cpvt.config.scale import ScaleRule


@dataclass(frozen=True)
class ModelConfig:
    """A vision transformer; field names are timm's."""

    img_size: Size = 224
    """Training size: side, or height and width, in pixels. The model takes other sizes, too."""
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    encoding: str = "peg"
    """Positional encoding: a name of `cpvt list`, with options as in "peg(at=(1, 2))", or a sum, "learned+peg"."""
    global_pool: str = "token"
    """Input of the head: 'token' (class token), 'avg' (mean of the patch tokens), '' (every token)."""
    class_token: bool | None = None
    """Whether there is a class token; by default only if the head reads it."""
    distilled: bool = False
    """Add a head that learns from a teacher and, with a class token, a distillation token."""
    drop_rate: float = 0.0
    """Dropout rate of the head's input."""
    drop_path_rate: float = 0.0
    weight_init: str = "deit"
    """Initialisation of linear layers: 'deit' (truncated normal, 0.02) or 'xavier' (learns sooner in narrow models)."""
    scale: ScaleRule = "fit"
    """How much larger objects are than in training, where a call does not say: 'fit' (the image shows what training
    images showed), 'pixels' (objects have the pixels they had in training), 'fit*0.9', a number, or rows x columns."""
    attn_temperature: bool = True
    """Multiply attention logits by max(1, ln(N / (s_h s_w)) / ln N0), for N tokens at scale s, N0 in training."""
    scale_grid: tuple[int, int] | None = None
    """Rows and columns of tokens at which the scale is 1; by default those of img_size."""

    @property
    def has_class_token(self) -> bool:
        return self.global_pool == "token" if self.class_token is None else self.class_token

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token, then the distillation token."""
        return int(self.has_class_token) * (1 + self.distilled)


@dataclass(frozen=True)
class ExternalConfig:
    """A model of another library, as recorded in a run's folder."""

    name: str
    """Library, name and options of its constructor, such as "timm:vit_tiny_patch16_224(patch_size=8)"."""
    num_classes: int
    img_size: Size
    """Training size, pixels."""
    in_chans: int = 3
    retrofit: dict[str, Any] | None = None
    """Arguments of `cpvt.retrofit`: at, absolute, ..."""
