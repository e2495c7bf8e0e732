"""CPVT-Ti, five PEGs, global average pooling, on ImageNet at 224 pixels: DeiT's recipe, 300 epochs.

    accelerate launch --num_processes 8 -m cpvt train recipes/imagenet_cpvt_tiny_gap.py --data /data/imagenet

Published: 74.9 % top-1 (Chu et al., arXiv 2102.10882). Neither the number nor the training time is reproduced here.
If a process runs out of memory, accumulate gradients: --grad-accum-steps 4.
"""

from cpvt.config.recipes import imagenet

config = imagenet("cpvt_tiny_peg5_gap", out="runs/imagenet_cpvt_tiny_gap")
