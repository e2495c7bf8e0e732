#!/bin/sh
# Tests the models that train.sh trained, on scenes, and draws the page: sh docs/results/makers/sweep.sh RUNS (some twenty minutes on two cores)
set -e
runs=$1 here=$(dirname "$0")
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
rm -f "$here/rows.jsonl" # tested anew
for name in cpvt-0 timm-vit-0 timm-vit-1 timm-vit-2 hf-vit-0 torchvision-0; do
    python -m cpvt sweep "$runs/$name" --protocols resize --sizes 32 48 64 96 128 --scale paper --out "$here"
    python -m cpvt sweep "$runs/$name" --protocols canvas --sizes 32 40 48 56 64 --scale paper --out "$here"
done
python -m cpvt report "$here"
