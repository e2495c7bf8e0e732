#!/bin/sh
# Every figure of docs/scale.md, again: sh docs/results/scale/run.sh RUNS, from the folder that holds scenes/ and imagenette/
# ({train,test}/CLASS/*). Digits: 33 models, about half an hour on two cores; scenes: 9 models, about three minutes each on one
# core; Imagenette: 4 models, about six minutes each. Resumes where it stopped. Each model is trained once and tested twice: with
# the scale that is true under the protocol, and without scale, as published ('paper').
set -e
runs=$1 here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
python -m cpvt compare --encodings none learned sincos relative rope peg peg5 rope+peg sincos+peg learned+peg --seeds 0 1 2 \
    --canvas-sizes 32 40 48 64 96 --resize-sizes 16 24 32 40 48 64 96 --scale protocol paper --parallel 2 --out "$runs/digits"
python -m cpvt compare --encodings "learned(coordinates='object')" "sincos(coordinates='object')" "rope(coordinates='object')" \
    "rope(coordinates='object')+peg" "sincos(coordinates='object')+peg" "learned(coordinates='object')+peg" --seeds 0 1 2 \
    --protocols canvas --canvas-sizes 32 40 48 64 96 --parallel 2 --out "$runs/object-coordinates"
python "$here/auto.py" "$runs/digits" | tee "$here/auto.log"
[ -d scenes ] && python -m cpvt compare --data scenes --model "cpvt_micro(patch_size=8)" --img-size 48 --pool cls --seeds 0 1 2 \
    --encodings peg rope rope+peg --epochs 12 --batch-size 64 --lr 2e-3 --parallel 1 --scale protocol paper \
    --canvas-sizes 48 64 96 128 --resize-sizes 48 64 96 128 --out "$runs/scenes"
[ -d imagenette ] && python -m cpvt compare --data imagenette --model "cpvt_micro(patch_size=8)" --img-size 64 --pool gap \
    --encodings peg rope+peg rope learned --epochs 12 --batch-size 64 --lr 2e-3 --parallel 1 --protocols resize \
    --scale protocol paper "fit*0.91" "fit*0.85" --resize-sizes 64 96 128 192 --out "$runs/imagenette"
if [ -d cifar10 ]; then
    for rule in fit paper; do
        python -m cpvt train "$here/../../../recipes/cifar10_cpvt_mini.py" --out "$runs/cifar10-$rule" --epochs 5 --scale $rule
        python -m cpvt sweep "$runs/cifar10-$rule" --sizes 24 32 40 48 64 96 --limit 2000 --scale $rule --out "$runs/cifar10"
    done
    mkdir -p "$here/cifar10" && cp "$runs/cifar10/rows.jsonl" "$here/cifar10/"
fi
for set in digits scenes imagenette; do
    [ -d "$runs/$set" ] && mkdir -p "$here/$set" && cp "$runs/$set/rows.jsonl" "$runs/$set/compare.json" "$here/$set/"
done
cp "$runs/object-coordinates/rows.jsonl" "$here/digits/object-coordinates.jsonl"
python "$here/draw.py"
python "$here/tables.py"
