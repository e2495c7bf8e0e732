"""Subjects: models of every library give logits, token maps and attention, at sizes they were not built for."""

import json
import time
import warnings

import huggingface_hub
import pytest
import torch
import torchvision
from torch import nn

import cpvt
from cpvt.adapters import (
    ModelAdapter,
    UnsupportedError,
    UnsupportedSizeError,
    adapter_of,
    build,
    open_adapter,
)
from cpvt.runtime import hub

TIMM = "timm:vit_tiny_patch16_224(patch_size=8, embed_dim=32, depth=2, num_heads=2)"
REGISTERS = "timm:vit_base_patch14_reg4_dinov2(patch_size=8, embed_dim=32, depth=2, num_heads=2)"
HF = "hf:vit(patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)"


def make(name):
    if name == "cpvt":
        return adapter_of(cpvt.create_model("cpvt_micro", patch_size=8, num_classes=5, depth=2))
    if name == "torchvision":
        model = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5)
        nn.init.normal_(model.heads.head.weight)  # torchvision starts it at zero
        return adapter_of(model, "torchvision")
    if name.startswith("hf:"):
        pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return adapter_of(build(name, 5, 32), name)


every = pytest.mark.parametrize("name", ["cpvt", TIMM, REGISTERS, HF, "torchvision"])


@every
def test_logits_maps_and_attention_have_the_grid_of_the_image(name):
    adapter, images = make(name), torch.randn(2, 3, 32, 32)
    assert adapter.logits(images).shape == (2, 5)
    maps = adapter.token_maps(images)
    assert list(maps) == [0, 1, 2]
    assert {tuple(tokens.shape[:3]) for tokens in maps.values()} == {(2, 4, 4)}
    attention = adapter.attention(images, 2)
    assert attention.shape[0] == 2
    assert attention.shape[2:] == (16, 16)
    assert (attention.sum(-1) < 1 + 1e-5).all()
    assert (attention > 0).all()
    assert adapter.patch_size == 8
    assert adapter.train_size == 32


@every
def test_rows_and_columns_of_a_map_are_those_of_the_image(name):
    """A change of the image in its upper right patch changes that token of depth 0 and no other."""
    adapter, images = make(name), torch.randn(1, 3, 32, 48)
    if name == "torchvision":
        images = images[..., :32]
    changed = images.clone()
    changed[:, :, :8, -8:] += 1
    ready = adapter.at_size(tuple(images.shape[2:]))
    moved = (ready.token_maps(changed)[0] - ready.token_maps(images)[0]).abs().amax(-1)[0] > 1e-6
    expected = torch.zeros_like(moved)
    expected[0, -1] = True
    assert torch.equal(moved, expected)


@pytest.mark.parametrize(
    ("name", "resize_method"), [("cpvt", "as it is"), (TIMM, "set_input_size"), (HF, "interpolate_pos_encoding")]
)
def test_other_sizes_are_taken_in_the_models_own_way(name, resize_method):
    adapter = make(name)
    ready = adapter.at_size((48, 64))
    assert ready.resize_method == resize_method
    assert ready.logits(torch.randn(2, 3, 48, 64)).shape == (2, 5)
    assert adapter.logits(torch.randn(2, 3, 32, 32)).shape == (2, 5)  # the given one is as it was
    images = [torch.randn(3, 48, 64), torch.randn(3, 32, 32)]
    each = torch.cat([adapter.at_size(tuple(p.shape[1:])).logits(p[None]) for p in images])
    torch.testing.assert_close(adapter.logits_of_list(images), each)


def test_dynamic_img_size_is_used_where_it_is_on():
    adapter = make(TIMM.replace("depth=2", "depth=2, dynamic_img_size=True"))
    assert adapter.at_size((48, 64)).resize_method == "dynamic_img_size"
    assert adapter.at_size((48, 64)).model is adapter.model


def test_a_refusal_is_told_in_the_models_own_words():
    with pytest.raises(UnsupportedSizeError, match="Wrong image width! Expected 32 but got 48"):
        make("torchvision").at_size((32, 48)).logits(torch.randn(1, 3, 32, 48))


@every
def test_twins_differ_from_the_model_and_leave_it_alone(name):
    adapter, images = make(name), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    before = adapter.token_maps(images)[2]
    for baseline in (adapter.untrained(), adapter.without_positions()):
        assert not torch.allclose(baseline.token_maps(images)[2], before, atol=1e-4)
    assert torch.equal(adapter.token_maps(images)[2], before)
    assert torch.equal(adapter.untrained(3).token_maps(images)[2], adapter.untrained(3).token_maps(images)[2])


@every
def test_without_positions_a_bag_of_patches_is_seen(name):
    adapter, images = make(name), torch.randn(1, 3, 32, 32)
    turned = torch.cat([images[:, :, 8:], images[:, :, :8]], dim=2)  # the first row of patches goes last
    baseline = adapter.without_positions()
    torch.testing.assert_close(baseline.logits(turned), baseline.logits(images), atol=1e-5, rtol=1e-4)
    maps, after = baseline.token_maps(images)[2], baseline.token_maps(turned)[2]
    torch.testing.assert_close(after, maps.roll(-1, dims=1), atol=1e-4, rtol=1e-4)


def test_rotary_models_say_that_their_positions_cannot_be_taken_away():
    with pytest.raises(UnsupportedError, match="turns its queries and keys"):
        make("timm:eva02_tiny_patch14_224(depth=1)").without_positions()


class Encoder(nn.Module):
    """Gives what it is told to, with as many tokens as 8x8 patches of the image."""

    def __init__(self, form):
        super().__init__()
        self.form, self.conv = form, nn.Conv2d(3, 6, 8, 8)

    def forward(self, images):
        x = self.conv(images)
        tokens = x.flatten(2).transpose(1, 2)
        prefix = torch.zeros(len(x), 5, 6)
        forms = {"NCHW": x, "NHWC": x.permute(0, 2, 3, 1), "NLC": tokens, "prefix": torch.cat([prefix, tokens], 1),
                 "dict": {"pooled": x.mean((2, 3)), "x_norm_patchtokens": tokens},
                 "tuple": (x.mean((2, 3)), (tokens,))}  # fmt: skip
        return forms[self.form]


@pytest.mark.parametrize("form", ["NCHW", "NHWC", "NLC", "prefix", "dict", "tuple"])
@pytest.mark.parametrize("sides", [(32, 32), (24, 40), (8, 48)])
def test_any_encoders_output_is_read_as_a_map(form, sides):
    encoder, images = Encoder(form), torch.randn(2, 3, *sides)
    (tokens,) = adapter_of(encoder).token_maps(images).values()
    torch.testing.assert_close(tokens, encoder.conv(images).permute(0, 2, 3, 1))


def test_an_encoder_without_tokens_says_what_it_returned():
    with pytest.raises(UnsupportedError, match=r"returned \(2, 5\)"):
        adapter_of(lambda images: images.new_zeros(2, 5), "pooled").token_maps(torch.randn(2, 3, 16, 16))
    with pytest.raises(UnsupportedError, match="is no nn.Module"):
        adapter_of(lambda images: images).untrained()


def test_output_that_is_not_logits_is_an_error():
    with pytest.raises(ValueError, match=r"must give logits of shape \(2, classes\).*got \(2, 6, 2, 2\)"):
        ModelAdapter(Encoder("NCHW"), "encoder").logits(torch.randn(2, 3, 16, 16))


def test_names_nobody_knows_are_errors_with_near_ones():
    with pytest.raises(
        ValueError, match="timm .* knows no model 'vit_tiny_patch16_225'; near ones: vit_tiny_patch16_224"
    ):
        open_adapter("timm:vit_tiny_patch16_225", pretrained=False)
    with pytest.raises(ValueError, match="torchvision .* knows no classifier 'vit_b16'; near ones: .*vit_b_16"):
        open_adapter("torchvision:vit_b16", pretrained=False)
    with pytest.raises(ValueError, match="got 'tim:vit'. Did you mean timm:vit"):
        open_adapter("tim:vit")
    with pytest.raises(ValueError, match="plain values with names"):
        open_adapter("timm:vit_tiny_patch16_224(4)")
    with pytest.raises(ValueError, match="could not make 'vit_tiny_patch16_224' with these options.*dept"):
        open_adapter("timm:vit_tiny_patch16_224(dept=4)", pretrained=False)


def test_hugging_face_names_that_are_nothing_are_errors():
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="is no folder that save_pretrained wrote"):
        open_adapter("hf:./nothing/here")
    with pytest.raises(ValueError, match="could not make 'vitt'"):
        open_adapter("hf:vitt", pretrained=False)


def test_a_library_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'cpvt\[hf\]'"):
        open_adapter("hf:vit")


def test_a_folder_of_hugging_face_is_opened_with_its_normalisation(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = make(HF).model
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    adapter, images = open_adapter(f"hf:{tmp_path}"), torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(adapter.logits(images), adapter_of(model).logits(images))
    assert adapter.transform.mean == (0.1, 0.2, 0.3)
    assert adapter.transform.crop_ratio == 1
    assert adapter.train_size == 32


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_hugging_faces_weights_are_float32_whatever_dtype_they_were_saved_in(dtype, tmp_path):
    model = make(HF).model.to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    opened = open_adapter(f"hf:{tmp_path}").model
    for made in (opened, open_adapter(f"hf:{tmp_path}", pretrained=False).model, build(f"hf:{tmp_path}", 5)):
        assert {each.dtype for each in made.state_dict().values()} == {torch.float32}
    for name, saved in model.state_dict().items():
        assert torch.equal(opened.state_dict()[name], saved.float())


def test_pegs_that_hugging_face_would_leave_out_are_refused(tmp_path):
    cpvt.retrofit(make(HF).model).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds PEGs of a retrofitted model \(.*peg.*cpvt.retrofit"):
        open_adapter(f"hf:{tmp_path}")


def test_weights_are_not_rounded_to_the_dtype_of_a_configuration(tmp_path):
    model = make(HF).model
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16", "torch_dtype": "bfloat16"}))
    opened = open_adapter(f"hf:{tmp_path}").model
    assert torch.equal(opened.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize("name", [HF, TIMM, "torchvision:vit_b_16(dropout=0)"])
def test_a_dtype_among_the_options_is_refused(name):
    with pytest.raises(ValueError, match=r"weights are always float32, so '.*' takes no dtype; --precision bf16"):
        build(name.replace(")", ", dtype='bfloat16')"), 5)


def test_a_model_saved_without_its_head_is_refused(tmp_path):
    pytest.importorskip("transformers")
    make(HF).model.vit.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="was not saved as a classifier: it has no weights for classifier"):
        open_adapter(f"hf:{tmp_path}")


def test_grey_models_of_timm_read_grey_images():
    adapter = adapter_of(build(TIMM, 5, 32, in_chans=1))
    assert (adapter.channels, adapter.transform.mean, adapter.transform.mode) == (1, (0.5,), "L")


@every
def test_an_untrained_twin_keeps_nothing_that_was_trained(name):
    adapter = make(name)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            parameter.fill_(7.0)
    kept = [name for name, value in adapter.untrained().model.named_parameters() if (value == 7).any()]
    assert kept == []


@pytest.mark.parametrize(
    "name", [TIMM, HF, "torchvision:mobilenet_v3_small", "torchvision:mobilenet_v3_small(weights=None)"]
)
def test_random_weights_are_asked_for_in_brackets_or_as_a_checkpoint(name, monkeypatch):
    monkeypatch.setattr(hub, "_answers", lambda address: pytest.fail("the hub was asked"))
    bracketed = name.replace(")", ", pretrained=False)") if ")" in name else f"{name}(pretrained=False)"
    for adapter in (open_adapter(bracketed), open_adapter(name, "random"), adapter_of(build(bracketed, 1000))):
        with torch.no_grad():
            assert adapter.model(torch.zeros(1, 3, 224, 224)) is not None
    assert open_adapter(bracketed).name == bracketed


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:vit_tiny_patch16_224", r"the weights of 'timm:vit_tiny_patch16_224' .*--checkpoint FILE .*random$"),
        ("hf:someone/model", r"the weights of 'hf:someone/model' .*a folder that save_pretrained wrote, as in hf:PATH"),
    ],
)
def test_without_a_network_the_hub_is_asked_once(name, words, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(hub, "_answers", lambda address: asked.append(address))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(ValueError, match=words.replace(r"' ", r"' could not be fetched: .*", 1)):
        open_adapter(name)
    assert (asked, waits) == (["https://huggingface.co"], [])
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_an_address_that_refuses_does_not_answer():
    assert not hub._answers("http://127.0.0.1:9")


def test_torchvision_states_the_size_of_models_that_are_no_vit_whatever_their_name():
    assert open_adapter("torchvision:maxvit_t", "random").train_size == 224


def test_deit_of_hugging_face_is_built_from_its_configuration():
    name = "hf:deit(patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)"
    assert build(name, 5, 32)(torch.randn(1, 3, 32, 32)).logits.shape == (1, 5)
