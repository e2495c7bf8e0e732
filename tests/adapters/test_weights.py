"""Weights from files: those that fit, those that do not, and those that are more than tensors."""

import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

import cpvt
from cpvt.adapters.weights import load_weights_file


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def prefixed(prefix):
    return lambda state: {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s},
                                  lambda s: {"model_state_dict": s, "loss": 0.5}, lambda s: {"ema_state_dict": s},
                                  prefixed("module."), prefixed("_orig_mod."), prefixed("_orig_mod.module."),
                                  prefixed("module._orig_mod."), prefixed("model."), prefixed("model._orig_mod."),
                                  lambda s: {"state_dict": prefixed("model.")(s)},
                                  lambda s: {f"{n[0]}._orig_mod.{n[2:]}": v for n, v in s.items()}])  # fmt: skip
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
        ValueError,
        match=r"missing: 1.bias\n  not expected: 2.weight\n  of another shape: 0.weight: expected shape \(4, 3\), got",
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


def test_many_names_that_do_not_fit_leave_room_for_those_not_expected(tmp_path):
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(10)))
    torch.save({f"encoder.{name}": value for name, value in model.state_dict().items()}, tmp_path / "weights.pth")
    with pytest.raises(
        ValueError, match=r"missing: 0.weight; .*; and 12 more\n  not expected: encoder.0.weight; .* 12 more"
    ):
        load_weights_file(model, tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"num_classes": 5},
            r"head.weight: expected shape \(3, 64\), got \(5, 64\)(.|\n)*num_classes=N.*reset_classifier",
        ),
        ({"img_size": 64}, r"encoding.table: expected(.|\n)*build the model for it, img_size=SIDE"),
        ({"patch_size": 8}, r"patch_embed.proj.weight: expected(.|\n)*Patches are of another size"),
    ],
)
def test_weights_of_another_shape_come_with_a_remedy(tmp_path, options, words):
    held, wanted = {"num_classes": 3, "depth": 1, "encoding": "learned"}, tmp_path / "weights.safetensors"
    safetensors.torch.save_file(cpvt.create_model("cpvt_micro", **{**held, **options}).state_dict(), wanted)
    with pytest.raises(ValueError, match=words):
        load_weights_file(cpvt.create_model("cpvt_micro", **held), wanted)
