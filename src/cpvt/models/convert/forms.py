"""THE TABLE of positional convolutions that models have, by the names of their weights; another model is a line."""

from __future__ import annotations

import re
from typing import NamedTuple

TORCH_EPS, YOLO_EPS = 1e-5, 1e-3  # of BatchNorm; a state dict does not hold it
REPARAM = "reparam_conv"  # a kernel of FastViT after it is folded for inference, with the residual in it


class Form(NamedTuple):
    """How a model uses a depth-wise convolution, and how its weights are called."""

    model: str
    layer: str = ""  # pattern of the layer's name, after any prefix
    kernels: str = ""  # pattern of what follows it, up to '.weight'; several kernels of one layer are summed
    residual: bool | None = None  # whether the model adds the tokens to their convolution; None: not known
    causal: bool = False  # along the first axis
    norm: str = ""  # what a BatchNorm next to a kernel is called; the next of a sequence needs no name
    eps: float = TORCH_EPS
    holds_input: str = ""  # what a kernel is called that holds the residual already

    def find(self, name: str) -> str | None:
        """The name of the layer that a convolution belongs to; None if this form has none of that name."""
        match = re.fullmatch(rf"(?P<layer>(.*\.)?({self.layer}))({self.kernels})", name)
        return match["layer"] if match else None


TABLE = (  # the first form that fits counts
    Form("CPVT, Twins", r"pos_block\.\d+", r"\.proj(\.0)?", residual=True),
    Form("DaViT, CoaT", r"cpe\d?", r"\.proj", residual=True),
    Form("Florence-2", r"(spatial|channel)_block\.conv[12]", r"(\.fn\.dw)?", residual=True),
    Form("FastViT, MobileCLIP", r"pos_emb|network\.\d+", r"\.(pos_enc|pe|reparam_conv)", True, holds_input=REPARAM),
    Form("UniFormer, BiFormer", r"pos_embed", residual=True),
    Form("CMT", r"blocks_[a-d]\.\d+\.proj", residual=True),
    Form("MobileVLM", r"peg", r"\.peg\.0", residual=True),
    Form("Phenaki C-ViViT", r"(enc|dec)_(spatial|temporal)_\w+\.layers\.\d+\.0", r"\.dsconv", True, causal=True),
    Form("Phenaki MaskGIT", r"layers\.\d+\.0", r"\.dsconv", residual=True),
    Form("TransMIL", r"pos_layer", r"\.proj[12]?", residual=True),
    Form("CBraMod", r"positional_encoding", r"(\.0)?", residual=True),
    Form("YOLO10, 11, 12", r"pe", r"\.conv", residual=False, norm="bn", eps=YOLO_EPS),
    Form("SegFormer, PVTv2", r"mlp\.dwconv", r"(\.dwconv)?", residual=False),
    Form("Sana", r"ff\.conv_depth", residual=False),
    Form("ACE-Step, Sana", r"(ff|mlp)\.depth_conv", r"\.conv", residual=False),
    Form("BiFormer's LePE", r"lepe", residual=False),
)

REFUSED = {  # pattern of a weight's name -> why no PEG computes what its layer does
    r"(^|\.)pos_conv(_embed)?\.": "wav2vec 2.0's positional convolution (HuBERT's, WavLM's) mixes the channels of a "
    "group, normalises its weights and ends in an activation",
    r"(^|\.)cpe\.0\.weight$": "Point Transformer V3's xCPE is a sparse convolution that mixes all channels, with a "
    "linear layer and a norm after it",
}
