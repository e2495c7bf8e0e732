"""Weights from files: those that fit, those that do not, and those that are more than tensors."""

import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from cpvt.adapters.weights import load_weights_file


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s},
                                  lambda s: {f"module.{name}": value for name, value in s.items()}])  # fmt: skip
def test_files_as_training_scripts_write_them_are_understood(tmp_path, model, wrap):
    wanted = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    torch.save(wrap(wanted), tmp_path / "weights.pth")
    load_weights_file(model, tmp_path / "weights.pth")
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_averaged_weights_come_before_plain_ones(tmp_path, model):
    plain = model.state_dict()
    averaged = {name: value + 1 for name, value in plain.items()}
    torch.save({"state_dict": plain, "state_dict_ema": averaged}, tmp_path / "weights.pth")
    load_weights_file(model, tmp_path / "weights.pth")
    assert torch.equal(model[0].bias, averaged["0.bias"])


def test_weights_that_do_not_fit_are_named(tmp_path, model):
    state = {**model.state_dict(), "0.weight": torch.zeros(5, 3), "2.weight": torch.zeros(1)}
    del state["1.bias"]
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(
        ValueError, match=r"missing: 1.bias\n  not expected: 2.weight\n  0.weight: expected shape \(4, 3\), got"
    ):
        load_weights_file(model, tmp_path / "weights.safetensors")


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


def test_files_that_hold_code_are_not_opened(tmp_path, model, capsys):
    with (tmp_path / "weights.pth").open("wb") as file:
        pickle.dump({"0.weight": Harm()}, file, protocol=2)
    with pytest.raises(ValueError, match="holds more than tensors, or is broken"):
        load_weights_file(model, tmp_path / "weights.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors"])
def test_missing_files_are_named(tmp_path, model, name):
    with pytest.raises(ValueError, match=f"{name}' are missing"):
        load_weights_file(model, tmp_path / name)


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_broken_files_are_errors(tmp_path, model, name):
    (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(ValueError, match=name):
        load_weights_file(model, tmp_path / name)
