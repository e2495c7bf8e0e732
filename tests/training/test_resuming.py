"""Resuming an interrupted run, with the same images and the tests that were due."""

import json
import os
import random
import shutil
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from cpvt.config import DataConfig, OptimConfig, Retrofit, RuntimeConfig, TrainConfig
from cpvt.data import open_data
from cpvt.models import fastest
from cpvt.results.folders import PREVIOUS_STATE, STATE
from cpvt.runtime import distributed
from cpvt.training import StoppedError, build_model, check, train
from cpvt.training.backend import Backend
from cpvt.training.loss import Criterion
from cpvt.training.resume import read_state, write_state
from cpvt.training.trainer import Trainer
from tests.training.runs import assert_same, history, weights

STEPS = 3  # per epoch: eleven images, four a step


@pytest.fixture
def config(tmp_path, tiny_folder):
    recipe = OptimConfig(epochs=2, batch_size=4, augment="resized-crop", lr=1e-3)
    runtime = RuntimeConfig(save_minutes=0)
    return TrainConfig(
        str(tmp_path / "run"), img_size=8, dataset=DataConfig(str(tiny_folder)), optim=recipe, runtime=runtime
    )


def interrupt(name, at):
    """An on_progress callback that interrupts the run at a step."""

    def on_progress(what, done, total, message):
        if what == name and done >= at:
            raise KeyboardInterrupt

    return on_progress


def create_trainer(config):
    """A trainer before its first step."""
    data = open_data(config.dataset.data)
    setup = check(config, data)
    model, _ = build_model(config, setup.model, data)
    return Trainer(config, setup, model, data, Backend(config), Criterion(config.optim, 2))


def test_other_images_are_rejected(config, tiny_folder):
    with pytest.raises(KeyboardInterrupt):
        train(config, interrupt("train", 2))
    more = shutil.copy(tiny_folder / "train/cat/0.png", tiny_folder / "train/cat/new.png")
    with pytest.raises(ValueError, match=r"other images \(images: 11 before, 12 now\)"):
        train(config)
    os.remove(more)
    for part in ("train", "test"):
        (tiny_folder / part / "cat").rename(tiny_folder / part / "tiger")
    with pytest.raises(ValueError, match=r"class names: \['cat', 'dog'\] before, \['dog', 'tiger'\] now"):
        train(config)
    for part in ("train", "test"):
        (tiny_folder / part / "tiger").rename(tiny_folder / part / "cat")
    train(config)
    assert len(history(config.out)) == 2


def test_a_run_whose_state_is_gone_is_not_begun_again(config):
    with pytest.raises(KeyboardInterrupt):
        train(config, interrupt("train", STEPS + 1))
    for name in (STATE, PREVIOUS_STATE):
        Path(config.out, name).unlink(missing_ok=True)
    before = weights(config.out)
    with pytest.raises(ValueError, match=r"holds 1 of 2 epochs, but the state to resume from \(training.pt\) is gone"):
        train(config)
    assert_same(weights(config.out), before)


def test_saving_takes_no_step_of_what_lookahead_wraps(config, tmp_path):
    config = replace(config, optim=replace(config.optim, opt="lookahead_adamw"))
    rarely = replace(config, out=str(tmp_path / "rarely"), runtime=RuntimeConfig(save_minutes=999))
    assert_same(weights(train(config)), weights(train(rarely)))


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_test_is_repeated(config, tmp_path, epoch):
    config = replace(config, test_every=1)
    whole = [line["test_accuracy"] for line in history(train(replace(config, out=str(tmp_path / "whole"))))]
    tests = []

    def on_progress(what, done, total, message):
        tests.append(what == "test")
        if sum(tests) == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, on_progress)
    assert len(history(config.out)) == epoch
    train(config)
    assert [line["test_accuracy"] for line in history(config.out)] == whole


def test_sigterm_in_a_test_stops_it_and_the_same_command_tests_again(config):
    config = replace(config, test_every=1)

    def ask(what, done, total, message):
        if what == "test":
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="stopped by SIGTERM in a test; epoch 1 is saved"):
        train(config, ask)
    assert "test_accuracy" not in history(config.out)[0]
    train(config)
    assert all("test_accuracy" in line for line in history(config.out))


def test_a_state_damaged_anywhere_is_never_read_as_something_else(tmp_path):
    rng, state = random.Random(0), {"training": "{}", "model": {"weight": torch.arange(300.0)}, "epoch": 3}
    write_state(tmp_path, state)
    sound = (tmp_path / STATE).read_bytes()
    (tmp_path / PREVIOUS_STATE).write_bytes(sound)
    for number in range(400):
        damaged = bytearray(sound)
        if number % 4:
            damaged[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
        else:
            del damaged[rng.randrange(len(sound)) :]
        (tmp_path / STATE).write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = read_state(tmp_path)
        assert read is not None
        assert read["epoch"] == 3
        assert torch.equal(read["model"]["weight"], state["model"]["weight"])


def test_a_faded_table_is_zero_in_the_average_too(config):
    name = "timm:vit_tiny_patch16_224(patch_size=4, embed_dim=16, depth=2, num_heads=2)"
    recipe = replace(config.optim, model_ema_decay=0.99)
    run = train(replace(config, model=name, optim=recipe, retrofit=Retrofit(absolute="fade")))
    shares = [value for key, value in weights(run).items() if key.endswith("share")]
    assert shares == [0]


def test_a_process_without_an_image_adds_zero_gradients(config):
    config = replace(config, model="timm:test_resnet")
    trainer = create_trainer(config)
    trainer.model.train()
    before = {name: buffer.clone() for name, buffer in trainer.module.named_buffers()}
    trainer._train_on_zeros(trainer.setup.sampler.steps(0)[0])
    assert any(isinstance(each, nn.BatchNorm2d) for each in trainer.module.modules())
    assert all(torch.equal(buffer, before[name]) for name, buffer in trainer.module.named_buffers())
    assert all(not parameter.grad.any() for parameter in trainer.module.parameters() if parameter.grad is not None)
    assert all(each.training for each in trainer.module.modules())


def test_processes_with_a_sharded_model_have_equally_many_parts(config):
    config = replace(config, runtime=RuntimeConfig(grad_accum_steps=3))
    trainer = create_trainer(config)
    lengths = {}
    for trainer.backend.sharded in (False, True):
        lengths[trainer.backend.sharded] = [
            [len(targets) for _, targets in trainer._split(torch.zeros(count, 3), torch.zeros(count))]
            for count in (0, 2, 5)
        ]
    assert lengths == {False: [[0], [1, 1], [1, 2, 2]], True: [[0, 0, 0], [0, 1, 1], [1, 2, 2]]}


def test_processes_join_only_under_a_launcher(monkeypatch):
    distributed.join("cpu")  # alone: would fail, or wait for others, if it tried
    assert not distributed.is_distributed()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert distributed.launched()


@pytest.mark.parametrize("retrofit", [None, Retrofit(absolute="fade")], ids=["plain", "retrofitted"])
def test_a_run_of_an_older_version_with_a_retrofit_resumes(config, tmp_path, retrofit):
    name = "timm:vit_tiny_patch16_224(patch_size=4, embed_dim=16, depth=1, num_heads=2)"
    config = replace(config, model=name, retrofit=retrofit)
    whole = weights(train(replace(config, out=str(tmp_path / "whole"))))
    with pytest.raises(KeyboardInterrupt):
        train(config, interrupt("train", 5))
    folder = tmp_path / "run"
    state = torch.load(folder / STATE, weights_only=True)
    training = json.loads(state["training"])
    kept, tally = training.pop("retrofit"), [*state.pop("metrics").values(), 0, 0]
    write_state(folder, {**state, "training": json.dumps(training), "tally": tally})
    record = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps({**record, "training": training, "retrofit": kept}))
    for other in (Retrofit((1,), "drop"), None if retrofit else Retrofit()):
        with pytest.raises(ValueError, match="holds a run with another retrofit"):
            train(replace(config, retrofit=other))
    assert_same(weights(train(config)), whole)


def test_a_run_resumes_with_the_ways_to_compute_that_it_began_with(config, monkeypatch, tmp_path, nothing_chosen):
    monkeypatch.delenv("CPVT_ATTENTION")
    with pytest.raises(KeyboardInterrupt):
        train(config, interrupt("train", 2))
    before = json.loads(read_state(tmp_path / "run")["fastest"])
    assert all(choice in fastest.choices() for choice in before)
    assert {kind for kind, *_ in before} == {"attention"}
    turned = [[*work, "fused" if way == "plain" else "plain"] for *work, way in before]  # as if measured otherwise now
    monkeypatch.setattr(fastest, "_chosen", {})
    fastest.adopt(turned)
    train(config)
    assert all(choice in fastest.choices() for choice in before)
