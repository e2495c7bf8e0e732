"""The epoch that is best on the validation part is kept, also over interruptions, averages and processes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cpvt
from cpvt.config import DataConfig, OptimConfig, RuntimeConfig, TrainConfig
from cpvt.evaluation.accuracy import Score
from cpvt.training import train, trainer
from tests.training.runs import assert_same, history, weights
from tests.training.together import finish, start

ACCURACIES = [0.2, 0.7, 0.4, 0.7, 0.1]  # in validation, by epoch: the second is the first of the best


@pytest.fixture
def config(tmp_path, tiny_folder):
    shutil.copytree(tiny_folder / "test", tiny_folder / "val")
    recipe = OptimConfig(epochs=5, batch_size=4, lr=1e-3)
    return TrainConfig(
        out=str(tmp_path / "run"), img_size=8, dataset=DataConfig(str(tiny_folder)), optim=recipe, test_every=1,
        keep_best=True, device="cpu", runtime=RuntimeConfig(save_minutes=0),
    )  # fmt: skip


@pytest.fixture
def scores(monkeypatch):
    """Has the test of each epoch give its accuracy in ACCURACIES; collects the weights that were tested."""
    tested = {}

    def measure(adapter, batches, count, classes, name, on_progress, streamed):
        epoch = 1 + len([line for line in history_of[0].progress.history if "validation_accuracy" in line])
        tested[epoch] = {key: value.clone() for key, value in adapter.model.state_dict().items()}
        on_progress("validation", count, count, "")
        return Score(correct=round(10 * ACCURACIES[epoch - 1]), total=10)

    history_of, plain = [None], trainer.Trainer.fit

    def fit(self, *given):
        history_of[0] = self
        plain(self, *given)

    monkeypatch.setattr(trainer, "measure", measure)
    monkeypatch.setattr(trainer.Trainer, "fit", fit)
    return tested


def assert_best_is_kept(run, tested):
    assert_same(weights(run), tested[2])
    record = json.loads((Path(run) / "checkpoint.json").read_text())
    assert (record["epoch"], record["kept"]) == (
        5, {"epoch": 2, "validation_accuracy": 0.7, "why": "best in validation"},
    )  # fmt: skip
    assert [line.get("kept", False) for line in history(run)] == [False, True, False, False, False]
    assert sorted(path.name for path in Path(run).iterdir()) == [
        "checkpoint.json", "history.jsonl", "model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("decay", [None, 0.5])
def test_the_best_epoch_is_kept(config, scores, decay):
    train(replace(config, optim=replace(config.optim, model_ema_decay=decay)))
    assert_best_is_kept(config.out, scores)
    with pytest.raises(AssertionError):
        assert_same(scores[2], scores[5])
    train(replace(config, optim=replace(config.optim, model_ema_decay=decay)))  # finished


@pytest.mark.parametrize(("name", "at"), [("train", 4), ("train", 6), ("train", 8), ("train", 14), ("validation", 4)])
def test_an_interrupted_run_keeps_the_best_so_far(config, scores, name, at):
    tests = []

    def interrupt(what, done, total, message):
        tests.extend([what] if what == "validation" else [])
        if what == name and (done >= at if what == "train" else len(tests) >= at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, interrupt)
    if at == 8:  # in the third epoch
        assert_same(weights(config.out), scores[2])
    train(config)
    assert_best_is_kept(config.out, scores)


def test_an_epoch_that_is_not_tested_is_not_kept(config, scores, monkeypatch):
    train(replace(config, test_every=2))
    kept = [line["epoch"] for line in history(config.out) if line.get("kept")]
    assert kept == [4]  # epochs 2, 4 and 5 are tested, with 0.2, 0.7 and 0.4
    assert_same(weights(config.out), scores[2])


def test_the_test_part_never_chooses(config, tiny_folder):
    shutil.rmtree(tiny_folder / "val")
    with pytest.raises(ValueError, match="--keep-best chooses by a validation part, and '.*' has none: it takes valid"):
        train(config)
    with pytest.raises(ValueError, match="keep_best chooses among the epochs that are tested: set test_every too"):
        replace(config, test_every=0)


def test_processes_keep_the_best_epoch_together(config, tmp_path):
    command = f"train --out {config.out} --data {config.dataset.data} --img-size 8 --epochs 4 --batch-size 4 --lr 1e-2"
    output = finish(start(tmp_path, [*command.split(), "--test-every", "1", "--keep-best"]), tmp_path)
    lines = history(config.out)
    accuracies = [line["validation_accuracy"] for line in lines]
    (kept,) = (line for line in lines if line.get("kept"))
    assert kept is lines[accuracies.index(max(accuracies))]
    assert f"epoch {kept['epoch']} of 4, the best in validation, is kept: training accuracy" in output
    assert json.loads(output.splitlines()[-1])["train_accuracy"] == kept["accuracy"]
    found = next(cpvt.sweep(config.out, config.dataset.data, [8]))  # val/ is a copy of test/
    assert found.accuracy == pytest.approx(kept["validation_accuracy"])
    assert all(torch.isfinite(each).all() for each in weights(config.out).values())
