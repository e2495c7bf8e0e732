"""What a model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cpvt.config.base import Size


@dataclass(frozen=True)
class ModelConfig:
    """A vision transformer; field names are timm's."""

    img_size: Size = 224
    """Training size: side, or height and width, in pixels. Other sizes are welcome at any time."""
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    encoding: str = "peg"
    """Positional encoding: a name of `cpvt list`, with options as in "peg(at=(1, 2))", or a sum as in "learned+peg"."""
    global_pool: str = "token"
    """What the head reads: 'token' (class token), 'avg' (mean of the tokens), '' (every token)."""
    class_token: bool | None = None
    """Whether there is a class token; by default only where the head reads it."""
    distilled: bool = False
    """A second head that learns from a teacher, and with a class token a token of its own for it."""
    drop_rate: float = 0.0
    """Fraction of what the head reads that training drops."""
    drop_path_rate: float = 0.0
    weight_init: str = "deit"
    """How linear layers start: 'deit' (truncated normal, 0.02) or 'xavier' (by their width; learns sooner when narrow)."""

    @property
    def has_class_token(self) -> bool:
        return self.global_pool == "token" if self.class_token is None else self.class_token

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: the class token, then the distillation token."""
        return int(self.has_class_token) * (1 + self.distilled)


@dataclass(frozen=True)
class ExternalConfig:
    """A model of another library, as a run's folder records it."""

    name: str
    """Such as "timm:vit_tiny_patch16_224(patch_size=8)": library, name, and options of its own constructor."""
    num_classes: int
    img_size: Size
    """Training size, pixels."""
    in_chans: int = 3
    retrofit: dict[str, Any] | None = None
    """What `cpvt.retrofit` was told: at, absolute, ..."""
