#!/bin/sh
# Trains the small models of four libraries that are swept on this page: sh docs/results/makers/train.sh SCENES RUNS
# SCENES: class folders of scene photographs (train/ and test/, 64x64 pixels). RUNS: where the runs go.
# Interrupted, the same command goes on where it stopped. About an hour on two cores, two trainings at once.
set -e
scenes=$1 runs=$2
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

train() {  # NAME MODEL SEED ...: trained alike but for the model
    name=$1 model=$2 seed=$3; shift 3
    python -m cpvt train --model "$model" --data "$scenes" --img-size 48 --epochs 12 --lr 1e-3 --batch-size 64 --seed "$seed" "$@" \
        --out "$runs/$name" > "$runs/$name.log" 2>&1
}

timm="timm:vit_tiny_patch16_224(patch_size=8, embed_dim=64, depth=4, num_heads=4)"
hf="hf:vit(patch_size=8, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256)"
mkdir -p "$runs"
{
    train timm-vit-0 "$timm" 0
    train hf-vit-0 "$hf" 0
    train torchvision-0 torchvision:mobilenet_v3_small 0
} &
first=$!
{
    train timm-vit-1 "$timm" 1
    train timm-vit-2 "$timm" 2
    train cpvt-0 cpvt_micro 0 --encoding peg --pool gap
} &
wait $first
wait $!
