"""CPVT-mini with five PEGs and global average pooling on Imagenette at 64 pixels: the first training of the weights.

    cpvt train recipes/imagenette_cpvt_mini.py     # in the folder that holds imagenette/{train,test}/CLASS/*.jpg

Width 96, 6 blocks, patches of 8 pixels. Most of a training belongs to the smallest size, where a step costs least;
imagenette_cpvt_mini_sizes.py goes on from here at several sizes (docs/training.md has what either brings). Expected:
about 70 minutes on one free CPU core.
"""

from cpvt.config import DataConfig, OptimConfig, TrainConfig

config = TrainConfig(
    out="runs/imagenette_cpvt_mini",
    model="cpvt_mini_patch8_64_peg5_gap",
    dataset=DataConfig(data="imagenette"),
    optim=OptimConfig(
        epochs=85,
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
