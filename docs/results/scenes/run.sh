#!/bin/sh
# Every row of the scenes, again: sh docs/results/scenes/run.sh RUNS, from the folder that holds scenes/{train,test}/CLASS/*.jpg
# (about three minutes a model on one core, 30 models; goes on where it stopped). Seeds are outermost: stopped early, it is a
# complete smaller set.
set -e
for seed in ${SEEDS:-0 1 2}; do
    for heads in "cls none learned sincos relative rope peg peg5 learned+peg" "gap learned peg5"; do
        pool=${heads%% *}
        python -m cpvt compare --data scenes --model "cpvt_micro(patch_size=8)" --img-size 48 --encodings ${heads#* } --pool $pool \
            --seeds $seed --epochs 12 --batch-size 64 --lr 2e-3 --scale paper protocol --canvas-sizes 32 48 64 96 128 --resize-sizes 32 48 64 96 128 \
            --parallel 1 --out "$1"
    done
done
python -m cpvt report "$1" --out "$(dirname "$0")"
cp "$1/rows.jsonl" "$(dirname "$0")/rows.jsonl"
python "$(dirname "$0")/../tables.py"
