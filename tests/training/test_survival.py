"""Real faults: killed processes, a full disk, damaged files. Nothing is lost, and the run resumes."""

import os
import random
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
from cpvt.training import DivergedError, loss, train
from tests.children import children
from tests.training import together
from tests.training.runs import assert_same, weights

STEPS = 24  # in the whole training


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
    recipe = "--epochs 4 --batch-size 2 --drop-path 0.2 --mixup 0.5 --cutmix 0.5 --model-ema-decay 0.9"
    recipe += " --augment resized-crop --lr 1e-3"
    command = f"train --out {config.out} --data {config.dataset.data} --img-size 8 {recipe}"
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
