"""Checkpoints: whole, checked, and never unpickled."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import cpvt
from cpvt.checkpoint import RECORD, WEIGHTS


def test_a_loaded_run_is_ready_to_use(tiny_run):
    checkpoint = cpvt.load(tiny_run)
    assert checkpoint.class_names == ("cat", "dog")
    assert checkpoint.train_size == 8
    assert not checkpoint.model.training
    from PIL import Image

    tensor = checkpoint.transform(Image.new("RGB", (13, 9)))
    assert tensor.shape == (3, 9, 13)
    assert checkpoint.model(tensor[None]).shape == (1, 2)
    for name, tensor in load_file(tiny_run / WEIGHTS).items():
        assert torch.equal(checkpoint.model.state_dict()[name], tensor)


def test_a_folder_without_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"holds no checkpoint: expected checkpoint.json and model.safetensors"):
        cpvt.load(tmp_path)


def test_weights_that_do_not_fit_are_named_with_their_shapes(tiny_run):
    state = load_file(tiny_run / WEIGHTS)
    state["head.weight"] = torch.zeros(3, 64)
    state["spare"] = torch.zeros(1)
    del state["cls_token"]
    save_file(state, tiny_run / WEIGHTS)
    with pytest.raises(ValueError, match="do not fit the model") as error:
        cpvt.load(tiny_run)
    for words in ("missing: cls_token", "not expected: spare", "head.weight: expected shape (2, 64), got (3, 64)"):
        assert words in str(error.value)


def test_truncated_and_missing_weights(tiny_run):
    whole = (tiny_run / WEIGHTS).read_bytes()
    (tiny_run / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        cpvt.load(tiny_run)
    (tiny_run / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="are missing"):
        cpvt.load(tiny_run)


def test_a_broken_record(tiny_run):
    (tiny_run / RECORD).write_text('{"model": ')
    with pytest.raises(ValueError, match="is not whole JSON"):
        cpvt.load(tiny_run)


def test_the_record_is_plain_json(tiny_run):
    record = json.loads((tiny_run / RECORD).read_text())
    assert record["training"]["recipe"]["epochs"] == 1
    assert record["transform"]["crop_ratio"] == 0.875
