#!/bin/sh
# Trains five encodings alike on ImageNet at 224 pixels by DeiT's recipe, and tests each at ten sizes, given the scale and as
# published: sh docs/results/imagenet/run.sh DATA RUNS. DATA: a folder of images or of shards (pack.sh writes them); RUNS: where
# the trainings go. Checks first what is needed (check.py). Resumes where it stopped; on SIGTERM and Ctrl-C it saves and exits
# with 75. Seeds are outermost: stopped early, it is a complete smaller set. Everything can be set by the environment (below);
# ENCODINGS and SEEDS also divide the work among machines that share RUNS. What it costs: docs/paper-scale.md.
set -eu
data=${1:?"usage: run.sh DATA RUNS"} runs=${2:?"usage: run.sh DATA RUNS"} here=$(cd "$(dirname "$0")" && pwd)
: "${ENCODINGS:=peg peg5 rope+peg sincos+peg rope_mixed}" "${SEEDS:=0 1 2}" "${SIZES:=160 224 288 320 384 448 512 640 768 1024}"
: "${MODEL:=cpvt_small_gap}" "${IMG_SIZE:=224}" "${DEVICE:=cuda}" "${PROCESSES:=8}" "${PRECISION:=bf16}" "${WORKERS:=8}"
: "${TRAIN_OPTIONS:=}" "${TEST_OPTIONS:=}" "${OUT:=$here}" # more options of cpvt train and sweep; where rows and page go
export EPOCHS="${EPOCHS:-300}" BATCH="${BATCH:-2048}"      # read by recipe.py
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"             # of each process
export PYTHONPATH="$(cd "$here/../../.." && pwd)${PYTHONPATH:+:$PYTHONPATH}"

child=
stop() { # to this shell alone: the processes of the training finish their step and save
    trap '' TERM INT
    [ -z "$child" ] || { kill -TERM "$child" && wait "$child"; } 2> /dev/null || true
    echo "run.sh: stopped; the same command resumes"
    exit 75
}
trap stop TERM INT
launch() { # VERB OPTIONS: cpvt in several processes, each with a GPU
    python -m torch.distributed.run --standalone --nproc_per_node "$PROCESSES" -m -- cpvt "$@" &
    child=$!
    wait "$child"
    child=
}

finished() { # FILE WORDS: whether this was done already; ends where the file says that it was done otherwise
    [ -e "$1" ] || return 1
    [ "$(cat "$1")" = "$2" ] || {
        echo "run.sh: $(dirname "$1") was made by '$(cat "$1")' and is now asked for by '$2': delete it, or name other RUNS"
        exit 1
    }
}

set -- train "$here/recipe.py" --data "$data" --model "$MODEL" --img-size "$IMG_SIZE" --device "$DEVICE" \
    --precision "$PRECISION" --workers "$WORKERS" $TRAIN_OPTIONS
python "$here/check.py" --runs "$runs" --processes "$PROCESSES" --seeds $SEEDS --encodings $ENCODINGS -- "$@"
for seed in $SEEDS; do
    for encoding in $ENCODINGS; do
        run="$runs/$encoding-$seed"
        recipe="$MODEL, size $IMG_SIZE, $EPOCHS epochs, batch $BATCH, options $TRAIN_OPTIONS"
        if ! finished "$run/trained" "$recipe"; then
            echo "run.sh: trains $encoding, seed $seed"
            launch "$@" --encoding "$encoding" --seed "$seed" --out "$run"
            echo "$recipe" > "$run/trained"
        fi
        for rule in protocol paper; do
            ! finished "$run/$rule/tested" "sizes $SIZES, options $TEST_OPTIONS" || continue
            echo "run.sh: tests $encoding, seed $seed, scale $rule"
            rm -rf "$run/$rule.part"
            launch sweep "$run" --sizes $SIZES --scale "$rule" --longest-side 4096 --on-bad-image skip --workers "$WORKERS" \
                --device "$DEVICE" $TEST_OPTIONS --out "$run/$rule.part"
            echo "sizes $SIZES, options $TEST_OPTIONS" > "$run/$rule.part/tested"
            mv "$run/$rule.part" "$run/$rule"
        done
    done
done
mkdir -p "$OUT"
cat "$runs"/*/protocol/rows.jsonl "$runs"/*/paper/rows.jsonl > "$OUT/rows.jsonl"
python -m cpvt report "$OUT"
echo "run.sh: $(wc -l < "$OUT/rows.jsonl") rows in $OUT"
