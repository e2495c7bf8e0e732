"""Weights of DeiT and of timm's vision transformers: the same logits in our models."""

import pytest
import timm
import torch
from torch.testing import assert_close

import cpvt
from cpvt.models.convert import from_timm

SMALL = dict(embed_dim=24, depth=2, num_heads=3)


def fill(module):
    """Weights that show every mistake: no zeros, no ones, positions of the size of the tokens."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        ones = name.endswith(("norm1.weight", "norm2.weight", "norm.weight"))
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + ones)
    return module.eval()


def theirs(name="deit_tiny_patch16_224", **options):
    return fill(timm.create_model(name, **{**SMALL, "num_classes": 5, "img_size": 64, **options}))


def ours(state, **options):
    options = {**SMALL, "num_classes": 5, "img_size": 64, "encoding": "learned", **options}
    model = cpvt.create_model("deit_tiny", **options).eval()
    model.load_state_dict(state)
    return model


@torch.no_grad()
def assert_same_logits(theirs, ours, size=(64, 64)):
    images = torch.randn(2, 3, *size)
    expected = theirs(images)
    assert expected.abs().max() > 0.5
    assert_close(ours(images), expected, atol=1e-5, rtol=1e-5)


def test_deit_tiny_at_224_has_timms_logits():
    model = fill(timm.create_model("deit_tiny_patch16_224", depth=2))
    with torch.no_grad():  # logits of the size of a trained model's
        model.head.weight.mul_(0.1)
    converted = cpvt.create_model("deit_tiny", encoding="learned", depth=2).eval()
    converted.load_state_dict(from_timm(model.state_dict()))
    assert_same_logits(model, converted, (224, 224))


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"qkv_bias": False}, {}),
        ({"proj_bias": False}, {}),
        ({"init_values": 0.5}, {}),
        ({"no_embed_class": True}, {}),
        ({"num_classes": 0}, {"num_classes": 0}),
        ({"pos_embed": "none"}, {"encoding": "none"}),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False}, {"global_pool": "avg"}),
        ({"global_pool": "avg", "fc_norm": False}, {"global_pool": "avg", "class_token": True}),
    ],
)
def test_variants_have_timms_logits(options, own):
    model = theirs("vit_tiny_patch16_224", **options)
    converted = ours(from_timm(model.state_dict()), **own)
    if options.get("pos_embed") == "none":
        assert "encoding.table" not in converted.state_dict()
    assert_same_logits(model, converted)


@pytest.mark.parametrize("no_embed_class", [False, True])
def test_a_table_that_is_not_square_needs_its_grid(no_embed_class):
    model = theirs(img_size=(48, 96), no_embed_class=no_embed_class)
    assert_same_logits(model, ours(from_timm(model.state_dict(), grid=(3, 6)), img_size=(48, 96)), (48, 96))
    with pytest.raises(ValueError, match=r"does not fit a square grid; say which with grid="):
        from_timm(model.state_dict())
    with pytest.raises(ValueError, match=r"shape \(1, 1[89], 24\) with 1 tokens before it does not fit the grid 2x5"):
        from_timm(model.state_dict(), grid=(2, 5))


def test_layer_scale_by_its_older_name():
    model = theirs(init_values=0.5)
    state = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
        for name, value in model.state_dict().items()
    }
    assert_same_logits(model, ours(from_timm(state)))


def test_distilled_deit_tiny_at_224_has_timms_logits():
    """Nothing left out, at full depth."""
    model = timm.create_model("deit_tiny_distilled_patch16_224").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.03)
    converted = cpvt.create_model("deit_tiny", encoding="learned", distilled=True).eval()
    converted.load_state_dict(from_timm(model.state_dict()))
    assert_same_logits(model, converted, (224, 224))


@pytest.mark.parametrize("no_embed_class", [False, True])
def test_a_distilled_checkpoint_arrives_whole(no_embed_class):
    model = theirs("deit_tiny_distilled_patch16_224", no_embed_class=no_embed_class)
    if no_embed_class:  # timm makes a longer table and then cannot use it
        model.pos_embed = torch.nn.Parameter(model.pos_embed[:, 2:].detach())
    converted = ours(from_timm(model.state_dict()), distilled=True)
    assert_same_logits(model, converted)
    images = torch.randn(2, 3, 64, 64)
    for each in (model, converted):
        each.train().set_distilled_training(True)
    for got, expected in zip(converted(images), model(images), strict=True):
        assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_model_that_is_not_distilled_refuses_a_distilled_checkpoint():
    state = from_timm(theirs("deit_tiny_distilled_patch16_224").state_dict())
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "dist_token", "head_dist.weight"'):
        ours(state)


def wrapped(state):
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    yield {"model": state, "epoch": 3, "optimizer": {}}
    yield {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    yield {"state_dict_ema": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}, "state_dict": other}
    yield {"model": other, "model_ema": state}


def test_what_training_scripts_save_around_a_state_is_taken_off():
    model = theirs()
    expected = from_timm(model.state_dict())
    for checkpoint in wrapped(model.state_dict()):
        got = from_timm(checkpoint)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_the_given_state_is_left_alone():
    state = theirs(init_values=0.5).state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    from_timm(state)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"reg_tokens": 2}, "reg_token"),
        ({"qk_norm": True}, "blocks.0.attn.q_norm.weight"),
        ({"pre_norm": True}, "norm_pre.weight"),
        ({"global_pool": "avg"}, "fc_norm.weight"),
        ({"mlp_layer": timm.layers.SwiGLU}, "blocks.0.mlp.fc1_g.weight"),
    ],
)
def test_weights_without_a_counterpart_are_named(options, names):
    state = timm.create_model("vit_tiny_patch16_224", **SMALL, img_size=64, **options).state_dict()
    with pytest.raises(ValueError, match=rf"there is no counterpart of .*{names}.*cpvt.retrofit"):
        from_timm(state)


def test_what_is_no_vision_transformer_is_refused():
    with pytest.raises(ValueError, match=r"no counterpart of conv1.0.weight, .* and \d+ more"):
        from_timm(timm.create_model("resnet10t").state_dict())
    with pytest.raises(ValueError, match=r"no patch_embed.proj.weight in it"):
        from_timm({})
    with pytest.raises(ValueError, match=r"expected tensors by name, or those under one of .*; got weights"):
        from_timm({"weights": {}})
