"""CPVT-mini with five PEGs and global average pooling on CIFAR-10: the weights that come with the package.

    cpvt train recipes/cifar10_cpvt_mini.py     # in the folder that holds cifar10/{train,test}/CLASS/*.jpg

Width 96, 6 blocks, patches of 4 pixels; trained at 24, 32 and 40 pixels in turn, so that one model works at many sizes.
Those weights were trained without object scale: add --scale paper for the same. As it stands the model is given the
scale, which in a short trial held better at larger sizes (docs/scale.md).
Expected: about an hour on one free CPU core, 80 % accuracy at 32 pixels; more in the model card
(src/cpvt/models/weights/README.md).
"""

from cpvt.config import DataConfig, OptimConfig, TrainConfig

config = TrainConfig(
    out="runs/cifar10_cpvt_mini",
    model="cpvt_mini_peg5_gap",
    train_sizes=(24, 32, 40),
    dataset=DataConfig(data="cifar10"),
    optim=OptimConfig(
        epochs=15,
        batch_size=128,
        lr=2e-3,
        weight_decay=0.05,
        clip_grad=1.0,
        crop_scale=(0.5, 1.0),
        model_ema_decay=0.999,
    ),
)
