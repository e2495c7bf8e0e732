#!/bin/sh
# The weights that come with the package and their card, again: sh docs/results/weights/run.sh RUN, from the folder that holds
# cifar10/{train,test}/CLASS/*.jpg (an hour and a half of training on one core, and about an hour of tests). Trains in the folder
# RUN (goes on where it stopped; a finished run is left as it is), ships it, tests what was shipped, fills the card.
set -e
run=$1 here=$(cd "$(dirname "$0")" && pwd)
recipes=$here/../../../recipes name=cpvt_mini_peg5_gap
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
python -m cpvt train "$recipes/cifar10_cpvt_mini.py" --out "$run"
python "$recipes/ship.py" "$run" 40
rm -f "$here/rows.jsonl" # tested anew
for protocol in resize canvas; do
    python -m cpvt sweep $name --data cifar10 --protocols $protocol --sizes ${SIZES:-16 24 32 40 48 64 96} --out "$here"
done
python "$here/card.py"
