"""Retrofits: other people's models, unchanged at the start, with PEGs where a plain loop over their blocks has them."""

import copy
import io
import itertools
import json
import re
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch.testing import assert_close

import cpvt
from cpvt.adapters import adapter_of
from cpvt.adapters.retrofit import ABSOLUTE, fade_share, parameter_groups, retrofit, set_absolute_share
from cpvt.adapters.scale import estimate_scale
from cpvt.encodings import PEG
from cpvt.ops import reference

transformers = pytest.importorskip("transformers")

SHAPE = dict(embed_dim=24, depth=3, num_heads=3, num_classes=5, img_size=32, patch_size=8, drop_path_rate=0.2)
HF = dict(
    hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48, image_size=32, patch_size=8,
    num_labels=5, hidden_dropout_prob=0.1,
)  # fmt: skip


def vit(name="vit_tiny_patch16_224", **options):
    return timm.create_model(name, **{**SHAPE, **options})


def swin(img_size=32):
    return timm.create_model(
        "swin_tiny_patch4_window7_224", embed_dim=12, depths=(2, 3), num_heads=(1, 2), img_size=img_size, window_size=4,
        num_classes=5,
    )  # fmt: skip


def pvt():
    return timm.create_model(
        "pvt_v2_b0", embed_dims=(8, 16, 16, 24), num_heads=(1, 2, 2, 3), depths=(2, 2, 2, 2), num_classes=5
    )


def torchvision_vit():
    return torchvision.models.VisionTransformer(32, 8, 3, 3, 24, 48, dropout=0.1, num_classes=5)


def hugging_face(kind, **options):
    config = getattr(transformers, f"{kind.removesuffix('ForImageClassification').removesuffix('Model')}Config")
    return getattr(transformers, kind)(config(**HF, **options))


MODELS = {  # name -> how to build, whether it has a table, prefix tokens, prefix rows of the table
    "vit": (vit, True, 1, 1),
    "vit with registers": (lambda: vit(reg_tokens=3, dynamic_img_size=True), True, 4, 4),
    "vit, patches' positions alone": (
        lambda: vit(reg_tokens=2, no_embed_class=True, dynamic_img_size=True),
        True,
        3,
        0,
    ),
    "vit without class token": (lambda: vit(class_token=False, global_pool="avg", dynamic_img_size=True), True, 0, 0),
    "vit without positions": (lambda: vit(pos_embed="none", dynamic_img_size=True), False, 1, 0),
    "distilled deit": (lambda: vit("deit_tiny_distilled_patch16_224", dynamic_img_size=True), True, 2, 2),
    "eva": (lambda: vit("eva02_tiny_patch14_224", dynamic_img_size=True), True, 1, 1),
    "rotary eva": (lambda: vit("vit_small_patch16_dinov3"), False, 5, 0),
    "swin": (swin, False, 0, 0),
    "pvt": (pvt, False, 0, 0),
    "torchvision": (torchvision_vit, True, 1, 1),
    "hf vit": (lambda: hugging_face("ViTForImageClassification"), True, 1, 1),
    "hf vit model": (lambda: hugging_face("ViTModel"), True, 1, 1),
    "hf deit": (lambda: hugging_face("DeiTModel"), True, 2, 2),
    "hf dinov2": (lambda: hugging_face("Dinov2Model"), True, 1, 1),
    "hf dinov2, head": (lambda: hugging_face("Dinov2ForImageClassification"), True, 1, 1),
    "hf dinov2, registers": (lambda: hugging_face("Dinov2WithRegistersModel", num_register_tokens=3), True, 4, 1),
    "hf dinov2, registers, head": (lambda: hugging_face("Dinov2WithRegistersForImageClassification"), True, 5, 1),
}
if hasattr(transformers, "DINOv3ViTModel"):
    MODELS["hf dinov3"] = (lambda: hugging_face("DINOv3ViTModel", num_register_tokens=3), False, 4, 0)
STAGED = ("swin", "pvt")
every_model = pytest.mark.parametrize("name", MODELS)
every_table = pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model[1]])


def build(name):
    """A small model with weights that show mistakes: nothing zero, positions of the size of the tokens."""
    torch.manual_seed(0)
    return fill(MODELS[name][0]()).eval()


def fill(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter == 1))
    return module


def fill_pegs(model, seed=1):
    for number, part in enumerate(part for part in model.modules() if isinstance(part, PEG)):
        fill(part, seed + number)
    return model


def answer(model, images, **options):
    """Everything a model says, as one tensor."""
    said = model(images, **options)
    if isinstance(said, torch.Tensor):
        return said
    return said.logits if hasattr(said, "logits") else said.last_hidden_state


def images(height=32, width=32, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(2))


def table_of(model):
    """Name and tensor of the absolute positions."""
    for name, tensor in model.named_parameters():
        if name.rpartition(".")[2] in ("pos_embed", "pos_embedding", "position_embeddings"):
            return name, tensor
    raise AssertionError("no table")


# ---- at the start


@pytest.mark.parametrize(
    ("name", "absolute"), [(name, absolute) for name in MODELS for absolute in ("keep", "fade")[: 1 + MODELS[name][1]]]
)
def test_the_output_is_the_same_to_the_last_bit_at_the_start(name, absolute):
    model = build(name)
    before = copy.deepcopy(model.state_dict())
    fitted = cpvt.retrofit(model, at=(1, 2), absolute=absolute)
    assert answer(model, images()).abs().max() > 0.1
    assert torch.equal(answer(fitted, images()), answer(model, images()))
    torch.manual_seed(3)
    expected = answer(model.train(), images())
    torch.manual_seed(3)
    assert torch.equal(answer(fitted.train(), images()), expected)
    # the given model is as it was, and the copy is of its kind, its parameters by their names
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert not any(isinstance(part, PEG) for part in model.modules())
    assert isinstance(fitted, type(model))
    named = dict(fitted.named_parameters())
    new = named.keys() - dict(model.named_parameters()).keys()
    assert dict(model.named_parameters()).keys() <= named.keys()
    assert new
    assert all("peg" in each for each in new)
    assert not {parameter.data_ptr() for parameter in named.values()} & {each.data_ptr() for each in model.parameters()}


@every_model
def test_gradients_reach_every_peg_in_the_first_step(name):
    fitted = retrofit(build(name), at=(1, 2))
    answer(fitted, images()).square().sum().backward()
    pegs = [(each, tensor) for each, tensor in fitted.named_parameters() if "peg" in each]
    assert len(pegs) == (2 * 2 * (4 if name == "pvt" else 2) if name in STAGED else 4)
    for each, tensor in pegs:
        assert tensor.grad.abs().max() > 0, each


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_start_is_exact_in_other_dtypes(dtype):
    model = build("vit").to(dtype)
    fitted = retrofit(model)
    assert {parameter.dtype for parameter in fitted.parameters()} == {dtype}
    assert torch.equal(fitted(images().to(dtype)), model(images().to(dtype)))


def test_the_start_is_exact_under_autocast():
    model = build("vit")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(retrofit(model)(images()), model(images()))


# ---- against a loop that can be checked by eye


def encode(block_peg, x, grid, prefix, trained=(4, 4)):
    """The slow PEG with the weights of a fitted block's, told what fits its grid in training."""
    scale = [max(1.0, now / before) for now, before in zip(grid, trained)]
    return reference.peg(x, block_peg.weight, block_peg.bias, grid, prefix, dilation=scale)


def walk(blocks, fitted_blocks, x, grid, prefix, *arguments, trained=(4, 4)):
    for block, fitted in zip(blocks, fitted_blocks):
        x = block(x, *arguments)
        x = x[0] if isinstance(x, tuple) else x
        if hasattr(fitted, "peg"):
            x = encode(fitted.peg, x, grid, prefix, trained)
    return x


VITS = [name for name in MODELS if name.startswith("vit") and name != "vit"]
PADDED = dict(dynamic_img_size=True, dynamic_img_pad=True)  # sides that the patch does not divide


@pytest.mark.parametrize(
    ("make", "prefix", "size", "grid"),
    [(MODELS[name][0], MODELS[name][2], (8 * h, 8 * w), (h, w)) for name in VITS for h, w in [(4, 4), (2, 7), (5, 1)]]
    + [(lambda: vit(**PADDED), 1, (17, 40), (3, 5))],
)
def test_timm_vit_is_the_plain_loop(make, prefix, size, grid):
    torch.manual_seed(0)
    model = fill(make()).eval()
    fitted = fill_pegs(retrofit(model, at=(1, 3)))
    x = walk(model.blocks, fitted.blocks, model._pos_embed(model.patch_embed(images(*size))), grid, prefix)
    assert_close(fitted(images(*size)), model.forward_head(model.norm(x)), atol=1e-5, rtol=1e-5)
    assert (fitted(images(*size)) - model(images(*size))).abs().max() > 0.1


def test_eva_is_the_plain_loop():
    model = build("eva")
    fitted = fill_pegs(retrofit(model, at=2))
    x, rope = model._pos_embed(model.patch_embed(images(16, 40)))
    for number, block in enumerate(model.blocks):
        x = block(x, rope=rope)
        if number == 1:
            x = encode(fitted.blocks[1].peg, x, (2, 5), 1)
    assert_close(fitted(images(16, 40)), model.forward_head(model.norm(x)), atol=1e-5, rtol=1e-5)


def test_torchvision_is_the_plain_loop():
    model = build("torchvision")
    fitted = fill_pegs(retrofit(model))
    x = torch.cat([model.class_token.expand(2, -1, -1), model._process_input(images())], dim=1)
    x = walk(model.encoder.layers, fitted.encoder.layers, x + model.encoder.pos_embedding, (4, 4), 1)
    assert_close(fitted(images()), model.heads(model.encoder.ln(x)[:, 0]), atol=1e-5, rtol=1e-5)


def hf_blocks(model):
    """transformers 5 calls ViT's list `layers`, transformers 4 and DINOv2 `encoder.layer`."""
    return model.layers if hasattr(model, "layers") else model.encoder.layer


@pytest.mark.parametrize("name", ["hf vit model", "hf dinov2", "hf dinov2, registers"])
def test_hugging_face_is_the_plain_loop_and_records_hidden_states_with_the_peg(name):
    model = build(name)
    model(images(), output_hidden_states=True)  # leaves hooks of its own behind, which must not come first
    fitted = fill_pegs(retrofit(model, at=(2,)))
    options = {"interpolate_pos_encoding": True} if name == "hf vit model" else {}
    x = model.embeddings(images(24, 40), **options)
    x = walk(hf_blocks(model)[:2], hf_blocks(fitted)[:2], x, (3, 5), MODELS[name][2])
    said = fitted(images(24, 40), output_hidden_states=True, **options)
    assert_close(said.hidden_states[2], x, atol=1e-5, rtol=1e-5)
    x = walk(hf_blocks(model)[2:], hf_blocks(fitted)[2:], x, (3, 5), MODELS[name][2])
    assert_close(said.last_hidden_state, model.layernorm(x), atol=1e-5, rtol=1e-5)


def test_a_block_that_returns_more_than_tokens_still_does():
    """As Hugging Face's did before transformers 5."""
    fitted = fill_pegs(retrofit(build("vit")))
    fitted(images())
    tokens = torch.randn(2, 1 + 16, 24)
    expected = fitted.blocks[0](tokens)
    fitted.blocks[0].register_forward_hook(lambda block, args, output: (output, "weights"), prepend=True)
    x, weights = fitted.blocks[0](tokens)
    assert torch.equal(x, expected)
    assert weights == "weights"


@pytest.mark.parametrize(("size", "at"), [((32, 32), 2), ((32, 64), 1)])
def test_swin_is_the_plain_loop_in_every_stage(size, at):
    model = fill(swin(size)).eval()
    fitted = fill_pegs(retrofit(model, at=at))
    x = model.patch_embed(images(*size))
    for patch, stage, fitted_stage in zip((4, 8), model.layers, fitted.layers):
        x, grid = stage.downsample(x), (size[0] // patch, size[1] // patch)
        x = stage.blocks[:at](x)
        x = encode(fitted_stage.blocks[at - 1].peg, x.flatten(1, 2), grid, 0, trained=grid).unflatten(1, grid)
        x = stage.blocks[at:](x)
    assert_close(fitted(images(*size)), model.forward_head(model.norm(x)), atol=1e-5, rtol=1e-5)


def test_pvt_is_the_plain_loop_in_every_stage():
    model = build("pvt")
    fitted = fill_pegs(retrofit(model, at=1))
    fitted.scale = "pixels"
    x = model.patch_embed(images(64, 96))
    for stage, fitted_stage in zip(model.stages, fitted.stages):
        x = x if stage.downsample is None else stage.downsample(x)
        grid = (x.shape[1], x.shape[2])
        x = walk(stage.blocks[:1], fitted_stage.blocks[:1], x.flatten(1, 2), grid, 0, grid, trained=grid)
        x = stage.norm(stage.blocks[1](x, grid))
        x = x.unflatten(1, grid).permute(0, 3, 1, 2)
    assert_close(fitted(images(64, 96)), model.forward_head(x), atol=1e-5, rtol=1e-5)


def test_several_kernels_and_other_borders():
    model = build("vit without class token")
    fitted = fill_pegs(retrofit(model, kernel_size=(5, 3), padding_mode="replicate"))
    peg = fitted.blocks[0].peg
    x = model.blocks[0](model._pos_embed(model.patch_embed(images(24, 48))))
    x = reference.peg(x, peg.kernel(), peg.bias, (3, 6), 0, "replicate")
    expected = model.forward_head(model.norm(model.blocks[1:](x)))
    fitted.scale = "pixels"
    assert_close(fitted(images(24, 48)), expected, atol=1e-5, rtol=1e-5)


def test_timms_intermediates_hold_the_peg():
    fitted = fill_pegs(retrofit(build("vit with registers"), at=(1,)))
    plain = build("vit with registers")
    size = (16, 40)
    ((maps, prefix),) = fitted.forward_intermediates(
        images(*size), indices=[0], return_prefix_tokens=True, intermediates_only=True
    )
    x = walk(plain.blocks[:1], fitted.blocks[:1], plain._pos_embed(plain.patch_embed(images(*size))), (2, 5), 4)
    assert_close(maps, x[:, 4:].unflatten(1, (2, 5)).permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)
    assert torch.equal(prefix, x[:, :4])


# ---- the scale of objects


@pytest.mark.parametrize(
    ("rule", "scale"),
    [
        ("paper", (1, 1)),
        ("pixels", (1, 1)),
        ("fit", (1, 1.75)),
        ("fit*0.8", (1, 1.4)),
        (2.0, (2, 2)),
        ((1, 2.5), (1, 2.5)),
    ],
)
def test_every_peg_reads_neighbours_as_far_apart_as_the_rule_says(rule, scale):
    plain, fitted = build("vit without class token"), fill_pegs(retrofit(build("vit without class token"), at=(1, 3)))
    fitted.scale = rule
    x = plain._pos_embed(plain.patch_embed(images(24, 56)))
    for block, changed in zip(plain.blocks, fitted.blocks):
        x = block(x)
        if hasattr(changed, "peg"):
            x = reference.peg(x, changed.peg.weight, changed.peg.bias, (3, 7), dilation=scale)
    assert_close(fitted(images(24, 56)), plain.forward_head(plain.norm(x)), atol=1e-5, rtol=1e-5)


@pytest.fixture
def told(monkeypatch):
    """A list of (grid, scale) that every PEG was told, as it runs."""
    calls, plain = [], PEG.encoding

    def note(peg, tokens, grid, prefix_tokens=0, scale=1):
        calls.append((tuple(grid), scale))
        return plain(peg, tokens, grid, prefix_tokens, scale)

    monkeypatch.setattr(PEG, "encoding", note)
    return calls


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        (
            "pvt",
            (336, 448),
            [((84, 112), (1.5, 2)), ((42, 56), (1.5, 2)), ((21, 28), (1.5, 2)), ((11, 14), (11 / 7, 2))],
        ),
        ("swin", (32, 64), [((8, 16), (1, 2)), ((4, 8), (1, 2))]),
    ],
)
def test_pegs_of_stages_follow_their_own_grids(name, size, expected, told):
    fitted = retrofit(build(name), at=1)
    if name == "swin":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own about what timm gives it
            fitted.set_input_size(size)
    fitted(images(*size, count=1))
    assert told == expected


@every_model
def test_at_any_scale_the_start_is_the_original_and_filled_pegs_are_not(name):
    model = build(name)
    fitted = retrofit(model, at=(1, 2), scale=1.5)
    assert fitted.scale == 1.5
    assert fitted.scale_grid == {"swin": (8, 8), "pvt": (56, 56)}.get(name, (4, 4))
    size = (64, 64) if name == "pvt" else (32, 32)  # its last grid holds an object of 1.5 tokens
    assert torch.equal(answer(fitted, images(*size)), answer(model, images(*size)))
    before = answer(fill_pegs(fitted), images(*size))
    fitted.scale = "pixels"
    assert (before - answer(fitted, images(*size))).abs().max() > 1e-3


def test_another_input_size_leaves_the_grid_of_training(told):
    fitted = retrofit(build("vit"))
    fitted.set_input_size((64, 48))
    fitted(images(64, 48))
    assert (told, fitted.scale_grid) == ([((8, 6), (2, 1.5))], (4, 4))


@pytest.mark.parametrize("rule", ["fitt", "fit*2", 0, 0.5, -1, float("nan"), float("inf"), (1, 2, 3), None, True])
def test_rules_that_do_not_exist_are_refused(rule):
    fitted = retrofit(build("vit"), scale="pixels")
    for attempt in (lambda: setattr(fitted, "scale", rule), lambda: retrofit(build("vit"), scale=rule)):
        with pytest.raises(ValueError, match=r"scale must be (paper, pixels, fit|1 or more).* got"):
            attempt()
    assert fitted.scale == "pixels"
    with pytest.raises(ValueError, match=r"along the rows a 4x4 grid has 4 tokens; got 4.5"):
        fitted.scale = 4.5
        fitted(images())


def test_a_model_that_does_not_run_by_itself_is_told_numbers_alone(told):
    """It wants more than images, so the grid of training is not known."""
    model = build("vit with registers")
    plain = type(model).forward
    model.forward = lambda images, mask: plain(model, images)
    fitted = retrofit(model)
    fitted.forward = lambda images, mask: plain(fitted, images)
    fitted(images(64, 64), None)
    fitted.scale = 2.0
    fitted(images(64, 64), None)
    assert (told, fitted.scale_grid) == ([((8, 8), 1), ((8, 8), (2, 2))], None)


def test_an_adapter_tells_a_retrofitted_model_and_no_other(told):
    model = build("vit with registers")
    adapter = adapter_of(retrofit(model))
    larger = images(64, 32)
    answers = {rule: adapter.with_scale(rule).logits(larger) for rule in (None, "pixels", "fit", 1.5)}
    assert [scale for _, scale in told] == [(2, 1), (1, 1), (2, 1), (1.5, 1.5)]
    assert adapter.model.scale == "fit"
    assert torch.equal(answers[None], answers["fit"])
    with pytest.raises(ValueError, match="'vit' has no PEG, so it takes no scale .* cpvt.retrofit"):
        adapter_of(model, "vit").with_scale("fit")
    assert estimate_scale(fill_pegs(adapter.model), larger) in (1.0, (1.5, 1.0), (2.0, 1.0))


# ---- absolute positions


@every_table
def test_the_share_scales_the_patches_rows_and_no_others(name):
    rows = MODELS[name][3]
    model = build(name)
    fitted, dropped = retrofit(model, absolute="fade"), retrofit(model, absolute="drop")
    for share in (0.25, 0.0):
        by_hand = copy.deepcopy(model)
        _, table = table_of(by_hand)
        with torch.no_grad():
            table[:, rows:] *= share
        set_absolute_share(fitted, share)
        assert_close(answer(fitted, images()), answer(by_hand, images()), atol=1e-6, rtol=1e-6)
        assert (answer(fitted, images()) - answer(model, images())).abs().max() > 1e-3
    assert_close(answer(fitted, images()), answer(dropped, images()), atol=0, rtol=0)
    set_absolute_share(fitted, 1.0)
    assert torch.equal(answer(fitted, images()), answer(model, images()))


@every_table
def test_a_dropped_table_learns_nothing_but_its_prefix_rows_do(name):
    dropped = retrofit(build(name), absolute="drop")
    answer(dropped, images()).square().sum().backward()
    grad, rows = table_of(dropped)[1].grad, MODELS[name][3]
    assert not grad[:, rows:].any()
    assert all(grad[:, row].any() for row in range(rows))


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if not model[1]])
def test_without_a_table_there_is_nothing_to_fade_or_drop(name):
    for absolute in ("fade", "drop"):
        with pytest.raises(ValueError, match=rf"no table of absolute positions to {absolute}; use absolute='keep'"):
            retrofit(build(name), absolute=absolute)


def test_a_faded_table_is_resampled_as_timm_does():
    model = build("vit with registers")
    fitted = retrofit(model, absolute="fade")
    set_absolute_share(fitted, 0.5)
    with torch.no_grad():
        model.pos_embed[:, 4:] *= 0.5
    assert_close(fitted(images(16, 56)), model(images(16, 56)), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_timms_set_input_size_does_not_fade_twice(share):
    model = build("vit")
    fitted = retrofit(model, absolute="fade")
    set_absolute_share(fitted, share)
    for each in (model, fitted):
        each.set_input_size((24, 48))
    assert isinstance(fitted.pos_embed, torch.Tensor)
    assert "pos_embed" in dict(fitted.named_parameters())
    with torch.no_grad():
        model.pos_embed[:, 1:] *= share
    assert_close(fitted(images(24, 48)), model(images(24, 48)), atol=1e-6, rtol=1e-6)


def test_shares_fall_from_one_to_zero():
    assert [fade_share(step, 4, shape="linear") for step in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    cosine = [fade_share(step, 10, start=0.2, end=0.8) for step in range(11)]
    assert cosine[:3] == [1, 1, 1]
    assert cosine[8:] == [0, 0, 0]
    assert cosine[5] == pytest.approx(0.5)
    assert all(before > after for before, after in itertools.pairwise(cosine[2:9]))
    assert [fade_share(step, 4, start=0.5, end=0.5) for step in range(4)] == [1, 1, 0, 0]


# ---- saved, copied, compiled, exported


@pytest.mark.parametrize(
    ("name", "absolute"),
    [("swin", "keep"), *itertools.product(["vit", "torchvision", "hf vit"], ABSOLUTE)],
)
def test_saved_and_loaded_again(name, absolute, tmp_path):
    fitted = fill_pegs(retrofit(build(name), at=(1, 2), absolute=absolute, kernel_size=(5, 3)))
    if absolute == "fade":
        set_absolute_share(fitted, 0.3)
    fitted.scale = (1.5, 2)
    safetensors.torch.save_file(fitted.state_dict(), tmp_path / "model.safetensors")
    options = json.loads(json.dumps(fitted.retrofitted))
    scale = {"scale": [1.5, 2.0], "scale_grid": list(fitted.scale_grid)}
    assert options == {"at": [1, 2], "absolute": absolute, "kernel_size": [5, 3], "padding_mode": "zeros", **scale}
    again = retrofit(fill(MODELS[name][0](), seed=9).eval(), **options)
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "model.safetensors"))
    assert again.scale == fitted.scale == (1.5, 2.0)
    assert torch.equal(answer(again, images()), answer(fitted, images()))
    del options["scale"]  # as before there was one
    assert retrofit(build(name), **options).scale == "fit"


def test_a_plain_checkpoint_still_loads():
    fitted = retrofit(vit(), absolute="fade").eval()
    model = build("vit")
    missing, unexpected = fitted.load_state_dict(model.state_dict(), strict=False)
    assert sorted(missing) == ["blocks.0.peg.bias", "blocks.0.peg.weight", "peg_absolute_share"]
    assert not unexpected
    assert torch.equal(fitted(images()), model(images()))
    fitted.load_state_dict(model.state_dict(), strict=False, assign=True)
    assert torch.equal(fitted(images()), model(images()))


@pytest.mark.parametrize("absolute", ["keep", "fade"])
def test_copies_and_pickles_are_whole_and_their_own(absolute):
    fitted = fill_pegs(retrofit(build("vit with registers"), absolute=absolute))
    wide, tall = images(16, 64), images(64, 16)  # the same number of patches
    expected = fitted(tall), fitted(wide)
    tokens = torch.randn(2, 4 + 16, 24)
    as_wide = fitted.blocks(tokens)
    file = io.BytesIO()
    torch.save(fitted, file)
    file.seek(0)
    for other in (copy.deepcopy(fitted), torch.load(file, weights_only=False)):
        assert torch.equal(other(wide), expected[1])
        assert torch.equal(other(tall), expected[0])
        assert torch.equal(fitted.blocks(tokens), as_wide)  # the other's images are not its own
        fill_pegs(other, seed=8)
        if absolute == "fade":
            set_absolute_share(other, 0.0)
        other.scale = 2.0
        assert fitted.scale == fitted.retrofitted["scale"] == "fit"
        assert other.scale_grid == fitted.scale_grid == (4, 4)
        assert torch.equal(fitted(tall), expected[0])
        assert not torch.equal(other(tall), expected[0])
        assert torch.equal(fitted(wide), expected[1])


def test_later_hooks_do_not_replace_the_hook_of_a_pickled_peg(monkeypatch):
    monkeypatch.setattr(torch.utils.hooks.RemovableHandle, "next_id", 0)
    fitted = fill_pegs(retrofit(build("vit"), at=(1, 2, 3)))
    file = io.BytesIO()
    torch.save(fitted, file)
    file.seek(0)
    monkeypatch.setattr(torch.utils.hooks.RemovableHandle, "next_id", 0)  # a new process counts hooks from 0
    other = torch.load(file, weights_only=False)
    for block in other.blocks:
        for _ in range(20):
            block.register_forward_hook(lambda *_: None)
    assert torch.equal(other(images()), fitted(images()))


@pytest.mark.parametrize(
    ("name", "setting", "size"),
    [("vit with registers", "set_grad_checkpointing", (16, 40)), ("swin", "set_grad_checkpointing", (32, 32)),
     ("pvt", "set_grad_checkpointing", (32, 64)), ("hf vit", "gradient_checkpointing_enable", (32, 32))],
)  # fmt: skip
def test_gradient_checkpointing_gives_the_same_gradients(name, setting, size):
    fitted = fill_pegs(retrofit(build(name), absolute="fade" if MODELS[name][1] else "keep"))
    answer(fitted, images(*size)).square().sum().backward()
    expected = {each: tensor.grad.clone() for each, tensor in fitted.named_parameters() if tensor.grad is not None}
    fitted.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers renames it, and says so
        getattr(fitted, setting)()
    fitted.train()
    for part in fitted.modules():  # Hugging Face checkpoints in training alone; nothing else may be random
        if "drop" in type(part).__name__.lower():
            part.eval()
    answer(fitted, images(*size)).square().sum().backward()
    assert any("peg" in each for each in expected)
    for each, tensor in fitted.named_parameters():
        assert (tensor.grad is None) == (each not in expected)
        if each in expected:
            assert_close(tensor.grad, expected[each], atol=1e-5, rtol=1e-4)


def test_checkpointed_images_of_two_sizes_share_one_backward():
    fitted = fill_pegs(retrofit(build("vit with registers")))

    def gradient():
        fitted.zero_grad()
        (fitted(images(16, 40)).square().sum() + fitted(images(24, 8)).square().sum()).backward()
        return fitted.blocks[0].peg.weight.grad.clone()

    expected = gradient()
    fitted.set_grad_checkpointing()
    assert_close(gradient(), expected, atol=1e-5, rtol=1e-4)


def graphs_of(model, calls):
    """How many graphs torch.compile makes of a model over these calls, each compared with eager."""
    torch._dynamo.reset()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count)
    for call in calls:
        assert_close(call(compiled), call(model), atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()
    return len(graphs)


def test_compiled_for_many_sizes_in_two_graphs():
    """Of a model that timm itself lets compile so: elsewhere its checks of sizes make one for each."""
    model = fill(vit(pos_embed="none", dynamic_img_size=True, dynamic_img_pad=True)).eval()
    fitted = fill_pegs(retrofit(model, at=(1, 2)))
    sizes = ((16, 40), (24, 32), (40, 16), (32, 48))
    for rule in ("pixels", "fit", 1.5):
        fitted.scale = rule
        assert graphs_of(fitted, [lambda model, size=size: model(images(*size)) for size in sizes]) == 2


def test_a_share_may_change_without_another_graph():
    fitted = fill_pegs(retrofit(build("vit"), absolute="fade"))

    def call(model, share):
        set_absolute_share(fitted, share)
        return model(images())

    assert (call(fitted, 1.0) - call(fitted, 0.2)).abs().max() > 1e-3
    assert graphs_of(fitted, [lambda model, share=share: call(model, share) for share in (1.0, 0.2)]) == 1


DYNAMIC = "vit with registers"  # exported with every axis free
EXPORTED = ["vit", DYNAMIC, "torchvision", "hf vit", "swin"]


def to_export(name, at):
    """A fitted model, the image to trace it with, its free axes, and sizes to try."""
    fitted = fill_pegs(retrofit(build(name), at=at, absolute="fade" if MODELS[name][1] else "keep"))
    if name != DYNAMIC:
        return fitted, images(), None, [(32, 32)]
    return fitted, images(32, 48), ({axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)},), [(32, 32), (16, 56)]


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_by_torch_export(name):
    fitted, example, free, sizes = to_export(name, (1, 2))
    program = torch.export.export(fitted, (example,), dynamic_shapes=free)
    torch.save(fitted, io.BytesIO())  # tracing leaves nothing behind that cannot be saved
    for size in sizes:
        assert_close(answer(program.module(), images(*size)), answer(fitted, images(*size)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_to_onnx(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    fitted, example, free, sizes = to_export(name, (1,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about itself
        torch.onnx.export(
            fitted, (example,), tmp_path / "model.onnx", dynamo=True, verbose=False, dynamic_shapes=free,
            input_names=["images"],
        )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for size in sizes:
        said = torch.from_numpy(session.run(None, {"images": images(*size).numpy()})[0])
        assert_close(said, answer(fitted, images(*size)).detach(), atol=1e-5, rtol=1e-5)


# ---- fine-tuning


def names_in(model, groups):
    by_id = {id(tensor): name for name, tensor in model.named_parameters()}
    return {group["name"]: {by_id[id(tensor)] for tensor in group["params"]} for group in groups}


@pytest.mark.parametrize("name", ["vit with registers", "swin", "hf dinov2, registers, head", "torchvision"])
def test_parameter_groups(name):
    fitted = retrofit(build(name), at=(1, 2))
    everything = {each for each, _ in fitted.named_parameters()}
    pegs = {each for each in everything if ".peg." in each}

    groups = parameter_groups(fitted, "peg", lr=0.1, weight_decay=0.2, peg_lr_scale=3)
    assert names_in(fitted, groups) == {"peg": pegs}
    assert groups[0]["lr"] == pytest.approx(0.3)
    assert groups[0]["weight_decay"] == 0
    assert {each for each, tensor in fitted.named_parameters() if tensor.requires_grad} == pegs

    groups = names_in(fitted, parameter_groups(fitted, "peg+norms"))
    assert groups.keys() == {"peg", "undecayed"}
    assert all("norm" in each or "ln" in each for each in groups["undecayed"])
    assert len(groups["undecayed"]) >= 2 * (2 * 3 + 1)

    groups = parameter_groups(fitted, "all", lr=0.1, weight_decay=0.2, peg_lr_scale=3)
    named = names_in(fitted, groups)
    assert set.union(*named.values()) == everything
    assert sum(map(len, named.values())) == len(everything)
    assert {group["name"]: (group["lr"], group["weight_decay"]) for group in groups} == {
        "peg": (pytest.approx(0.3), 0), "decayed": (0.1, 0.2), "undecayed": (0.1, 0),
    }  # fmt: skip
    assert all(each.endswith("weight") and "norm" not in each for each in named["decayed"])
    tables = [each for each in everything if any(word in each for word in ("token", "pos", "bias"))]
    assert tables
    assert not set(tables) & named["decayed"]


def test_what_was_frozen_stays_frozen_and_what_is_trained_learns():
    model = build("vit")
    model.patch_embed.requires_grad_(False)
    fitted = retrofit(model)
    parameter_groups(fitted, "peg")
    before = copy.deepcopy(fitted.state_dict())
    optimiser = torch.optim.AdamW(parameter_groups(fitted, "all"))
    fitted(images()).square().sum().backward()
    optimiser.step()
    moved = {name for name, tensor in fitted.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if not name.startswith("patch_embed")}


def test_the_document_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "retrofit.md").read_text()
    monkeypatch.chdir(tmp_path)
    names = {"batches": [(torch.randn(2, 3, 64, 48), torch.tensor([1, 2]))] * 4}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(
            compile(
                block.replace(" pretrained=True,", "").replace("num_classes=10,", "num_classes=10, depth=2,"),
                "retrofit.md",
                "exec",
            ),
            names,
        )
    assert torch.equal(
        names["again"].eval()(torch.ones(1, 3, 32, 64)), names["peg_vit"].eval()(torch.ones(1, 3, 32, 64))
    )
    assert names["saved"]["weights"]["peg_absolute_share"] == 0


# ---- bad input


def no_blocks(model):
    return rf"{type(model).__name__} has no list .* Looked for.*blocks and patch_embed.proj"


WITHOUT_BLOCKS = (
    torchvision.models.resnet18,
    lambda: torch.nn.Linear(2, 2),
    lambda: timm.create_model("convnext_atto"),
)
HIERA = dict(embed_dim=12, num_heads=1, stages=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (vit, {"at": ()}, r"at must list different blocks, from 1 to 3; got \(\)"),
        (vit, {"at": (1, 1)}, r"at must list different blocks"),
        (vit, {"at": 0}, r"from 1 to 3; got \(0,\)"),
        (vit, {"at": (2, 4)}, r"from 1 to 3; got \(2, 4\)"),
        (vit, {"absolute": "half"}, r"absolute must be one of keep, fade, drop; got 'half'"),
        (vit, {"kernel_size": 4}, r"kernel_size must be odd"),
        (vit, {"padding_mode": "mirror"}, r"padding_mode must be one of"),
        (swin, {"at": 3}, r"from 1 to 2, as every stage needs it \(they have \[2, 3\]\); got \(3,\)"),
        (lambda: retrofit(vit()), {}, "retrofitted already, with .*start from the original"),
        (lambda: cpvt.create_model("cpvt_micro", encoding="learned"), {}, r"encoding='learned\+peg'"),
        (lambda: vit(patch_drop_rate=0.5), {}, "patch_drop_rate=0"),
        (lambda: timm.create_model("hiera_tiny_224", **HIERA), {}, "an order of its own"),
        (lambda: "vit_tiny", {}, r"expected a model, a torch.nn.Module; got str"),
        *[(make, {}, no_blocks(make())) for make in WITHOUT_BLOCKS],
    ],
)
def test_what_cannot_be_retrofitted_is_refused(make, options, words):
    with pytest.raises(ValueError, match=words):
        retrofit(make(), **options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda fitted: set_absolute_share(fitted, 0.5), "this one's positions do not fade"),
        (lambda fitted: set_absolute_share(fitted, 1.5), "from 0 to 1; got 1.5"),
        (lambda fitted: parameter_groups(fitted, "head"), r"what must be one of peg, peg\+norms, all; got 'head'"),
        (lambda fitted: parameter_groups(vit()), "this one holds no PEG"),
        (lambda fitted: fade_share(1, 2, shape="step"), "shape must be 'cosine' or 'linear'"),
        (
            lambda fitted: fade_share(1, 2, start=0.5, end=0.2),
            "0 <= start <= end <= 1; got steps=2, start=0.5, end=0.2",
        ),
    ],
)
def test_tools_for_retrofitted_models_say_what_they_need(call, words):
    with pytest.raises(ValueError, match=words):
        call(retrofit(build("vit")))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: timm.create_model("cait_xxs24_224", depth=2, num_classes=2, img_size=32),
            r"Cait cannot take a PEG: a LayerScaleBlock of its returns \(1, 4, 192\), and a PEG needs .* \(1, 5, 192\)",
        ),
        (lambda: timm.create_model("convit_tiny", depth=2, img_size=32), r"ConVit .* returns \(1, 4, 192\)"),
        (lambda: timm.create_model("mvitv2_tiny"), r"MultiScaleVit .* \(1, 784, 192\), .* 96\)"),
        (
            lambda: timm.create_model("caformer_s18"),
            r"MetaFormer .* \(1, 64, 56, 56\).* grid, \(1, h, w, 64\)",
        ),
    ],
)
def test_blocks_that_do_not_return_a_whole_grid_are_refused_at_once(make, words):
    with pytest.raises(ValueError, match=words):
        retrofit(make())


def test_the_trial_leaves_the_model_as_it_was():
    model = build("vit")
    model.blocks[0].train()
    fitted = retrofit(model)
    modes = dict(fitted.named_modules())
    assert all(modes[name].training == part.training for name, part in model.named_modules())
    unseen = next(hook for hook in fitted.blocks[0]._forward_hooks.values()).places
    assert (unseen.grid, unseen.grids) == (None, {})
