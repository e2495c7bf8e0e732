"""CPVT-S, five PEGs, class token, on ImageNet at 224 pixels: DeiT's recipe, 300 epochs.

    accelerate launch --num_processes 8 -m cpvt train recipes/imagenet_cpvt_small.py --data /data/imagenet

Published: 80.5 % top-1 (Chu et al., arXiv 2102.10882). Neither that number nor the time it takes is reproduced here.
One process that runs out of memory takes its part of a step in several parts: --accumulate 4.
"""

from cpvt.config import Engine, Source, TrainConfig
from cpvt.recipes import deit

config = TrainConfig(
    out="runs/imagenet_cpvt_small",
    model="cpvt_small_peg5",
    test_every=10,
    engine=Engine(track=("tensorboard",)),
    source=Source(data="/data/imagenet", on_bad_picture="skip", loader_workers=8),
    recipe=deit(),
)
