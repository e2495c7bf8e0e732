"""CPVT-mini with five PEGs and global average pooling on Imagenette: the weights for photographs that come along.

    cpvt train recipes/imagenette_cpvt_mini.py     # in the folder that holds imagenette/{train,test}/CLASS/*.jpg

Width 96, 6 blocks, patches of 8 pixels; trained at 64, 96 and 128 pixels in turn, told the scale of each step, so that
one model works from 64 to 224 pixels. Expected: about an hour on one free CPU core; accuracy over sizes in the model
card (src/cpvt/models/weights/README.md).
"""

from cpvt.config import DataConfig, OptimConfig, TrainConfig

config = TrainConfig(
    out="runs/imagenette_cpvt_mini",
    model="cpvt_mini_patch8_64_peg5_gap",
    train_sizes=(64, 96, 128),
    dataset=DataConfig(data="imagenette"),
    optim=OptimConfig(
        epochs=60,
        batch_size=64,
        lr=2e-3,
        weight_decay=0.05,
        clip_grad=1.0,
        drop_path=0.05,
        crop_scale=(0.25, 1.0),
        mixup=0.2,
        cutmix=1.0,
        mixup_prob=0.5,
        model_ema_decay=0.999,
    ),
)
