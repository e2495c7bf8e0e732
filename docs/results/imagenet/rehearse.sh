#!/bin/sh
# Rehearses run.sh whole, small, on a CPU: sh docs/results/imagenet/rehearse.sh IMAGENETTE WORK, with
# IMAGENETTE/{train,test}/CLASS/*.jpg. Packs 400 and 200 of the images into shards in WORK, trains two encodings in two processes,
# sends SIGTERM in the middle of a training and in the middle of a test, resumes by the same command each time, and checks that
# every row is there once. About three minutes on one core. The log of the run that is committed: rehearsal.log.
set -eu
images=$(cd "$1" && pwd) here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$2" && cd "$2"
for part in train test; do
    for class in "$images/$part"/*; do
        mkdir -p "few/$part/$(basename "$class")"
        for image in $(ls "$class" | head -n $([ $part = train ] && echo 40 || echo 20)); do
            ln -sf "$class/$image" "few/$part/$(basename "$class")/"
        done
    done
done
COUNT=150 sh "$here/pack.sh" few shards
export ENCODINGS="peg rope+peg" SEEDS=0 SIZES="48 64 96 128" MODEL="cpvt_micro_gap(patch_size=8)" IMG_SIZE=64 DEVICE=cpu
export PROCESSES=2 PRECISION=fp32 WORKERS=1 EPOCHS=3 BATCH=32 OUT=out TRAIN_OPTIONS="--lr 2e-3"
interrupted() { # FILE: the command, which gets SIGTERM once there is such a file
    sh "$here/run.sh" shards runs &
    command=$!
    until [ -e "$1" ]; do
        kill -0 $command || { echo "rehearse.sh: the command ended without $1"; exit 1; }
        sleep 0.2
    done
    echo "rehearse.sh: SIGTERM"
    kill -TERM $command
    status=0
    wait $command || status=$?
    [ "$status" = 75 ] || { echo "rehearse.sh: expected exit status 75, got $status"; exit 1; }
}
interrupted runs/peg-0/training.pt                 # after an epoch
interrupted runs/rope+peg-0/protocol.part/rows.jsonl # after a size
sh "$here/run.sh" shards runs
sh "$here/run.sh" shards runs # nothing is left to do but the page
python - <<'CHECK'
from collections import Counter
from pathlib import Path

from cpvt.results.rows import read_rows

rows = read_rows(Path("out/rows.jsonl"))
counts = Counter((row.encoding, row.seed, row.scale_rule) for row in rows)
lines = len(Path("out/rows.jsonl").read_text().splitlines())
assert lines == len(rows) == 16 and set(counts.values()) == {4}, counts
assert {row.total for row in rows} == {200} and {row.size for row in rows} == {48, 64, 96, 128}
history = [Path(f"runs/{name}-0/history.jsonl").read_text().splitlines() for name in ("peg", "rope+peg")]
assert [len(each) for each in history] == [3, 3], history
print("rehearse.sh: all 16 rows are there, once each")
CHECK
