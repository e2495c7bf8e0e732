"""What must not change by accident: logits of every named model and of the shipped weights, losses of trainings."""

import json
from pathlib import Path

import pytest
import torch

import cpvt
from cpvt.models.sizes import MODELS

PINS = json.loads((Path(__file__).parent / "pins.json").read_text())
TRAININGS = {
    "peg, gap": dict(encoding="peg", pool="gap"),
    "rope+peg, every augmentation": dict(
        encoding="rope+peg", pool="cls", mixup=0.8, cutmix=1.0, reprob=0.25, aa="rand-m5-mstd0.5", augment="crop",
        model_ema_decay=0.9, aug_repeats=2, opt="lamb",
    ),
    "learned, three sizes": dict(encoding="learned", train_sizes=(24, 32, 40)),
    "relative, native sizes": dict(encoding="relative", augment="native"),
}  # fmt: skip


def answers(model, seed, *sides):
    """The logits of one image of noise."""
    image = torch.randn(1, 3, *sides, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model.eval()(image)[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_seeded_model_gives_the_pinned_logits(name):
    torch.manual_seed(0)
    found = answers(cpvt.create_model(name, num_classes=4, scale="paper"), 1, 32, 80)  # without scale, as before
    torch.testing.assert_close(found, torch.tensor(PINS["logits"][name]), rtol=1e-4, atol=1e-4)


def test_every_pinned_model_is_there():
    assert set(PINS["logits"]) == set(MODELS)


@pytest.mark.parametrize("name", PINS["shipped"])
def test_shipped_weights_give_the_pinned_logits(name):
    found = answers(cpvt.create_model(name, pretrained=True), 2, 40, 56)
    torch.testing.assert_close(found, torch.tensor(PINS["shipped"][name]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_seeded_training_has_the_pinned_losses(name, tmp_path):
    """To the bit only on one machine; elsewhere rounding differs, and the losses of two epochs by little."""
    from cpvt.cli import parse

    options = [f"--{key.replace('_', '-')}={value}" for key, value in TRAININGS[name].items() if key != "train_sizes"]
    sizes = (
        ["--train-sizes", *map(str, TRAININGS[name].get("train_sizes", ()))] if "train_sizes" in TRAININGS[name] else []
    )
    words = ["train", "--out", str(tmp_path / "run"), "--data", "digits", "--epochs", "2", "--device", "cpu"]
    folder = cpvt.train(parse([*words, *options, *sizes]))
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == pytest.approx(PINS["training"][name], rel=5e-3)
