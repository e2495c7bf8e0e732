"""The weights that come with the package: found by name, read by both factories, described as they were trained."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import cpvt
from cpvt.cli import parse
from cpvt.config import ModelConfig
from cpvt.config.legacy import current
from cpvt.data.protocols import find_protocol
from cpvt.evaluation.predict import split_names
from cpvt.models import describe_models, pretrained
from cpvt.models.sizes import MODELS
from cpvt.results.checkpoints import as_adapter

NAMES = pretrained.shipped_names()
FACTORIES = pytest.mark.parametrize("create", [timm.create_model, cpvt.create_model], ids=["timm", "cpvt"])


@pytest.fixture(scope="module")
def run():
    return cpvt.load(pretrained.DEFAULT, "cpu")


@pytest.fixture
def images():
    return torch.randn(3, 3, 37, 50, generator=torch.Generator().manual_seed(0))


def test_the_default_is_among_the_names_and_only_these_are_said_to_have_weights():
    assert pretrained.DEFAULT in NAMES
    assert sorted(name for name, words in describe_models().items() if "weights" in words) == NAMES
    assert sorted(set(timm.list_models(pretrained=True)) & set(MODELS)) == NAMES
    for name in NAMES:
        assert pretrained.shipped_files(name).weights.stat().st_size < 5_000_000


def test_the_commands_that_need_no_model_agree_on_the_default():
    assert parse(["demo"]).run == pretrained.DEFAULT
    assert split_names(["*.jpg"])[0] == pretrained.DEFAULT


def test_weights_without_their_record_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    (tmp_path / "cpvt_tiny.safetensors").touch()
    assert pretrained.shipped_names() == []
    (tmp_path / "cpvt_tiny.json").touch()
    assert pretrained.shipped_names() == ["cpvt_tiny"]
    (tmp_path / "cpvt_tiny.safetensors").unlink()
    with pytest.raises(ValueError, match="no weights of 'cpvt_tiny' come with the package, only of no model"):
        cpvt.create_model("cpvt_tiny", pretrained=True)


def test_a_record_names_no_place_of_the_machine_that_made_it():
    for name in NAMES:
        assert not re.search(
            r"(^|[\s\"'=])(/|~|[A-Z]:\\)", pretrained.shipped_files(name).record.read_text(), re.MULTILINE
        )


def test_a_name_loads_like_a_run(run):
    record = json.loads(pretrained.shipped_files(pretrained.DEFAULT).record.read_text())
    assert run.record == {**record, "training": current(record["training"])}
    assert run.config == replace(MODELS[pretrained.DEFAULT][0], scale=pretrained.shipped_scale(pretrained.DEFAULT))
    assert len(run.class_names) == run.config.num_classes == 10
    assert {each.dtype for each in run.model.state_dict().values()} == {torch.float32}
    assert not run.model.training
    assert run.adapter.name == as_adapter(pretrained.DEFAULT, device="cpu").name == pretrained.DEFAULT


def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / pretrained.DEFAULT).mkdir()
    with pytest.raises(ValueError, match=f"'{pretrained.DEFAULT}' holds no checkpoint"):
        cpvt.load(pretrained.DEFAULT)


def test_a_name_that_is_nearly_right_is_put_right():
    with pytest.raises(ValueError, match=r"no folder of a run.*Did you mean cpvt_mini_peg5_gap\?"):
        as_adapter("cpvt_mini_peg5_gp")


@FACTORIES
def test_both_factories_give_the_run_itself(create, run, images):
    model = create(pretrained.DEFAULT, pretrained=True).eval()
    assert replace(model.config, class_token=None) == run.config
    with torch.inference_mode():
        assert torch.equal(model(images), run.model(images))
        assert not torch.equal(create(pretrained.DEFAULT).eval()(images), run.model(images))


@FACTORIES
def test_other_classes_get_a_fresh_head_on_trained_blocks(create, run, images):
    model = create(pretrained.DEFAULT, pretrained=True, num_classes=3).eval()
    with torch.inference_mode():
        assert model(images).shape == (3, 3)
        assert torch.equal(model.forward_features(images), run.model.forward_features(images))


@FACTORIES
def test_grey_images_are_taken_as_timm_has_it(create, run, images):
    model = create(pretrained.DEFAULT, pretrained=True, in_chans=1).eval()
    grey = images[:, :1]
    with torch.inference_mode():
        torch.testing.assert_close(model(grey), run.model(grey.expand(-1, 3, -1, -1)), atol=1e-2, rtol=1e-2)
        assert not torch.allclose(model(grey), run.model(images), atol=0.1)


@FACTORIES
def test_another_training_size_changes_no_answer_of_peg(create, run, images):
    model = create(pretrained.DEFAULT, pretrained=True, img_size=48).eval()
    assert model.config.img_size == 48
    with torch.inference_mode():
        torch.testing.assert_close(model(images), run.model(images))


def test_features_are_those_of_the_trained_blocks(run, images):
    backbone = timm.create_model(pretrained.DEFAULT, pretrained=True, features_only=True).eval()
    with torch.inference_mode():
        expected = run.model.forward_intermediates(images, indices=3, intermediates_only=True)
        for found, wanted in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoding": "peg"}, r"not expected \['encoding\.peg\.2\.bias'"),
        ({"depth": 7}, r"missing \['blocks\.6"),
        ({"embed_dim": 48}, r"of another shape \(the first three\) \['patch_embed\.proj\.bias'"),
    ],
)
@FACTORIES
def test_options_that_the_weights_do_not_fit_are_refused(create, options, words):
    with pytest.raises(ValueError, match=f"the weights are of another model: .*{words}"):
        create(pretrained.DEFAULT, pretrained=True, **options)


def test_names_without_weights_say_which_have_some():
    with pytest.raises(ValueError, match=rf"no weights of 'cpvt_micro' come with the package, only of {NAMES[0]}"):
        cpvt.create_model("cpvt_micro", pretrained=True)


def test_timm_reads_images_as_they_were_read_in_training(run):
    known = resolve_model_data_config(timm.create_model(pretrained.DEFAULT, pretrained=True))
    transform = run.transform
    assert known["input_size"] == (3, 64, 64)
    assert (known["mean"], known["std"]) == (transform.mean, transform.std)
    assert (known["crop_pct"], known["interpolation"]) == (transform.crop_ratio, transform.interpolation)
    values = np.random.default_rng(0).integers(0, 256, size=(40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    torch.testing.assert_close(
        create_transform(**known)(image), find_protocol("resize")(transform, (64, 64))(image, None)
    )


def test_timm_is_told_what_the_record_says_and_not_its_own_defaults(tmp_path, monkeypatch):
    reading = {"mean": [0.1], "std": [0.2], "crop_ratio": 0.5, "interpolation": "box", "size": [8, 12]}
    (tmp_path / "cpvt_tiny.json").write_text(json.dumps({"transform": reading, "class_names": ["cat", "dog"]}))
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    told = pretrained.describe_shipped("cpvt_tiny")
    assert told == {
        "file": str(tmp_path / "cpvt_tiny.safetensors"), "mean": (0.1,), "std": (0.2,), "crop_pct": 0.5,
        "interpolation": "box", "label_names": ("cat", "dog"), "test_input_size": (1, 8, 12),
    }  # fmt: skip


def test_a_training_starts_from_a_name(run):
    from cpvt.results.checkpoints import starting_weights

    said = []
    wanted = ModelConfig(**{**vars(run.config), "num_classes": 2})
    model = starting_weights(wanted, pretrained.DEFAULT, ["cat", "dog"], said.append)
    assert model.head.out_features == 2
    assert torch.equal(model.blocks[5].mlp.fc2.weight, run.model.blocks[5].mlp.fc2.weight)
    assert any("head" in words for words in said)
    with pytest.raises(ValueError, match="the weights 'nowhere' are missing"):
        starting_weights(wanted, "nowhere")


def test_the_python_of_the_card_runs():
    blocks = re.findall(r"```python\n(.*?)```", pretrained.CARD.read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, str(pretrained.CARD), "exec"), {})
