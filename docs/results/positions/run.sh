#!/bin/sh
# Everything on this page, again: sh docs/results/positions/run.sh RUNS (about an hour and a half on two cores; goes on where it stopped).
set -e
runs=$1 here=$(dirname "$0")
python -m cpvt compare --data digits --encodings none learned sincos relative rope peg peg5 "peg(padding_mode='reflect')" \
    "peg(padding_mode='replicate')" "peg(padding_mode='circular')" "peg(at=(0,))" "peg(at=(1, 2))" "peg(kernel_size=7)" \
    --pool cls --seeds 0 1 2 --scale paper --out "$runs"
cp "$runs/rows.jsonl" "$here/rows.jsonl"
for seed in 0 1 2; do
    for run in "$runs"/runs/*-cls-seed$seed; do
        probes="order translation position"
        case $(basename "$run") in none-* | learned-* | sincos-* | relative-* | rope-* | peg-cls-*) probes="" ;; esac
        found="$runs/probes/$(basename "$run")"
        test -f "$found/done" || { rm -rf "$found"; python -m cpvt probe "$run" --data digits --scale paper ${probes:+--probes $probes} --out "$found"; touch "$found/done"; }
    done
done
python "$here/valid.py" "$runs/valid"
python "$here/tables.py" "$runs"
