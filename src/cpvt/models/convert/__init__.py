"""Converts weights of others: DeiT and timm ViTs into our models, positional convolutions of any model into PEGs."""

from cpvt.models.convert.checkpoint import read_weights, unwrap_checkpoint
from cpvt.models.convert.pegs import ConvertedPEG, convert_peg, find_pegs, load_pegs, save_pegs
from cpvt.models.convert.vit import from_timm

__all__ = [
    "ConvertedPEG",
    "convert_peg",
    "find_pegs",
    "from_timm",
    "load_pegs",
    "read_weights",
    "save_pegs",
    "unwrap_checkpoint",
]
