"""CPVT-mini trained at 64 pixels, trained on at 64, 96 and 128: the weights for photographs that come along.

    cpvt train recipes/imagenette_cpvt_mini_sizes.py --initial-checkpoint runs/imagenette_cpvt_mini

In the folder that holds imagenette/{train,test}/CLASS/*.jpg. A step trains at one of the sizes, under its object scale,
so that one model works from 64 to 224 pixels. Expected: about 30 minutes on one free CPU core; accuracy over sizes in
the model card (src/cpvt/models/weights/README.md).
"""

from dataclasses import replace
from pathlib import Path

from cpvt.config.recipes import read_recipe

first = read_recipe(Path(__file__).with_name("imagenette_cpvt_mini.py"))
config = replace(
    first,
    out="runs/imagenette_cpvt_mini_sizes",
    initial_checkpoint=first.out,
    train_sizes=(64, 96, 128),
    optim=replace(first.optim, epochs=15, lr=1e-3),
)
