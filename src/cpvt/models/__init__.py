"""One readable vision transformer that takes any positional encoding, and its named sizes."""

from cpvt.models.vit import VisionTransformer
from cpvt.models.registry import create_model, describe_models

__all__ = ["VisionTransformer", "create_model", "describe_models"]
