"""CPVT-mini trained at 64 pixels, trained on at 64, 96 and 128: the weights for photographs that come along.

    cpvt train recipes/imagenette_cpvt_mini_sizes.py --initial-checkpoint runs/imagenette_cpvt_mini

In the folder that holds imagenette/{train,test}/CLASS/*.jpg. A step trains at one of the sizes and is told its scale,
so that one model works from 64 to 224 pixels. Expected: about 30 minutes on one free CPU core; accuracy over sizes in
the model card (src/cpvt/models/weights/README.md).
"""

from cpvt.config import DataConfig, OptimConfig, TrainConfig

config = TrainConfig(
    out="runs/imagenette_cpvt_mini_sizes",
    model="cpvt_mini_patch8_64_peg5_gap",
    initial_checkpoint="runs/imagenette_cpvt_mini",
    train_sizes=(64, 96, 128),
    dataset=DataConfig(data="imagenette"),
    optim=OptimConfig(
        epochs=15,
        batch_size=64,
        lr=1e-3,
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
