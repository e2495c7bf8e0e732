"""The backend does what RuntimeConfig configures: accumulation, compilation, trackers."""

from dataclasses import replace

import pytest
import torch

from cpvt.config import DataConfig, OptimConfig, RuntimeConfig, TrainConfig
from cpvt.training import train
from cpvt.training.backend import Backend
from tests.training.runs import history


@pytest.fixture
def config(tmp_path, tiny_folder):
    recipe = OptimConfig(epochs=2, batch_size=4)
    data = DataConfig(str(tiny_folder))
    return TrainConfig(out=str(tmp_path / "run"), img_size=8, device="cpu", dataset=data, optim=recipe)


def test_a_step_has_the_configured_number_of_parts(config, monkeypatch):
    parts, forward = [], Backend.forward
    monkeypatch.setattr(
        Backend,
        "forward",
        lambda self, model, images: parts.append(len(images)) or forward(self, model, images),
    )
    train(replace(config, runtime=RuntimeConfig(grad_accum_steps=3), optim=replace(config.optim, epochs=1)))
    assert parts == [1, 1, 2, 1, 1, 2, 1, 1, 1]


def test_what_is_compiled_is_what_is_called(config, monkeypatch):
    calls = []

    def compiled(function, **options):
        return lambda *given: calls.append(1) or function(*given)

    monkeypatch.setattr(torch, "compile", compiled)
    for asked in (False, True):
        model = Backend(replace(config, runtime=RuntimeConfig(compile=asked))).wrap(torch.nn.Linear(2, 2))
        model(torch.zeros(1, 2))
        assert bool(calls) == asked


def test_trackers_get_what_the_history_holds(config):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(replace(config, runtime=RuntimeConfig(report_to=("tensorboard",)), test_every=1))
    events_read = events.EventAccumulator(str(run / "logs")).Reload()
    assert set(events_read.Tags()["scalars"]) == {"loss", "accuracy", "lr", "images_per_second", "test_accuracy"}
    for name in ("loss", "accuracy", "lr", "test_accuracy"):
        values = {event.step: event.value for event in events_read.Scalars(name)}
        assert [values[3], values[6]] == pytest.approx([line[name] for line in history(run)])  # after each epoch
