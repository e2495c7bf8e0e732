#!/bin/sh
# All that needs a GPU, in one command of under 25 minutes: sh benchmarks/gpu.sh [OUT], from the repository root, with the
# package and its extra `dev` installed (`python` must find them). Resumes: a step that is done is not run again. Each step
# has a log in OUT (default benchmarks/results/gpu); commit that folder. With cifar10/{train,test}/CLASS/* in this folder the
# larger training on CIFAR-10 runs in the time that is left, resumable too.
out=${1:-benchmarks/results/gpu} limit=1440 start=$(date +%s)
mkdir -p "$out"
left() { echo $((limit - ($(date +%s) - start))); }
step() { # NAME COMMAND...: runs it unless it is done, for as long as there is time
    name=$1 && shift
    [ -e "$out/$name.done" ] && echo "$name: done before" && return
    [ "$(left)" -gt 30 ] || { echo "$name: no time left; run the same command again"; return; }
    echo "$name: $*"
    if timeout "$(left)" "$@" > "$out/$name.log" 2>&1; then touch "$out/$name.done"; else echo "$name: ended with $?"; fi
    tail -n 3 "$out/$name.log"
}
python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "gpu.sh needs a GPU that torch sees"; exit 1; }
step machine python -c 'import torch; print(torch.__version__, torch.cuda.get_device_name(), torch.version.cuda)'
step tests python -m pytest -q tests/ops tests/models/test_packing.py tests/models/test_compile.py tests/training/test_options.py
step fused python -m benchmarks --only fused --out "$out"
step gpu python -m benchmarks --only gpu --out "$out"
step compare python -m cpvt compare --quick --seeds 0 --device cuda --out "$out/quick"
[ -d cifar10 ] && step cifar10 python -m cpvt train recipes/cifar10_cpvt_mini.py --device cuda --precision bf16 --workers 8 \
    --epochs 60 --out "$out/cifar10"
[ -d "$out/cifar10" ] && step sweep python -m cpvt sweep "$out/cifar10" --sizes 24 32 40 48 64 96 --out "$out/cifar10"
rm -rf "$out/quick/runs"
