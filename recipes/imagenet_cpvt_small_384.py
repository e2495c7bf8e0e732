"""CPVT-S trained at 224 pixels, fine-tuned at 384: DeiT's recipe for other sizes, 30 epochs.

    accelerate launch --num_processes 8 -m cpvt train recipes/imagenet_cpvt_small_384.py --data /data/imagenet \\
        --initial-checkpoint runs/imagenet_cpvt_small

Learning rate 5e-6 for 512 images, no warm-up, weight decay 1e-8, no repeated augmentation (Touvron et al., arXiv
2012.12877). Published for CPVT-S with one PEG without fine-tuning: 80.4 % top-1 at 384 (Chu et al., arXiv 2102.10882);
no fine-tuned number is published, and none was measured here.
"""

from dataclasses import replace

from cpvt.config.recipes import deit, imagenet

config = imagenet(
    "cpvt_small_peg5",
    out="runs/imagenet_cpvt_small_384",
    initial_checkpoint="runs/imagenet_cpvt_small",
    img_size=384,
    optim=replace(
        deit(batch_size=512, epochs=30),
        lr=5e-6,
        min_lr=1e-6,
        warmup_ratio=0.0,
        weight_decay=1e-8,
        aug_repeats=1,
        model_ema_decay=None,
    ),
)
