"""Names of models: parameter counts to the last one, options, errors."""

import pytest
import timm
import torch

import cpvt
from cpvt.models import describe_models
from cpvt.models.sizes import model_config

# arithmetic on the shapes, which also gives DeiT's published counts
PUBLISHED = {
    "tiny": {"none": 5_679_592, "": 5_681_512, "_peg5": 5_689_192, "_peg5_gap": 5_689_000},
    "small": {"none": 21_975_016, "": 21_978_856, "_peg5": 21_994_216, "_peg5_gap": 21_993_832},
    "base": {"none": 86_416_360, "": 86_424_040, "_peg5": 86_454_760, "_peg5_gap": 86_453_992},
}
DEIT = {"tiny": (5_717_416, 192), "small": (22_050_664, 384), "base": (86_567_656, 768)}


def count(name, **options):
    with torch.device("meta"):  # counts without filling memory
        return sum(parameter.numel() for parameter in cpvt.create_model(name, **options).parameters())


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameter_counts_of_cpvt(size):
    assert count(f"cpvt_{size}", encoding="none") == PUBLISHED[size]["none"]
    for suffix in ("", "_peg5", "_peg5_gap"):
        assert count(f"cpvt_{size}{suffix}") == PUBLISHED[size][suffix]


@pytest.mark.parametrize("size", DEIT)
def test_parameter_counts_of_deit_less_the_class_tokens_own_position(size):
    total, width = DEIT[size]
    assert count(f"deit_{size}") == total - width
    with torch.device("meta"):
        theirs = timm.create_model(f"deit_{size}_patch16_224")
    assert sum(parameter.numel() for parameter in theirs.parameters()) == total


def test_every_name_builds_and_runs_at_a_size_no_flag_announced():
    for name in describe_models():
        if "micro" in name or name == "cpvt_tiny_gap":
            model = cpvt.create_model(name, num_classes=10).eval()
            assert model(torch.randn(1, 3, 45, 70)).shape == (1, 10)
    assert len(describe_models()) == 6 * 4 + 3


def test_options_override_and_classes_are_1000_by_default():
    assert cpvt.create_model("cpvt_micro").head.out_features == 1000
    model = cpvt.create_model("deit_tiny", encoding="rope", depth=2, in_chans=1, num_classes=3)
    assert model.config.encoding == "rope"
    assert model.eval()(torch.randn(1, 1, 32, 48)).shape == (1, 3)


def test_unknown_names_and_options_list_the_known():
    with pytest.raises(ValueError, match=r"unknown model 'cpvt_smal'. Did you mean cpvt_small.*Known: .*deit_base"):
        cpvt.create_model("cpvt_smal")
    with pytest.raises(ValueError, match="does not take 'droppath'; known options: .*drop_path_rate"):
        cpvt.create_model("cpvt_tiny", droppath=0.1)


def test_options_in_brackets_are_options_and_those_beside_win():
    assert model_config("cpvt_micro(patch_size=8, depth=6)").patch_size == 8
    assert cpvt.create_model("cpvt_micro(depth=6)", depth=2, num_classes=3).config.depth == 2
    with pytest.raises(ValueError, match="does not take 'dept'"):
        model_config("cpvt_micro(dept=6)")


@pytest.mark.parametrize("size", DEIT)
def test_parameter_counts_of_distilled_models(size):
    width = DEIT[size][1]
    head = (width + 1) * 1000
    with torch.device("meta"):
        theirs = timm.create_model(f"deit_{size}_distilled_patch16_224")
    total = sum(parameter.numel() for parameter in theirs.parameters())
    assert count(f"deit_{size}", distilled=True) == total - 2 * width  # positions of the two tokens
    assert count(f"cpvt_{size}_peg5", distilled=True) == PUBLISHED[size]["_peg5"] + head + width
    assert count(f"cpvt_{size}_peg5_gap", distilled=True) == PUBLISHED[size]["_peg5_gap"] + head
    if size == "tiny":
        assert total == 5_910_800
