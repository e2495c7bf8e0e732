"""Two processes train one model as one process does with the same batches, under DDP and FSDP2."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch

import cpvt
from cpvt.cli import main, parse
from cpvt.results.folders import has_state
from cpvt.training import EXIT_CODE, train
from tests.training.runs import history, weights
from tests.training.together import finish, start, sweep_with_failures_in_one_process, train_into_a_full_disk

PLAIN = "--batch-size 6 --epochs 2 --lr 1e-3 --img-size 8"
WHOLE = f"{PLAIN} --mixup 0.8 --cutmix 1.0 --model-ema-decay 0.9 --clip-grad 1.0 --aug-repeats 2 --layer-decay 0.8"
SIZES = f"{PLAIN} --train-sizes 8 12 16 --augment resized-crop --on-bad-image skip"
VIEWS = f"{SIZES} --batch-size 5 --sizes-per-step all --consistency 1"
SGD = f"{PLAIN} --opt sgd --lr 0.05"  # unlike Adam, it depends on the scale of a gradient
PARTS = f"{PLAIN} --batch-size 5 --grad-accum-steps 3"  # parts of two and three images, and of none
DDP, FSDP = ("DistributedDataParallel", "Parameter"), ("FSDPVisionTransformer", "DTensor")


def command(data, out, options):
    return ["train", "--data", str(data), "--out", str(out), "--device", "cpu", *options.split()]


def assert_alike(first, second):
    one, two = weights(first), weights(second)
    for name, tensor in one.items():
        places = slice(None)
        if name.endswith(
            "qkv.bias"
        ):  # a bias on all keys changes no attention: Adam amplifies the noise of its gradient
            places = torch.arange(len(tensor)) // (len(tensor) // 3) != 1
        alike = torch.isclose(two[name][places], tensor[places], atol=2e-5, rtol=1e-4).float().mean()
        assert alike > 0.998, name  # a zero gradient makes noise of a weight
    before, after = history(first), history(second)
    assert [line["loss"] for line in after] == pytest.approx([line["loss"] for line in before], rel=1e-5)
    assert [line["images"] for line in after] == [line["images"] for line in before]


def begin(folder, out, options, step):
    """The first steps of a training, in this process."""

    def interrupt(what, done, total, message):
        if done == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(parse(command(folder, out, options)), interrupt)


@pytest.mark.parametrize(
    ("options", "how", "env", "form"),
    [
        (WHOLE, "--fsdp", {}, FSDP),
        (WHOLE, "", {}, DDP),
        (SIZES, "", {}, DDP),
        (VIEWS, "", {}, DDP),
        (f"{VIEWS} --batch-size 5 --grad-accum-steps 3", "", {"ACCELERATE_USE_FSDP": "true"}, FSDP),
        (PARTS, "", {"ACCELERATE_USE_FSDP": "true"}, FSDP),  # as accelerate sets it
        (SGD, "--grad-accum-steps 2", {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8"}, DDP),  # as a launcher may set it
        (f"{SGD} --augment native", "--grad-accum-steps 2", {}, DDP),
        (f"{PLAIN} --teacher TEACHER", "", {}, DDP),
    ],
    ids=[
        "whole-fsdp",
        "whole-ddp",
        "sizes-ddp",
        "views-ddp",
        "views-fsdp",
        "parts-fsdp",
        "parts-ddp",
        "native-ddp",
        "taught-ddp",
    ],
)
def test_two_processes_train_like_one(tmp_path, tiny_folder, options, how, env, form):
    if SIZES in options:
        (tiny_folder / "train" / "cat" / "bad.png").write_text("no image")
    if "TEACHER" in options:
        options = options.replace("TEACHER", str(tmp_path / "teacher"))
        main(command(tiny_folder, tmp_path / "teacher", f"{PLAIN} --pool gap"))
    main(command(tiny_folder, tmp_path / "one", options))
    if options is WHOLE:  # two processes resume what one began
        begin(tiny_folder, tmp_path / "two", f"{options} --save-minutes 0", step=2)
    output = finish(start(tmp_path, command(tiny_folder, tmp_path / "two", f"{options} {how}"), **env), tmp_path)
    sharding = json.loads(re.search(r"SHARDING (\{.*?\})", output)[1])
    assert (sharding["wrapper"], *sharding["kinds"]) == form
    assert form is DDP or sharding["local"] < 0.7 * sharding["all"]
    assert_alike(tmp_path / "one", tmp_path / "two")
    json.loads(output.splitlines()[-1])
    one, two = (json.loads((tmp_path / out / "rows.jsonl").read_text()) for out in ("one", "two"))
    assert (two["correct"], two["total"], two["hits"]) == (one["correct"], 6, one["hits"])
    assert two["class_totals"] == [3, 3]
    assert (two["class_correct"], two["confusion"]) == (one["class_correct"], one["confusion"])


def test_two_processes_share_a_stream_and_test_exactly(tmp_path, tiny_folder):
    pytest.importorskip("datasets")
    stream = f"{PLAIN} --data-dir {tmp_path / 'cache'} --shuffle-buffer 4 --train-num-samples 11"
    finish(start(tmp_path, command(f"hfids/{tiny_folder}", tmp_path / "run", stream)), tmp_path)
    assert [line["images"] for line in history(tmp_path / "run")] == [11, 11]  # uneven parts, each image once
    row = json.loads((tmp_path / "run" / "rows.jsonl").read_text())
    assert row["total"] == 6
    alone = next(cpvt.sweep(tmp_path / "run", str(tiny_folder), [8]))
    assert row["correct"] == alone.correct
    assert (row["hits"], alone.hits is None) == (None, False)  # which image is which is known to one process alone
    assert row["class_totals"] == [3, 3]
    assert (tuple(row["class_correct"]), tuple(map(tuple, row["confusion"]))) == (alone.class_correct, alone.confusion)


def test_two_processes_save_on_sigterm_and_one_resumes(tmp_path, tiny_folder):
    main(command(tiny_folder, tmp_path / "one", PLAIN))
    two = command(tiny_folder, tmp_path / "two", PLAIN)
    started = start(tmp_path, two, pause=0.5)  # so that the signal arrives before the end
    while not (tmp_path / "two" / "checkpoint.json").exists():  # an epoch is complete
        assert all(child.is_alive() for child in started), finish(started, tmp_path)
        time.sleep(0.05)
    for child in started:
        child.terminate()
    assert "The same command resumes from there" in finish(started, tmp_path, code=EXIT_CODE)
    assert has_state(tmp_path / "two")
    main(two)
    assert_alike(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("nan", ["not finite for 3 of 6 images"] * 2),
        ("refused", ["8 pixels are too few", "refused the images of another process"]),
    ],
)
def test_what_fails_in_one_process_is_refused_in_all(tmp_path, tiny_folder, failure, words):
    started = start(tmp_path, str(tiny_folder), target=sweep_with_failures_in_one_process, FAILURE=failure)
    finish(started, tmp_path)
    for rank, expected in enumerate(words):
        first, second = (tmp_path / f"output-{rank}.txt").read_text().splitlines()[-2:]
        assert expected in first
        assert second == "None 6"  # the next size, which no process refuses


@pytest.mark.parametrize(
    ("writer", "writes"), [("write_state", 0), ("save_checkpoint", 0), ("save_checkpoint", 1), ("write_lines", 1)]
)
def test_what_the_main_process_cannot_save_ends_every_process(tmp_path, tiny_folder, writer, writes):
    shutil.copytree(tiny_folder / "test", tiny_folder / "val")
    line = [*command(tiny_folder, tmp_path / "run", PLAIN), "--test-every", "1", "--keep-best"]
    finish(start(tmp_path, line, target=train_into_a_full_disk, WRITER=writer, WRITES=str(writes)), tmp_path)
    ends = [(tmp_path / f"output-{rank}.txt").read_text().splitlines()[-1] for rank in range(2)]
    assert "saving failed (No space left on device)" in ends[0]
    assert "saving failed in the main process" in ends[1]


def test_torchrun_starts_the_processes(tmp_path, tiny_folder):
    main(command(tiny_folder, tmp_path / "one", PLAIN))
    torchrun = "-m torch.distributed.run --nproc_per_node=2 --rdzv_backend=c10d --rdzv_endpoint=localhost:0 -m cpvt"
    output = subprocess.run(
        [sys.executable, *torchrun.split(), *command(tiny_folder, tmp_path / "two", PLAIN)],
        capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300,
    )  # fmt: skip
    assert output.returncode == 0, output.stderr[-3000:]
    assert json.loads((tmp_path / "two" / "checkpoint.json").read_text())["provenance"]["processes"] == 2
    assert_alike(tmp_path / "one", tmp_path / "two")
