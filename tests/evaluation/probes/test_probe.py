"""Probing as a whole: models of every library, baselines, parts that cannot run, and the command."""

import json
from dataclasses import replace

import pytest
import torch

import cpvt
from cpvt import encodings
from cpvt.adapters import adapter_of
from cpvt.cli import main
from cpvt.evaluation.probes import TABLE
from cpvt.results.folders import PROBE_RESULTS
from cpvt.results.probe_results import BASELINES, read_probe_results


@pytest.mark.parametrize("encoding", encodings.TABLE)
def test_every_probe_runs_on_a_cpvt_model_and_its_baselines(encoding, tiny_model, measured):
    find = measured(tiny_model(encoding), *TABLE)
    assert {(each.probe, each.baseline) for each in find.probe_results} == {
        (name, baseline) for name in TABLE for baseline in BASELINES
    }
    assert find.refused == {}
    assert len({each.key for each in find.probe_results}) == len(find.probe_results)


def test_results_depend_on_the_seed_alone(tiny_model, measured):
    first, again, other = (
        [each.value for each in measured(tiny_model("peg"), "order", "position", seed=seed).probe_results]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def timm_model():
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=10
    )


def hugging_face_model():
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16,
                  patch_size=4, num_labels=10)
    )  # fmt: skip


def torchvision_model():
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=10)


@pytest.mark.parametrize("make", [timm_model, hugging_face_model, torchvision_model])
def test_models_of_other_libraries_are_probed(make, measured):
    torch.manual_seed(0)
    model = make()
    table = next(parameter for name, parameter in model.named_parameters() if "pos" in name)
    torch.nn.init.normal_(table, std=3)  # as clear as that of a trained model
    find = measured(model, "order", "translation", "position", "attention", images=24)
    assert find("token change", depth=2)
    assert max(find("token change", depth=2, baseline="none")) < 1e-4
    assert max(find("r2", images="noise", case="", depth=0)) > 0.6
    assert find("distance", case="head 2", depth=2)
    assert find("accuracy", case="circular, not shifted")
    assert {each.baseline for each in find.probe_results if each.value is not None} == set(BASELINES)


def test_a_classifier_without_spatial_tokens_says_so_and_the_rest_runs(measured):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))
    find = measured(adapter_of(model, train_size=16, patch_size=4), *TABLE)
    for part in ("tokens", "tokens, circular", "readout", "maps", "distance"):
        assert "returns no tokens of shape" in find.refused["model", part]
    assert find("same prediction", case="circular, 1 pixel")
    assert find("logit change")
    assert "no positional encoding was found" in find.refused["none", "none"]


def test_without_a_known_patch_size_shifts_are_by_one_pixel(measured):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))
    find = measured(model, "order", "translation", img_size=16)
    assert "the patch size of 'Sequential' is not known" in find.refused["model", "predictions"]
    assert {each.case for each in find.probe_results if each.measure == "same prediction"} == {
        "circular, 1 pixel", "crop, 1 pixel",
    }  # fmt: skip
    assert "cannot be multiplied" in find.refused["model", "predictions, canvas"]


def test_an_encoder_without_logits_says_so_and_the_rest_runs(coordinates, measured):
    find = measured(coordinates("dict"), "order", "translation", img_size=16)
    assert "must give logits" in find.refused["model", "predictions"]
    assert "must give logits" in find.refused["model", "predictions, circular"]
    assert find("token error", case="circular, 1 patch")


def test_a_function_has_no_baselines_and_that_is_reported_once(measured, coordinates):
    encoder = coordinates("NCHW")
    find = measured(lambda images: encoder(images), "position", img_size=16)
    assert min(find("r2")) > 0.999
    assert [key[1] for key in find.refused if key[0] != "model"] == ["untrained", "none"]


class Unlabelled:
    """A split without classes."""

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def read(self, index, draw):
        return self.split.read(index, draw)[0], None


def test_without_labels_only_accuracy_is_left_out(tiny_model, measured, digits):
    data = replace(digits, name="unlabelled", class_names=(), train=None, test=Unlabelled(digits.test))
    find = measured(tiny_model("peg"), "translation", "position", data=data)
    assert find.refused == {("model", "accuracy"): "'unlabelled' has no labels, so accuracy is left out"}
    assert not [each for each in find.probe_results if each.measure == "accuracy" and each.value is not None]
    assert find("same prediction", case="crop, 1 patch")
    assert find("r2")


def test_other_classes_than_the_models_leave_accuracy_out(tiny_model, measured):
    find = measured(tiny_model("peg", num_classes=7), "translation")
    assert "the 10 classes of 'digits' are not the model's 7" in find.refused["model", "accuracy"]
    assert find("same prediction", case="circular, 1 pixel")


def test_nan_is_a_result_that_says_so(tiny_model, measured):
    model = tiny_model("peg")
    model.head.weight.data.fill_(torch.nan)
    find = measured(model, "order")
    assert find.refused["model", "logit change"] == "the value came to nan"
    assert find("token change")


def test_a_model_of_unknown_size_is_probed_at_the_size_of_the_images(coordinates, measured):
    find = measured(coordinates(), "position")
    assert {each.size for each in find.probe_results if each.value is not None} == {32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": ("odor",)}, "probes must be among order, translation.*got odor"),
        ({"images": 1}, "probes need 2 images or more.*got 1"),
        ({"sizes": ("12y",)}, "a size is a side such as 48.*got '12y'"),
        ({"data": "nowhere"}, "unknown data set 'nowhere'"),
    ],
)
def test_a_mistake_is_one_message(tiny_model, options, message):
    with pytest.raises(ValueError, match=message):
        list(cpvt.probe(tiny_model("peg"), **options))


def test_a_run_is_probed_on_its_own_images(tiny_run, tiny_model):
    own = json.loads((tiny_run / "checkpoint.json").read_text())["training"]["dataset"]["data"]
    options = {"probes": ("order",), "images": 4}
    alone, named = ([each.as_json() for each in cpvt.probe(tiny_run, data, **options)] for data in (None, own))
    assert alone == named
    assert [each.as_json() for each in cpvt.probe(tiny_run, "digits", **options)] != named


def test_an_empty_data_set_is_refused(tiny_model, digits):
    with pytest.raises(ValueError, match="holds no images to probe with"):
        list(cpvt.probe(tiny_model("peg"), replace(digits, train=None, test=None)))


def test_our_own_colour_model_reads_grey_images(tiny_model, measured):
    assert measured(tiny_model("peg", in_chans=3), "position")("r2")


def test_from_the_command_to_the_page(capsys, tmp_path, tiny_run, tiny_folder):
    out = tmp_path / "probe"
    main(["probe", str(tiny_run), "--data", str(tiny_folder), "--out", str(out), "--images", "4", "--sizes", "12"])
    lines = capsys.readouterr().out.splitlines()
    last = json.loads(lines[-1])
    found = read_probe_results(out / PROBE_RESULTS)
    assert last["probe_results"] == len(found) > 100
    assert last["refused"] == 0
    assert None not in last["headlines"].values()
    assert any("encoding off" in line for line in lines)
    main(["report", str(out)])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["report"] == str(out / "probes.html")
    page = (out / "probes.html").read_text()
    assert tiny_run.name in page
    assert "Everything was measured." in page
    assert page.count("<svg") == 5
    assert page.count("data:image/png") == 1
