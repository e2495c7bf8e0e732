#!/bin/sh
# Every row of docs/imagenette.md, again: sh docs/results/imagenette/run.sh RUNS, from the folder that holds
# imagenette/{train,test}/CLASS/*.jpg (photographs of 224 pixels). A model takes eight minutes to train on one free core and three to
# test; 86 models, those of several sizes twice as long. Goes on where it stopped; seeds are outermost. PARTS="resize distances recipes
# crops" chooses parts.
set -e
runs=$1 here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
model="cpvt_micro(patch_size=8)"
alike="--data imagenette --img-size 64 --pool gap --epochs 20 --lr 2e-3 --batch-size 64 --parallel 1 --device cpu"
tests="--protocols resize --sizes 48 64 96 128 192 224"
three="learned sincos lepe rope rope_mixed alibi lookhere peg peg5 rope+peg sincos+peg learned+peg rope_mixed+peg alibi+peg lookhere+peg"
one="none lepe+rope lookhere(view=45) lookhere(view=45)+peg rope_dino fire cpb relative factorized fourier glpe irpe"
distances="lookhere(use_scale=True) alibi(use_scale=True)" distances_one="lookhere(view=45,use_scale=True) alibi(use_scale=True)+peg" # distances divided by the scale

compare() { # FOLDER OPTIONS...: trains and tests, and keeps the rows
    out=$1
    shift
    python -m cpvt compare --model "$model" $alike --scale protocol paper --out "$runs/$out" "$@"
    cp "$runs/$out/rows.jsonl" "$here/$out.jsonl"
}

for part in ${PARTS:-resize distances recipes crops}; do
    case $part in
    resize)
        compare rows --encodings $three --seeds ${SEEDS:-0 1 2} $tests
        compare rows --encodings $three $one --seeds 0 $tests
        ;;
    distances)
        compare distances --encodings $distances --seeds ${SEEDS:-0 1 2} $tests
        compare distances --encodings $distances $distances_one --seeds 0 $tests
        ;;
    recipes)
        sizes="--train-sizes 64 96 128"
        compare recipes/turn --encodings rope+peg --seeds ${SEEDS:-0 1 2} $sizes $tests
        compare recipes/all --encodings rope+peg --seeds 0 --epochs 5 $sizes --sizes-per-step all --consistency 1 $tests
        compare recipes/longer --encodings rope+peg --seeds 0 --epochs 38 $tests
        for each in rope+peg:0 rope+peg:1 rope+peg:2 sincos+peg:1 peg5:1 sincos:1 lookhere:1 rope_mixed:1; do
            encoding=${each%:*} seed=${each#*:}
            own="--encoding $encoding --pool gap --data imagenette --img-size 64 --batch-size 64 --device cpu --seed $seed"
            first="$runs/rows/runs/$encoding-gap-seed$seed" then="$runs/recipes/then-$encoding-$seed"
            [ -e "$first" ] || python -m cpvt train --model "$model" $own --epochs 20 --lr 2e-3 --out "$first"
            python -m cpvt train --model "$model" $own --epochs 10 --lr 1e-3 $sizes --initial-checkpoint "$first" --out "$then"
            python -m cpvt sweep "$then" $tests
        done
        longest=$runs/recipes/longest-0
        python -m cpvt train --initial-checkpoint "$runs/recipes/longer/runs/rope+peg-gap-seed0" --data imagenette --epochs 5 \
            --lr 1e-3 --batch-size 64 --device cpu --seed 0 $sizes --out "$longest"
        python -m cpvt sweep "$longest" $tests
        cp "$longest/rows.jsonl" "$here/recipes/longest.jsonl"
        cat "$runs"/recipes/then-*/rows.jsonl > "$here/recipes/then.jsonl"
        ;;
    crops)
        compare crops --encodings learned rope lookhere peg peg5 rope+peg sincos+peg --seeds ${SEEDS:-0} --augment crop \
            --longest-side 112 --protocols canvas --canvas-sizes 64 80 96 112
        ;;
    esac
done
python "$here/draw.py"
python "$here/tables.py"
