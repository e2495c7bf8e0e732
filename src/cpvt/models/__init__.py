"""One readable vision transformer that takes any positional encoding, and its named sizes."""

from cpvt.models.registry import create_model, describe_models
from cpvt.models.vit import VisionTransformer

__all__ = ["VisionTransformer", "create_model", "describe_models"]
