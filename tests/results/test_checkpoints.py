"""Checkpoints: complete, checked and never unpickled."""

import copy
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import cpvt
from cpvt.adapters import adapter_of
from cpvt.config import ExternalConfig, ModelConfig
from cpvt.models import VisionTransformer
from cpvt.results.checkpoints import build_model, published_weights, starting_weights
from cpvt.results.folders import CHECKPOINT, WEIGHTS


def test_a_loaded_run_is_ready_to_use(tiny_run):
    checkpoint = cpvt.load(tiny_run)
    assert checkpoint.class_names == ("cat", "dog")
    assert checkpoint.train_size == 8
    assert not checkpoint.model.training
    from PIL import Image

    tensor = checkpoint.transform(Image.new("RGB", (13, 9)))
    assert tensor.shape == (3, 8, 8)
    assert checkpoint.model(tensor[None]).shape == (1, 2)
    for name, tensor in load_file(tiny_run / WEIGHTS).items():
        assert torch.equal(checkpoint.model.state_dict()[name], tensor)


def test_a_run_is_not_written_over_another(tiny_run, tmp_path):
    other = Path(shutil.copytree(tiny_run, tmp_path / "other"))
    (other / WEIGHTS).write_bytes(b"of another training")
    with pytest.raises(ValueError, match="holds another training, which would be overwritten"):
        cpvt.load(tiny_run).save_pretrained(other)
    assert (other / WEIGHTS).read_bytes() == b"of another training"
    for _ in range(2):  # what was written so may be written again
        cpvt.load(tiny_run).save_pretrained(tmp_path / "shared")


def test_a_folder_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no checkpoint: expected checkpoint.json and model.safetensors"):
        cpvt.load(tmp_path)


def test_weights_that_do_not_fit_are_listed_with_shapes(tiny_run):
    state = load_file(tiny_run / WEIGHTS)
    state["head.weight"] = torch.zeros(3, 64)
    state["spare"] = torch.zeros(1)
    del state["cls_token"]
    save_file(state, tiny_run / WEIGHTS)
    with pytest.raises(ValueError, match="do not fit the model") as error:
        cpvt.load(tiny_run)
    for words in ("missing: cls_token", "not expected: spare", "head.weight: expected shape (2, 64), got (3, 64)"):
        assert words in str(error.value)


def test_truncated_and_missing_weights_are_refused(tiny_run):
    whole = (tiny_run / WEIGHTS).read_bytes()
    (tiny_run / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        cpvt.load(tiny_run)
    (tiny_run / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="are missing"):
        cpvt.load(tiny_run)


def test_a_broken_record_is_refused(tiny_run):
    (tiny_run / CHECKPOINT).write_text('{"model": ')
    with pytest.raises(ValueError, match="is not whole JSON"):
        cpvt.load(tiny_run)


def test_the_record_is_plain_json(tiny_run):
    record = json.loads((tiny_run / CHECKPOINT).read_text())
    assert record["training"]["optim"]["epochs"] == 1
    assert record["transform"]["crop_ratio"] == 0.875


MICRO = ModelConfig(embed_dim=16, depth=2, num_heads=2, patch_size=4, img_size=16, num_classes=2)
VIT = "timm:vit_tiny_patch16_224(patch_size=4, embed_dim=16, depth=2, num_heads=2)"
EXTERNAL = ExternalConfig(VIT, num_classes=2, img_size=16)


@pytest.fixture
def make_run(tmp_path):
    """Writes the folder of a finished run with a given model."""

    def make(model, config, class_names=("cat", "dog")):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        save_file(model.state_dict(), tmp_path / WEIGHTS)
        record = {"model": asdict(config), "class_names": list(class_names)}
        (tmp_path / CHECKPOINT).write_text(json.dumps(record))
        return tmp_path

    return make


def test_weights_of_a_run_start_a_model_of_another_size(make_run):
    torch.manual_seed(0)
    model = VisionTransformer(replace(MICRO, encoding="learned+rope")).eval()
    run, images, messages = make_run(model, model.config), torch.randn(2, 3, 24, 24), []
    started = starting_weights(replace(model.config, img_size=24), run, ["cat", "dog"], messages.append).eval()
    torch.testing.assert_close(started(images), model(images))
    assert started.config == replace(model.config, img_size=24, scale_grid=(4, 4))
    assert messages == ["training size 16 -> 24"]


@pytest.mark.parametrize(
    ("names", "kept"),
    [(None, True), (["cat", "dog"], True), (["dog", "cat"], False), (["ship", "tree"], False)],
)
def test_the_head_is_kept_only_for_the_same_classes(make_run, names, kept):
    model, messages = VisionTransformer(MICRO), []
    started = starting_weights(MICRO, make_run(model, MICRO), names, messages.append)
    assert torch.equal(started.head.weight, model.head.weight) == kept
    assert torch.equal(started.blocks[1].mlp.fc1.weight, model.blocks[1].mlp.fc1.weight)
    assert messages == ([] if kept else ["other classes: the head starts afresh"])


def test_a_file_of_weights_must_fit_exactly(make_run):
    model = VisionTransformer(replace(MICRO, encoding="learned"))
    file = make_run(model, model.config) / WEIGHTS
    started = starting_weights(model.config, file)
    assert torch.equal(started.encoding.table, model.encoding.table)
    with pytest.raises(ValueError, match=r"encoding.table: expected shape \(1, 36, 16\), got \(1, 16, 16\)"):
        starting_weights(replace(model.config, img_size=24), file)


def test_a_run_of_another_kind_of_model_is_refused(make_run):
    run = make_run(VisionTransformer(MICRO), MICRO)
    with pytest.raises(ValueError, match="holds a model of our own, but 'timm:vit_tiny.* is to be trained"):
        starting_weights(EXTERNAL, run)
    with pytest.raises(ValueError, match="the one to start from differs in depth: 2 -> 3"):
        starting_weights(replace(MICRO, depth=3), run)


@pytest.mark.parametrize(
    ("change", "names"),
    [({}, ["cat", "dog"]), ({"img_size": 24}, None), ({"num_classes": 3}, ["a", "b", "c"]), ({}, ["ship", "tree"])],
)
def test_weights_of_a_run_start_a_timm_model(make_run, change, names):
    torch.manual_seed(0)
    model, wanted, messages = build_model(EXTERNAL), replace(EXTERNAL, **change), []
    run = make_run(model, EXTERNAL)
    started = starting_weights(wanted, run, names, messages.append).eval()
    model.eval().set_input_size((wanted.img_size,) * 2)  # timm's own method
    images = torch.randn(2, 3, wanted.img_size, wanted.img_size)
    torch.testing.assert_close(started.forward_features(images), model.forward_features(images))
    kept = names in (None, ["cat", "dog"])
    assert started(images).shape == (2, wanted.num_classes)
    assert (wanted.num_classes == 2 and torch.equal(started.head.weight, model.head.weight)) == kept
    assert messages == ([] if kept else [f"other classes, {wanted.num_classes} now: the head starts afresh"])
    build_model(wanted).load_state_dict(started.state_dict())  # as loading the run does


def test_timms_distilled_models_get_two_fresh_heads(make_run):
    config = replace(EXTERNAL, name=VIT.replace("vit_tiny", "deit_tiny_distilled"))
    model = build_model(config)
    started = starting_weights(replace(config, num_classes=3), make_run(model, config))
    assert (started.head.out_features, started.head_dist.out_features) == (3, 3)
    assert torch.equal(started.dist_token, model.dist_token)


def test_models_with_a_fixed_size_are_refused_at_another(make_run):
    config = ExternalConfig("hf:vit(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=4)", 2, 16)
    pytest.importorskip("transformers")
    run = make_run(build_model(config), config)
    started = starting_weights(replace(config, num_classes=3), run)
    assert started.classifier.out_features == 3
    with pytest.raises(ValueError, match=r"position_embeddings: expected shape \(1, 37, 16\), got \(1, 17, 16\)"):
        starting_weights(replace(config, img_size=24), run)


@pytest.mark.parametrize(("change", "fresh"), [({}, False), ({"img_size": 24}, False), ({"num_classes": 3}, True)])
def test_published_weights_fit_other_classes_and_sizes(monkeypatch, change, fresh):
    """A local model replaces the download."""
    torch.manual_seed(0)
    model, wanted, messages = build_model(EXTERNAL).eval(), replace(EXTERNAL, **change), []
    head, images = model.head.weight.clone(), torch.randn(2, 3, wanted.img_size, wanted.img_size)
    monkeypatch.setattr("cpvt.results.checkpoints.open_adapter", lambda name: adapter_of(copy.deepcopy(model), name))
    started = published_weights(wanted, messages.append).eval()
    model.set_input_size(images.shape[2:])
    torch.testing.assert_close(started.forward_features(images), model.forward_features(images))
    assert (started.head.weight.shape == head.shape and torch.equal(started.head.weight, head)) != fresh
    assert bool(messages) == fresh


@pytest.mark.parametrize(
    ("train_sizes", "augment", "rule"),
    [((), "resized-crop", "fit"), ((), None, "fit"), ((), "crop", "pixels"), ((), "none", "pixels"),
     ((24, 32), "resized-crop", "paper"), ((), "native", "paper")],
)  # fmt: skip
def test_a_run_of_before_there_were_scales_keeps_what_its_training_taught_it(tiny_run, train_sizes, augment, rule):
    file = tiny_run / "checkpoint.json"
    record = json.loads(file.read_text())
    del record["model"]["scale"]
    record["training"]["train_sizes"] = train_sizes
    record["resolved"]["augment"] = augment
    file.write_text(json.dumps(record))
    assert cpvt.load(tiny_run).model.scale == rule
