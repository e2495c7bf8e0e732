#!/bin/sh
# Every figure of docs/encodings.md, again: sh docs/results/encodings/run.sh RUNS. 72 models (23 encodings, PEG under GAP too) and 48 of options,
# a minute or less each on one core, two at once; then their cost, about ten minutes. Resumes where it stopped. Each model is
# trained once and tested twice: given the scale that is true under the protocol, and without scale, as published ('paper').
set -e
runs=$1 here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
compare() {
    name=$1 && shift
    python -m cpvt compare --seeds 0 1 2 --canvas-sizes 32 40 48 64 96 --resize-sizes 16 24 32 40 48 64 96 \
        --scale protocol paper --parallel 2 --out "$runs/$name" --encodings "$@"
    mkdir -p "$here/$name" && cp "$runs/$name/rows.jsonl" "$runs/$name/compare.json" "$here/$name/"
}
compare digits all rope+peg sincos+peg learned+peg alibi+peg rope_mixed+peg
compare options "rope(tuned=True)" "rope(coordinates='raw')" "rope_mixed(coordinates='raw')" "alibi(tuned=True)" \
    "alibi(use_scale=True)" "lookhere(tuned=True)" "lookhere(use_scale=True)" "lookhere(view=90)" "lookhere(view=45)" \
    "lookhere(view=45, use_scale=True)" "rope_dino(jitter=None)" "rope(jitter='dino')" \
    "learned(jitter='fpe')" "sincos(jitter='cape')" "lepe(kernel_size=7)" "fire(distance='euclidean')"
unset OMP_NUM_THREADS MKL_NUM_THREADS
python -m benchmarks --only encodings
python "$here/tables.py"
