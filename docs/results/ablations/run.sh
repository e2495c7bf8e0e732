#!/bin/sh
# Every row of the ablations, again: sh docs/results/ablations/run.sh RUNS, from the folder that holds cifar10/{train,test}/CLASS/*.jpg
# (about a quarter of an hour a model on one core, 48 models; goes on where it stopped). Seeds are outermost: stopped early, it is
# a complete smaller set.
#
# Six blocks, so that five PEGs differ from four. The paper's place p is at=(p + 1,): -1, 0 and 3 are at=(0,), peg and at=(4,). Its
# "last" would be at=(6,), but behind the last block nothing reaches the class token any more: here last is before that block, at=(5,).
# frozen leaves a PEG as drawn; kernel_size=1 in five places has the parameters and the places of five PEGs, and no neighbours.
set -e
for seed in ${SEEDS:-0 1 2}; do
    python -m cpvt compare --data cifar10 --model "cpvt_micro(depth=6)" --pool cls --encodings none "peg(at=(0,))" peg "peg(at=(4,))" \
        "peg(at=(5,))" "peg(at=(1, 2))" "peg(at=(1, 2, 3))" "peg(at=(1, 2, 3, 4))" peg5 "peg(kernel_size=5)" "peg(kernel_size=7)" \
        "peg(padding_mode='reflect')" "peg(padding_mode='replicate')" "peg(padding_mode='circular')" "peg(frozen=True)" \
        "peg5(kernel_size=1)" --seeds $seed --epochs 4 --batch-size 64 --lr 2e-3 --scale paper protocol --canvas-sizes 32 48 64 --resize-sizes 32 48 64 \
        --parallel 1 --out "$1"
done
python -m cpvt report "$1" --out "$(dirname "$0")"
cp "$1/rows.jsonl" "$(dirname "$0")/rows.jsonl"
python "$(dirname "$0")/../tables.py"
