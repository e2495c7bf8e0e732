"""Real faults: killed processes, a full disk, damaged files. Nothing is lost, and the run resumes."""

import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cpvt
from cpvt.config import DataConfig, OptimConfig, RuntimeConfig, TrainConfig
from cpvt.results.folders import PREVIOUS_STATE, STATE
from cpvt.training import DivergedError, loss, resume, train
from cpvt.training.resume import read_state
from tests.children import children
from tests.training import together
from tests.training.runs import assert_same, weights

STEPS = 24  # in the whole training
RECIPE = (
    "--epochs 4 --batch-size 2 --drop-path 0.2 --mixup 0.5 --cutmix 0.5 --model-ema-decay 0.9 --augment resized-crop "
    "--lr 1e-3"
)


@pytest.fixture
def config(tmp_path, tiny_folder):
    recipe = OptimConfig(
        epochs=4,
        batch_size=2,
        drop_path=0.2,
        mixup=0.5,
        cutmix=0.5,
        model_ema_decay=0.9,
        augment="resized-crop",
        lr=1e-3,
    )
    source, runtime = DataConfig(data=str(tiny_folder)), RuntimeConfig(save_minutes=0)  # saves at every step
    return TrainConfig(out=str(tmp_path / "run"), img_size=8, dataset=source, optim=recipe, runtime=runtime)


@pytest.fixture
def whole(config, tmp_path):
    """The weights of the same training, never interrupted."""
    return weights(train(replace(config, out=str(tmp_path / "whole"))))


def train_and_send(config, sender, room=None):
    """In a child process: train and send each step; `room` limits the size of files, in bytes."""
    torch.set_num_threads(1)
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    try:
        train(config, lambda what, done, total, message: sender.send(done))
        sender.send("finished")
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


def start(config, room=None):
    receiver, sender = children.Pipe(duplex=False)
    child = children.Process(target=train_and_send, args=(config, sender, room))
    child.start()
    sender.close()
    return child, receiver


def kill_at(config, step):
    """Kill a training at a step, or a little later; returns its exit code."""
    child, receiver = start(config)
    while receiver.recv() < step:
        pass
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return child.exitcode


def last_message(child, receiver):
    """The last message of a child process."""
    said = None
    try:
        while True:
            said = receiver.recv()
    except EOFError:
        child.join()
    return said


def test_two_trainings_do_not_share_a_folder(config, monkeypatch):
    monkeypatch.setattr(resume, "PATIENCE", 1)
    folder = Path(config.out)
    with resume.held(folder):
        with pytest.raises(ValueError, match="another process trains in .* now: wait until it ends"):
            train(config)
        assert list(folder.iterdir()) == []
    assert train(config) == folder


def test_killed_at_ten_random_steps_the_weights_are_the_same_to_the_bit(config, whole):
    rng, killed, saved = random.Random(5), 0, 0
    steps = sorted(rng.sample(range(2, STEPS), 10))
    for step in steps:
        child, receiver = start(config)
        while (first := receiver.recv()) < step:
            pass
        assert isinstance(first, int)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        saved += os.path.exists(f"{config.out}/{STATE}")
    assert killed == saved == 10
    for name in (STATE, "model.safetensors"):  # as a kill during a write leaves them
        Path(config.out, f".{name}.ab12_xyz").write_bytes(b"half")
    child, receiver = start(config)
    assert receiver.recv() > steps[-1] - 2  # it resumed
    assert last_message(child, receiver) == "finished"
    assert_same(weights(config.out), whole)
    assert sorted(os.listdir(config.out)) == ["checkpoint.json", "history.jsonl", "model.safetensors"]


def test_sigterm_saves_and_exits_with_the_documented_code(config, whole, tmp_path):
    command = f"train --out {config.out} --data {config.dataset.data} --img-size 8 {RECIPE}"
    # the pause lets the signal arrive before the end
    started = (child,) = together.start(tmp_path, command.split(), count=1, pause=0.2)
    while not os.path.exists(f"{config.out}/checkpoint.json"):  # an epoch is complete
        assert child.is_alive(), together.finish(started, tmp_path)
        time.sleep(0.02)
    child.terminate()
    said = together.finish(started, tmp_path, code=75)
    assert "stopped by SIGTERM after step" in said
    assert "resumes from there" in said
    assert os.path.exists(f"{config.out}/{STATE}")
    assert_same(weights(train(config)), whole)


def wait_for(text, file, child):
    """Wait until a process has written some text."""
    while not (file.exists() and text in file.read_text()):
        assert child.is_alive(), file.read_text()
        time.sleep(0.02)


def in_its_own_session(command, pause, output):
    """Run a command as the leader of a process group, as a shell starts it; the target of a process."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of processes that load images, as in a shell's command
    together.work(command, {}, pause, output)


def start_command(config, tmp_path, pause, *more):
    """Start the training as a command, in a process group of its own, and wait until it has begun."""
    command = ["train", "--out", config.out, "--data", config.dataset.data, "--img-size", "8", *RECIPE.split(), *more]
    child = children.Process(target=in_its_own_session, args=(command, pause, tmp_path / "output-0.txt"))
    child.start()
    wait_for("steps, 24 in all", tmp_path / "output-0.txt", child)
    return child


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 75)])
def test_a_signal_to_all_processes_saves_and_the_same_command_resumes(
    config, whole, tmp_path, number, name, code, workers
):
    child = start_command(config, tmp_path, 0.2, "--workers", str(workers))
    time.sleep(0.5)  # into some step
    os.killpg(child.pid, number)
    said = together.finish([child], tmp_path, code=code)
    assert "Traceback" not in said
    assert re.search(rf"stopped by {name} after step \d+ of 24; step \d of epoch \d is saved in", said)
    assert "The same command resumes from there" in said
    assert ("press Ctrl-C again to quit at once" in said) == (name == "Ctrl-C")
    assert torch.load(f"{config.out}/{STATE}", weights_only=True)["done"] > 0
    assert_same(weights(train(config)), whole)


def test_a_second_ctrl_c_quits_at_once(config, tmp_path):
    child = start_command(config, tmp_path, 600)
    os.killpg(child.pid, signal.SIGINT)
    wait_for("press Ctrl-C again", tmp_path / "output-0.txt", child)
    os.killpg(child.pid, signal.SIGINT)
    assert "cpvt: interrupted" in together.finish([child], tmp_path, code=130)
    assert not os.path.exists(config.out)


def test_ctrl_c_in_a_comparison_saves_the_work_of_every_process(tiny_folder, tmp_path):
    options = f"--data {tiny_folder} --img-size 8 --canvas-sizes 8 --resize-sizes 8 --batch-size 1 --epochs 2000"
    command = f"compare --out {tmp_path / 'all'} --encodings none sincos {options} --parallel 2 --device cpu"
    output = tmp_path / "output-0.txt"
    child = children.Process(target=in_its_own_session, args=(command.split(), 0, output))
    child.start()
    for name in ("none", "sincos"):
        wait_for(f"{name} cls seed 0: ", output, child)
    os.killpg(child.pid, signal.SIGINT)
    said = together.finish([child], tmp_path, code=130)
    assert "Traceback" not in said
    assert "the processes finish their steps and save; press Ctrl-C again" in said
    assert "cpvt: interrupted; finished work is saved, and the same command resumes" in said
    for name in ("none", "sincos"):  # an epoch ends with 0 steps of the next
        assert read_state(tmp_path / "all" / "runs" / f"{name}-cls-seed0")["done"] > 0


def test_a_full_disk_loses_nothing_saved(config, whole, tmp_path):
    kill_at(config, 9)
    before = torch.load(f"{config.out}/{STATE}", weights_only=True)["done"], weights(config.out)
    said = last_message(*start(config, room=200_000))  # less than a state
    assert said.startswith("OSError: ")
    assert "saving failed (File too large)" in said
    assert "is saved in" in said
    assert "run the same command again" in said
    assert torch.load(f"{config.out}/{STATE}", weights_only=True)["done"] == before[0]
    assert_same(weights(config.out), before[1])
    assert not [name for name in os.listdir(config.out) if name.startswith(".")]
    assert_same(weights(train(config)), whole)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "missing"])
def test_a_damaged_state_is_skipped_for_the_previous_one(config, whole, damage):
    kill_at(config, 9)
    state, previous = (os.path.join(config.out, name) for name in (STATE, PREVIOUS_STATE))
    assert os.path.exists(previous)
    content = bytearray(Path(state).read_bytes())
    if damage == "missing":  # killed between two renames
        os.remove(state)
        assert_same(weights(train(config)), whole)
        return
    content[len(content) // 2] ^= 8
    Path(state).write_bytes({"truncated": content[:-1000], "empty": b"", "flipped": content}[damage])
    kept = shutil.copy(previous, previous + ".kept")
    Path(previous).write_bytes(b"neither")
    with pytest.raises(ValueError, match="every saved state is damaged.*Delete them to train from the start"):
        train(config)
    os.replace(kept, previous)
    with pytest.warns(UserWarning, match=f"{STATE}.*is damaged; resuming from .*{PREVIOUS_STATE}"):
        train(config)
    assert_same(weights(config.out), whole)


def test_which_options_may_change_when_a_run_resumes(config, whole):
    kill_at(config, 9)
    source = replace(config.dataset, data="digits")
    for change in (
        {"encoding": "rope"},
        {"dataset": source},
        {"optim": replace(config.optim, batch_size=4)},
        {"seed": 1},
    ):
        with pytest.raises(ValueError, match="holds a run with another configuration"):
            train(replace(config, **change))
    runtime = replace(config.runtime, save_minutes=5, grad_checkpointing=True)
    workers = replace(config.dataset, workers=1)
    assert_same(weights(train(replace(config, runtime=runtime, dataset=workers, device="cpu"))), whole)
    assert cpvt.load(config.out).record["epoch"] == 4


def test_damaged_images_and_shards_stop_a_run_that_resumes_once_they_are_fixed(config, tiny_folder, tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    for part in ("train", "test"):
        with tarfile.open(shards / f"{part}-000000.tar", "w") as tar:
            for number, path in enumerate(sorted((tiny_folder / part).rglob("*.png"))):
                tar.add(path, f"{path.parent.name}/{number}.png")
    config = replace(config, dataset=DataConfig(f"wds/{shards}"))
    whole = weights(train(replace(config, out=str(tmp_path / "other"))))
    kill_at(config, 9)
    kept = weights(config.out)
    shard = shards / "train-000000.tar"
    sound = shard.read_bytes()
    shard.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(ValueError, match="train-000000.tar"):
        train(config)
    spoiled = sound.replace(b"\x89PNG", b"\x89BAD", 1)
    shard.write_bytes(spoiled)
    with pytest.raises(ValueError, match=r"train-000000.tar.*does not decode"):
        train(config)
    assert_same(weights(config.out), kept)
    shard.write_bytes(sound)
    assert_same(weights(train(config)), whole)


def test_a_loss_that_is_not_finite_leaves_the_last_good_step(config, monkeypatch):
    real, calls = loss.F.cross_entropy, []

    def poisoned(*arguments, **options):
        calls.append(1)
        return real(*arguments, **options) * (float("nan") if len(calls) == 15 else 1.0)

    monkeypatch.setattr(loss.F, "cross_entropy", poisoned)
    with pytest.raises(
        DivergedError, match=r"at step 15 \(epoch 3\); step 2 of epoch 3 is saved in .*Lower the learning rate"
    ):
        train(config)
    assert torch.load(f"{config.out}/{STATE}", weights_only=True)["done"] == 2
    assert cpvt.load(config.out).record["epoch"] == 2
    assert all(tensor.isfinite().all() for tensor in weights(config.out).values())
