#!/bin/sh
# The weights that come with the package and their card, again: sh docs/results/weights/run.sh RUNS, from the folder that holds
# cifar10/ and imagenette/, {train,test}/CLASS/*.jpg (an hour and an hour and three quarters of training on one core, and about
# an hour of tests). Trains in folders below RUNS (goes on where it stopped; a finished run is left as it is), ships what was
# trained, tests what was shipped, fills the card.
set -e
runs=$1 here=$(cd "$(dirname "$0")" && pwd)
recipes=$here/../../../recipes
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
rm -f "$here/rows.jsonl" # tested anew

python -m cpvt train "$recipes/cifar10_cpvt_mini.py" --scale paper --out "$runs/cifar10"
python "$recipes/ship.py" "$runs/cifar10" 40
for protocol in resize canvas; do
    python -m cpvt sweep cpvt_mini_peg5_gap --data cifar10 --protocols $protocol --sizes ${SIZES:-16 24 32 40 48 64 96} \
        --scale paper --out "$here"
done

name=cpvt_mini_patch8_64_peg5_gap
python -m cpvt train "$recipes/imagenette_cpvt_mini.py" --out "$runs/imagenette_cpvt_mini"
python -m cpvt train "$recipes/imagenette_cpvt_mini_sizes.py" --out "$runs/imagenette" \
    --initial-checkpoint "$runs/imagenette_cpvt_mini"
python "$recipes/ship.py" "$runs/imagenette" 128
python -m cpvt sweep $name --data imagenette --sizes 48 64 96 128 160 192 224 --out "$here"
python -m cpvt sweep $name --data imagenette --sizes 96 128 160 192 224 --scale paper --out "$here"
python "$here/card.py"
