"""Two processes that train one model: the same losses and weights as one process with the same batches, DDP and FSDP2."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cpvt
from cpvt.cli import main, parse
from cpvt.training import train

PLAIN = ["--batch-size", "6", "--epochs", "2", "--lr", "1e-3", "--train-size", "8"]
WHOLE = [
    *PLAIN,
    "--mixup",
    "0.8",
    "--cutmix",
    "1.0",
    "--ema",
    "0.9",
    "--clip-grad",
    "1.0",
    "--repeats",
    "2",
    "--layer-decay",
    "0.8",
]
PARTS = [
    *PLAIN,
    "--batch-size",
    "5",
    "--accumulate",
    "3",
]  # shares of two and three pictures, and steps that one has none of
SIZES = [*PLAIN, "--train-sizes", "8", "12", "16", "--augment", "resized-crop", "--on-bad-picture", "skip"]


def run(folder, out, options, env):
    """Train on a folder by the command line in two processes; returns what the command printed."""
    launcher = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--rdzv_backend=c10d",
        "--rdzv_endpoint=localhost:0",
    ]
    script = str(Path(__file__).with_name("together.py"))
    command = [
        sys.executable,
        *launcher,
        script,
        "train",
        "--data",
        str(folder),
        "--out",
        str(out),
        "--device",
        "cpu",
        *options,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(out):
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines], [line["pictures"] for line in lines]


def assert_alike(first, second):
    one, two = (load_file(out / "model.safetensors") for out in (first, second))
    for name, tensor in one.items():
        places = slice(None)
        if name.endswith(
            "qkv.bias"
        ):  # a bias on all keys changes no attention: Adam makes steps of the noise in its gradient
            places = torch.arange(len(tensor)) // (len(tensor) // 3) != 1
        alike = torch.isclose(two[name][places], tensor[places], atol=2e-5, rtol=1e-4).float().mean()
        assert alike > 0.998, name  # a gradient that is zero by chance makes noise of any weight
    (before, seen), (after, seen_too) = losses(first), losses(second)
    assert after == pytest.approx(before, rel=1e-5)
    assert seen == seen_too


def begin(folder, out, options, step):
    """The first steps of a training, in this process alone."""

    def interrupt(what, done, total, words):
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(parse(["train", "--data", str(folder), "--out", str(out), "--device", "cpu", *options]), interrupt)


@pytest.mark.parametrize(
    ("options", "shard"),
    [(WHOLE, ["--shard"]), (WHOLE, []), (SIZES, []), (PARTS, {"ACCELERATE_USE_FSDP": "true"})],  # as accelerate says it
    ids=["whole-fsdp", "whole-ddp", "sizes-ddp", "parts-fsdp"],
)
def test_two_processes_learn_what_one_learns(tmp_path, tiny_folder, options, shard):
    if options is SIZES:
        (tiny_folder / "train" / "cat" / "bad.png").write_text("no picture")
    main(["train", "--data", str(tiny_folder), "--out", str(tmp_path / "one"), "--device", "cpu", *options])
    if options is WHOLE:  # what one process began, two go on with
        begin(tiny_folder, tmp_path / "two", [*options, "--save-minutes", "0"], step=2)
    told = run(
        tiny_folder,
        tmp_path / "two",
        [*options, *(shard if isinstance(shard, list) else [])],
        env=dict(shard or {}) if isinstance(shard, dict) else {},
    )
    looks = [json.loads(found) for found in re.findall(r"LOOK (\{.*?\})", told)]
    assert len(looks) == 2
    for look in looks:
        assert look["kinds"] == (["DTensor"] if shard else ["Parameter"])
        assert look["wrapper"] == ("FSDPVisionTransformer" if shard else "DistributedDataParallel")
        assert not shard or look["local"] < 0.7 * look["all"]
    assert_alike(tmp_path / "one", tmp_path / "two")
    json.loads(told.splitlines()[-1])
    one, two = (json.loads((tmp_path / out / "rows.jsonl").read_text()) for out in ("one", "two"))
    assert (two["correct"], two["total"], two["hits"]) == (one["correct"], 6, one["hits"])
    assert len((tmp_path / "two" / "rows.jsonl").read_text().splitlines()) == 1


def test_two_processes_share_a_stream_and_test_it_exactly(tmp_path, tiny_folder):
    pytest.importorskip("datasets")
    stream = ["--data-root", str(tmp_path / "cache"), "--shuffle", "4", "--epoch-pictures", "11"]
    run(f"hfids/{tiny_folder}", tmp_path / "run", [*PLAIN, *stream], env={})
    assert losses(tmp_path / "run")[1] == [11, 11]  # uneven parts, each picture once
    row = json.loads((tmp_path / "run" / "rows.jsonl").read_text())
    assert row["total"] == 6
    alone = next(cpvt.sweep(tmp_path / "run", str(tiny_folder), [8]))
    assert row["correct"] == alone.correct
