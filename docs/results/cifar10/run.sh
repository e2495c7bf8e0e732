#!/bin/sh
# Every row of CIFAR-10, again: sh docs/results/cifar10/run.sh RUNS, from the folder that holds cifar10/{train,test}/CLASS/*.jpg
# (about eleven minutes a model on one core, 30 models; goes on where it stopped). Seeds are outermost: stopped early, it is a
# complete smaller set.
set -e
for seed in ${SEEDS:-0 1 2}; do
    for heads in "cls none learned sincos relative rope peg peg5 learned+peg" "gap learned peg5"; do
        pool=${heads%% *}
        python -m cpvt compare --data cifar10 --encodings ${heads#* } --pool $pool \
            --seeds $seed --epochs 4 --batch-size 64 --lr 2e-3 --scale paper protocol --canvas-sizes 24 32 48 64 96 --resize-sizes 24 32 48 64 96 \
            --parallel 1 --out "$1"
    done
done
python -m cpvt report "$1" --out "$(dirname "$0")"
cp "$1/rows.jsonl" "$(dirname "$0")/rows.jsonl"
python "$(dirname "$0")/../tables.py"
