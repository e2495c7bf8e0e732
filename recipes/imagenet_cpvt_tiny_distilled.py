"""CPVT-Ti, five PEGs, distilled from a RegNetY-16GF (hard distillation), on ImageNet at 224 pixels, 300 epochs.

    accelerate launch --num_processes 8 -m cpvt train recipes/imagenet_cpvt_tiny_distilled.py --data /data/imagenet
    ... --teacher timm:regnety_160.deit_in1k --teacher-checkpoint teacher.safetensors       # without a network

Published: 75.9 % top-1 (Chu et al., arXiv 2102.10882). Neither the number nor the training time is reproduced here.
"""

from cpvt.config.recipes import imagenet

config = imagenet("cpvt_tiny_peg5", out="runs/imagenet_cpvt_tiny_distilled", teacher="timm:regnety_160.deit_in1k")
