"""CPVT-S, global average pooling, on ImageNet at 224 pixels: DeiT's recipe; `--encoding` says which.

    EPOCHS=300 BATCH=2048 cpvt train docs/results/imagenet/recipe.py --data /data/imagenet --encoding peg

run.sh trains five encodings by it. EPOCHS and BATCH are of the environment, because warm-up and learning rate follow
from them. Nothing of it was run at this scale.
"""

import os

from cpvt.config import DataConfig, TrainConfig
from cpvt.config.recipes import DEIT_EPOCHS, deit

config = TrainConfig(
    out="runs/imagenet",
    model="cpvt_small_gap",
    img_size=224,
    test_every=10,
    optim=deit(int(os.environ.get("BATCH", 2048)), int(os.environ.get("EPOCHS", DEIT_EPOCHS))),
    dataset=DataConfig(data="/data/imagenet", on_bad_image="skip", workers=8),
)
