"""The learning rate of each step follows the recipe."""

import math

import pytest

from cpvt.config import DataConfig, OptimConfig, TrainConfig
from cpvt.training import train
from cpvt.training.backend import Backend
from tests.training.runs import history


@pytest.mark.parametrize(("warmup_lr", "first"), [(None, 1e-4), (4e-4, 4e-4)])
def test_the_rate_rises_evenly_then_falls_along_a_cosine(tmp_path, tiny_folder, monkeypatch, warmup_lr, first):
    rates, step = [], Backend.step

    def record(backend, optimizer, *others):
        rates.append({group["lr"] for group in optimizer.param_groups})
        step(backend, optimizer, *others)

    monkeypatch.setattr(Backend, "step", record)
    recipe = OptimConfig(epochs=4, batch_size=4, lr=1e-3, min_lr=1e-4, warmup_ratio=0.25, warmup_lr=warmup_lr)
    run = train(TrainConfig(str(tmp_path / "run"), img_size=8, dataset=DataConfig(str(tiny_folder)), optim=recipe))
    rising = [first + (1e-3 - first) * step / 3 for step in range(3)]
    falling = [1e-4 + 9e-4 * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(3, 12)]
    assert [rate for (rate,) in rates] == pytest.approx(rising + falling)
    assert [line["lr"] for line in history(run)] == [rate for (rate,) in rates[2::3]]
