#!/bin/sh
# Retrofits the three seeds of timm's small ViT that docs/results/makers/train.sh trained at 48 pixels, and tests before and after:
# sh docs/results/retrofit/run.sh SCENES LIBRARIES RUNS, where LIBRARIES holds timm-vit-0, -1, -2. Goes on where it stopped.
set -e
scenes=$1 libraries=$2 runs=$3 here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
mkdir -p "$runs"
for seed in 0 1 2; do
    for absolute in fade keep; do
        control=--control
        test $absolute = keep && control=--no-control # the control is the same
        python -m cpvt retrofit "$libraries/timm-vit-$seed" --data "$scenes" --at 1 --absolute $absolute $control --epochs 3 --lr 3e-4 --batch-size 64 \
            --seed $seed --sizes 32 48 64 96 128 --out "$runs/$absolute-$seed" > "$runs/$absolute-$seed.log" 2>&1
    done
done
python -m cpvt report "$runs"/fade-? "$runs"/keep-? --out "$runs/page"
{ cat "$runs"/fade-?/rows.jsonl; grep -hv '"encoding": "as it came"' "$runs"/keep-?/rows.jsonl; } > "$here/rows.jsonl"
python "$here/tables.py"
