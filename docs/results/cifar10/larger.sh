#!/bin/sh
# The larger version, for a GPU: sh docs/results/cifar10/larger.sh RUNS, from the folder that holds cifar10/{train,test}/CLASS/*.jpg.
# Width 192, 12 blocks, all images; EPOCHS says for how long. Never run yet: no GPU was at hand.
set -e
for seed in ${SEEDS:-0 1 2}; do
    for heads in "cls none learned sincos relative rope peg peg5 learned+peg" "gap learned peg5"; do
        pool=${heads%% *}
        python -m cpvt compare --data cifar10 --model "cpvt_tiny(patch_size=4)" --img-size 32 --encodings ${heads#* } --pool $pool \
            --seeds $seed --epochs ${EPOCHS:-100} --batch-size 256 --lr 1e-3 --drop-path 0.1 --clip-grad 1.0 --precision bf16 \
            --workers 8 --scale paper protocol --canvas-sizes 24 32 48 64 96 --resize-sizes 24 32 48 64 96 --device cuda --out "$1"
    done
done
