"""Positional convolutions of other models as PEGs: each gives what the model's own layer gives, on random weights."""

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.models import coat, davit, fastvit, twins
from torch import nn
from torch.testing import assert_close

import cpvt
from cpvt.cli import main
from cpvt.models.convert import convert_peg, find_pegs, load_pegs, read_weights, save_pegs
from cpvt.models.convert.forms import TABLE

EXACT = dict(atol=1e-12, rtol=1e-12)


def fill(module, dtype=torch.float64):
    """Weights and running statistics that show every mistake; variances are positive."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.to(dtype).state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(values.abs() * 0.01 if name.endswith("running_var") else values)
    return module.eval()


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def apply(found, tokens, grid, prefix=0):
    """What `found.usage` says."""
    call = {"peg(x, grid)": found.peg, "peg.encoding(x, grid)": found.peg.encoding}[found.usage]
    return call(tokens, grid, prefix)


def conv(dim, kernel, axes=2, **options):
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    sides = kernel if isinstance(kernel, tuple) else (kernel,) * axes
    return kind(dim, dim, sides, padding=tuple(side // 2 for side in sides), groups=dim, **options)


class Yolo(nn.Module):
    """Conv of ultralytics without its activation, as `pe` in Attention (YOLO10, 11) and AAttn (YOLO12)."""

    def __init__(self, dim, kernel, bias=False, eps=1e-3, act=None):
        super().__init__()
        self.conv, self.bn, self.act = conv(dim, kernel, bias=bias), nn.BatchNorm2d(dim, eps=eps), act or nn.Identity()

    def forward(self, image):
        return self.act(self.bn(self.conv(image)))


class Phenaki(nn.Module):
    """PEG of Phenaki, for (B, t, h, w, D); its Transformer computes peg(x) + x."""

    def __init__(self, dim, causal):
        super().__init__()
        self.causal, self.dsconv = causal, nn.Conv3d(dim, dim, 3, groups=dim)

    def forward(self, video):
        time = (2, 0) if self.causal else (1, 1)
        return self.dsconv(F.pad(video.movedim(-1, 1), (1, 1, 1, 1, *time))).movedim(1, -1)


class Ppeg(nn.Module):
    """PPEG of TransMIL, with a class token first."""

    def __init__(self, dim):
        super().__init__()
        self.proj, self.proj1, self.proj2 = conv(dim, 7), conv(dim, 5), conv(dim, 3)

    def forward(self, tokens, rows, columns):
        image = tokens[:, 1:].mT.unflatten(2, (rows, columns))
        image = self.proj(image) + image + self.proj1(image) + self.proj2(image)
        return torch.cat([tokens[:, :1], image.flatten(2).mT], dim=1)


class PosInject(nn.Module):
    """PosInjectLayer of MobileVLM, for square grids."""

    def __init__(self, dim):
        super().__init__()
        self.peg = nn.Sequential(conv(dim, 3))

    def forward(self, tokens):
        side = round(tokens.shape[1] ** 0.5)
        image = tokens.mT.unflatten(2, (side, side))
        return (self.peg(image) + image).flatten(2).mT


class UniFormerVideo(nn.Module):
    """The beginning of a block of UniFormer, and some of its other weights."""

    def __init__(self, dim):
        super().__init__()
        self.pos_embed, self.norm1, self.conv1 = conv(dim, 3, axes=3), nn.BatchNorm3d(dim), nn.Conv3d(dim, dim, 1)

    def forward(self, video):
        return video + self.pos_embed(video)


def as_image(layer, tokens, grid):
    return layer(tokens.mT.unflatten(2, grid)).flatten(2).mT


def with_grid(layer, tokens, grid):
    return layer(tokens, grid)


def as_video(layer, tokens, grid):
    return layer(tokens.unflatten(1, grid)).flatten(1, -2)


GRID, VIDEO = (4, 7), (5, 3, 4)
LAYERS = {  # its name in the model, the layer, what it gives for tokens, grid, tokens before it, kernel, model
    "model.10.m.0.attn.pe": (Yolo(6, 3), as_image, GRID, 0, [3, 3], "YOLO10, 11, 12"),
    "model.6.m.0.0.attn.pe": (Yolo(6, 7), as_image, GRID, 0, [7, 7], "YOLO10, 11, 12"),
    "model.8.m.0.0.attn.pe": (Yolo(6, 7, bias=True), as_image, GRID, 0, [7, 7], "YOLO10, 11, 12"),
    "enc_spatial_transformer.layers.0.0": (Phenaki(6, True), as_video, VIDEO, 0, [3, 3, 3], "Phenaki C-ViViT"),
    "transformer.layers.2.0": (Phenaki(6, False), as_video, VIDEO, 0, [3, 3, 3], "Phenaki MaskGIT"),
    "pos_layer": (Ppeg(6), lambda layer, tokens, grid: layer(tokens, *grid), GRID, 1, [7, 7], "TransMIL"),
    "mm_projector.peg": (PosInject(6), lambda layer, tokens, grid: layer(tokens), (5, 5), 0, [3, 3], "MobileVLM"),
    "patch_embedding.positional_encoding": (
        nn.Sequential(conv(6, (19, 7))), as_image, (21, 5), 0, [19, 7], "CBraMod",
    ),
    "transformer_blocks.3.ff.depth_conv": (
        nn.ModuleDict({"conv": conv(6, 3, axes=1)}), lambda layer, tokens, grid: layer["conv"](tokens.mT).mT,
        (9,), 0, [3], "ACE-Step, Sana",
    ),
    "transformer_blocks.1.ff.conv_depth": (conv(6, 3), as_image, GRID, 0, [3, 3], "Sana"),
    "pos_block.1": (twins.PosConv(6, 6), with_grid, GRID, 0, [3, 3], "CPVT, Twins"),
    "serial_blocks2.0.cpe": (
        coat.ConvPosEnc(6, k=5), with_grid, GRID, 1, [5, 5], "DaViT, CoaT",
    ),
    "stages.0.blocks.0.1.cpe2": (davit.ConvPosEnc(6), as_image, GRID, 0, [3, 3], "DaViT, CoaT"),
    "stages.3.pos_emb": (fastvit.RepConditionalPosEnc(6), as_image, GRID, 0, [7, 7], "FastViT, MobileCLIP"),
}  # fmt: skip
ADDED_BY_THE_MODEL = ("transformer.layers", "enc_spatial", "patch_embedding")  # the residual is not in the layer
every_layer = pytest.mark.parametrize("name", LAYERS)


@every_layer
def test_a_layer_alone_is_run_and_equals_its_peg(name):
    layer, call, grid, prefix, kernel, _ = LAYERS[name]
    fill(layer)
    if isinstance(layer, nn.ModuleDict):  # which has no forward
        layer = layer["conv"]
        call = lambda layer, tokens, grid: layer(tokens.mT).mT  # noqa: E731
    tokens = draw(2, prefix + torch.Size(grid).numel(), 6)
    found = convert_peg(layer)
    assert found.record()["kernel"] == kernel
    assert found.batch_norm == isinstance(layer, Yolo)
    assert_close(apply(found, tokens, grid, prefix)[:, prefix:], call(layer, tokens, grid)[:, prefix:], **EXACT)
    assert found.peg.causal == getattr(layer, "causal", False)


@every_layer
@pytest.mark.parametrize("source", ["state", "safetensors", "pth", "module"])
def test_a_layer_is_found_in_a_model_by_its_name_and_equals_its_peg(name, source, tmp_path):
    layer, call, grid, prefix, kernel, model = LAYERS[name]
    outer = nn.ModuleDict({"other": nn.Sequential(nn.Linear(3, 2), nn.Conv2d(3, 4, 3), conv(5, 3))})
    place = outer
    *parents, last = name.split(".")
    for each in parents:
        place[each] = nn.ModuleDict()
        place = place[each]
    place[last] = fill(layer)
    state = outer.double().state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    torch.save({"state_dict": {f"module.{each}": tensor for each, tensor in state.items()}}, tmp_path / "model.pth")
    given = {"state": state, "module": outer}.get(source, tmp_path / f"model.{source}")
    (found,) = find_pegs(given)
    assert (found.name, found.model, found.record()["kernel"]) == (name, model, kernel)
    assert found.batch_norm == isinstance(layer, Yolo)
    assert found.peg.causal == getattr(layer, "causal", False)
    tokens = draw(2, prefix + torch.Size(grid).numel(), 6)
    expected = call(layer, tokens, grid) + tokens * name.startswith(ADDED_BY_THE_MODEL)
    assert_close(apply(found, tokens, grid, prefix)[:, prefix:], expected[:, prefix:], **EXACT)


def test_a_block_of_uniformer_for_video():
    block, video = fill(UniFormerVideo(6)), draw(2, 6, *VIDEO)
    for found in (convert_peg(block), convert_peg(block.state_dict()), convert_peg(block, "pos_embed")):
        assert_close(apply(found, video.flatten(2).mT, VIDEO), block(video).flatten(2).mT, **EXACT)
    alone = convert_peg(block.pos_embed)
    assert_close(apply(alone, video.flatten(2).mT, VIDEO), block.pos_embed(video).flatten(2).mT, **EXACT)
    assert (found.residual, alone.residual) == (True, False)


NAMES = {  # a weight's name in the published models -> model, residual, causal
    "pos_block.0.proj.0": ("CPVT, Twins", True, False),
    "cpe1.proj": ("DaViT, CoaT", True, False),
    "vision_tower.blocks.0.0.spatial_block.conv1.fn.dw": ("Florence-2", True, False),
    "model.vision_tower.blocks.2.1.channel_block.conv2": ("Florence-2", True, False),
    "image_encoder.model.network.7.pe": ("FastViT, MobileCLIP", True, False),
    "blocks3.4.pos_embed": ("UniFormer, BiFormer", True, False),
    "blocks_b.2.proj": ("CMT", True, False),
    "model.mm_projector.peg.peg.0": ("MobileVLM", True, False),
    "dec_temporal_transformer.layers.3.0.dsconv": ("Phenaki C-ViViT", True, True),
    "maskgit.transformer.layers.3.0.dsconv": ("Phenaki MaskGIT", True, False),
    "pos_layer.proj": ("TransMIL", True, False),
    "patch_embedding.positional_encoding.0": ("CBraMod", True, False),
    "model.10.m.0.attn.pe.conv": ("YOLO10, 11, 12", False, False),
    "segformer.encoder.block.0.0.mlp.dwconv.dwconv": ("SegFormer, PVTv2", False, False),
    "stages.0.blocks.0.mlp.dwconv": ("SegFormer, PVTv2", False, False),
    "transformer_blocks.0.ff.conv_depth": ("Sana", False, False),
    "blocks.0.mlp.depth_conv.conv": ("ACE-Step, Sana", False, False),
    "stages.0.0.attn.lepe": ("BiFormer's LePE", False, False),
}


def test_every_form_of_the_table_has_a_name_that_it_finds():
    assert {model for model, _, _ in NAMES.values()} == {form.model for form in TABLE}
    for name, expected in NAMES.items():
        found = convert_peg({f"{name}.weight": torch.randn(4, 1, 3, 3, 3), "head.weight": torch.zeros(3, 4)})
        assert (found.model, found.residual, found.peg.causal) == expected, name


@pytest.mark.parametrize("name", ["segformer", "pvt_v2", "timm pvt_v2"])
def test_segformer_and_pvt_have_no_residual(name):
    if name == "timm pvt_v2":
        model = timm.create_model("pvt_v2_b0", num_classes=0)
        layers = [stage.blocks[0].mlp.dwconv for stage in model.stages]
        first, expected = layers[0], lambda tokens: as_image(first, tokens, GRID)
    else:
        import transformers

        small = dict(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 1, 1])
        config = (transformers.SegformerConfig if name == "segformer" else transformers.PvtV2Config)(**small)
        model = transformers.AutoModel.from_config(config)
        layers = [each for key, each in model.named_modules() if key.endswith("mlp.dwconv")]
        first, expected = layers[0], lambda tokens: first(tokens, *GRID)
    fill(model)
    found = find_pegs(model.state_dict())
    assert [each.residual for each in found[: len(layers)]] == [False] * len(layers)
    tokens = draw(2, 28, found[0].peg.dim)
    assert_close(apply(found[0], tokens, GRID), expected(tokens), **EXACT)
    assert_close(apply(convert_peg(first), tokens, GRID), expected(tokens), **EXACT)


def test_florence_2_adds_the_input():
    florence = pytest.importorskip("transformers.models.florence2.modeling_florence2", reason="newer than 4.50")
    one = dict(embed_dim=[6], num_heads=[2], num_groups=[2], patch_size=[7], patch_stride=[4], patch_padding=[3])
    config = florence.Florence2VisionConfig(depths=[1], patch_prenorm=[False], window_size=4, **one)
    model, seen = fill(florence.Florence2VisionBackbone(config)), []
    found = find_pegs(model)
    names = [f"blocks.0.0.{kind}_block.conv{number}" for kind in ("spatial", "channel") for number in (1, 2)]
    assert [each.name for each in found] == names
    tokens, block = draw(2, 28, 6), model.blocks[0][0].spatial_block
    block.norm1.register_forward_pre_hook(lambda norm, given: seen.append(given[0]))
    as_image(block, tokens, GRID)
    assert_close(apply(found[0], tokens, GRID), seen[0], **EXACT)


def test_whole_models_of_timm():
    model = fill(timm.create_model("twins_pcpvt_small", depths=(1, 1, 1, 1), num_classes=0), torch.float32)
    for source in (model, model.state_dict()):
        found = find_pegs(source)
        assert [each.name for each in found] == [f"pos_block.{number}" for number in range(4)]
        tokens = torch.randn(1, 28, 320)
        assert_close(found[2].peg(tokens, GRID), model.pos_block[2](tokens, GRID))


@pytest.mark.parametrize("layout", ["NLC", "NCHW"])
def test_fastvit_layer_before_and_after_it_is_folded(layout):
    layer = fill(fastvit.RepConditionalPosEnc(6), torch.float32)
    images = torch.randn(2, 6, 9, 8)
    expected = layer(images)

    def apply(call):
        return call(images) if layout == "NCHW" else call(images.flatten(2).mT, (9, 8)).mT.unflatten(2, (9, 8))

    for folded in (False, True):
        if folded:
            layer.reparameterize()
        for source in (layer, nn.ModuleDict({"pos_emb": layer}).state_dict()):
            found = convert_peg(source, layout=layout)
            assert found.residual
            assert found.peg.kernel_size == (7,)
            assert_close(apply(found.peg), expected, atol=2e-5, rtol=2e-5)
            assert_close(apply(found.peg.encoding), expected - images, atol=2e-5, rtol=2e-5)


def test_the_epsilon_of_a_batch_norm():
    """A module's own; YOLO's in YOLO's state dicts, PyTorch's in others; or the one that is given."""
    tokens = draw(2, 28, 6)
    for eps in (1e-5, 1e-3, 0.1):
        layer = fill(Yolo(6, 3, eps=eps))
        state = {f"attn.pe.{name}": tensor for name, tensor in layer.state_dict().items()}
        expected, default = as_image(layer, tokens, GRID), apply(convert_peg(state), tokens, GRID)
        assert_close(apply(convert_peg(layer), tokens, GRID), expected, **EXACT)
        assert_close(apply(convert_peg(nn.ModuleDict({"pe": layer})), tokens, GRID), expected, **EXACT)
        assert_close(apply(convert_peg(state, eps=eps), tokens, GRID), expected, **EXACT)
        assert torch.allclose(default, expected, atol=1e-9) == (eps == 1e-3)
        assert torch.allclose(apply(convert_peg(layer, eps=1e-3), tokens, GRID), expected, atol=1e-9) == (eps == 1e-3)
        renamed = {"pe.conv": "x.0", "pe.bn": "x.1"}
        other = convert_peg(
            {
                renamed[name[5:].rpartition(".")[0]] + "." + name.rpartition(".")[2]: each
                for name, each in state.items()
            },
            "x",
        )
        assert torch.allclose(other.peg.encoding(tokens, GRID), expected, atol=1e-9) == (eps == 1e-5)


@pytest.mark.parametrize("names", ["0 1", "conv1 bn1", "dw bn", "dw norm"])
@pytest.mark.parametrize("affine", [True, False])
def test_a_sequence_of_convolution_and_batch_norm(names, affine):
    layer, tokens = nn.Sequential(), draw(2, 28, 6)
    for name, part in zip(names.split(), (conv(6, 5), nn.BatchNorm2d(6, affine=affine))):
        layer.add_module(name, part)
    fill(layer)
    assert_close(apply(convert_peg(layer), tokens, GRID), as_image(layer, tokens, GRID), **EXACT)
    if names != "0 1":  # a norm before the convolution may be called the same
        with pytest.raises(ValueError, match=rf"the BatchNorm '{names.split()[1]}' is next to '{names.split()[0]}'"):
            convert_peg(layer.state_dict())
        return
    unknown = convert_peg(layer.state_dict())
    assert unknown.residual is None
    assert unknown.usage.startswith("peg(x, grid) if the model adds x to the convolution, else")
    assert_close(unknown.peg.encoding(tokens, GRID), as_image(layer, tokens, GRID), **EXACT)


class NormedBlock(nn.Module):
    """A block whose BatchNorm is before its MLP, next to the positional convolution."""

    def __init__(self, dim, name="pos_embed", mlp=True):
        super().__init__()
        self.name, self.norm, self.mlp = name, nn.BatchNorm2d(dim), nn.Conv2d(dim, dim, 1) if mlp else nn.Identity()
        self.add_module(name, conv(dim, 3))

    def forward(self, image):
        image = image + getattr(self, self.name)(image)
        return image + self.mlp(self.norm(image))


@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_a_batch_norm_outside_the_layer_is_left_out(mlp, trained):
    block, tokens = NormedBlock(6, mlp=mlp).double().eval(), draw(2, 28, 6)
    if trained:  # else the norm changes almost nothing, and none must be folded either
        fill(block)
    expected = tokens + as_image(block.pos_embed, tokens, GRID)
    for source, prefix in ((block, ""), (block.state_dict(), ""), (block, "pos_embed"), (nn.Sequential(block), "0")):
        found = convert_peg(source, prefix)
        assert (found.residual, found.batch_norm) == (True, False)
        assert_close(apply(found, tokens, GRID), expected, **EXACT)


@pytest.mark.parametrize("source", [nn.Sequential, lambda block: nn.Sequential(block).state_dict()])
def test_a_batch_norm_next_to_a_convolution_of_no_known_form_is_not_guessed(source):
    block, tokens = fill(NormedBlock(6, "dw")), draw(2, 28, 6)
    with pytest.raises(
        ValueError, match=r"'0.norm' is next to '0.dw', .*: give the layer as a module, .*prefix='0.dw'"
    ):
        find_pegs(source(block), "0")
    found = convert_peg(source(block), "0.dw")
    assert_close(found.peg.encoding(tokens, GRID), as_image(block.dw, tokens, GRID), **EXACT)


def test_only_the_next_of_a_sequence_belongs_to_a_convolution():
    parts = [conv(6, 3), nn.BatchNorm2d(6), nn.Linear(2, 2)]
    assert convert_peg(nn.ModuleDict({"x": nn.Sequential(*parts)}), "x").batch_norm
    with pytest.raises(ValueError, match=r"'x.1' is next to 'x.0'"):
        convert_peg(nn.ModuleDict({"x": nn.ModuleList(parts)}), "x")
    before = nn.ModuleDict({"x": nn.Sequential(parts[1], parts[0], parts[2])})
    assert not convert_peg(before, "x").batch_norm
    assert not convert_peg(before.state_dict(), "x").batch_norm


class SeveralArguments(nn.Module):
    """The `dwconv` of an MLP in a layer that no known call runs."""

    def __init__(self, convolution):
        super().__init__()
        self.dwconv = convolution

    def forward(self, tokens, *, sizes, lengths):
        raise AssertionError


class Standardised(nn.Conv2d):
    def forward(self, image):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(image, weight, self.bias, padding=self.padding, groups=self.groups)


OTHER_CONVOLUTIONS = {
    "one channel in": (
        nn.Conv2d(1, 64, 3, padding=1),
        "in_channels, out_channels and groups must be equal; got Conv2d",
    ),
    "two for each": (nn.Conv2d(32, 64, 3, padding=1, groups=32), "in_channels, out_channels and groups must be equal"),
    "no padding": (nn.Conv2d(6, 6, 3, groups=6), r"another stride or padding, .*; got Conv2d\(6, 6"),
    "little padding": (nn.Conv2d(6, 6, 5, padding=1, groups=6), "another stride or padding"),
    "transposed": (nn.ConvTranspose2d(6, 6, 3, padding=1, groups=6), "ConvTranspose2d gives neither its convolution"),
    "other weights": (Standardised(6, 6, 3, padding=1, groups=6), "Standardised gives neither its convolution"),
}


@pytest.mark.parametrize("kind", OTHER_CONVOLUTIONS)
def test_other_convolutions_in_a_module_are_refused(kind):
    layer, words = OTHER_CONVOLUTIONS[kind]
    head = nn.Linear(2, 2)
    places = {
        "": layer,
        "pos": nn.ModuleDict({"pos_embed": layer, "head": head}),
        "mlp": nn.ModuleDict({"mlp": SeveralArguments(layer), "head": head}),
        "blk": nn.ModuleDict({"blk": nn.ModuleDict({"dw": layer, "head": head})}),
    }
    for name, place in places.items():
        with pytest.raises(ValueError, match=words):
            find_pegs(place, name * (name == "blk"))


def test_a_layer_that_no_known_call_runs_is_converted_by_its_convolution():
    model, tokens = nn.ModuleDict({"mlp": SeveralArguments(conv(6, 3)), "head": nn.Linear(2, 2)}), draw(2, 28, 6)
    found = convert_peg(fill(model))
    assert (found.name, found.residual) == ("mlp.dwconv", False)
    assert_close(apply(found, tokens, GRID), as_image(model["mlp"].dwconv, tokens, GRID), **EXACT)


@pytest.mark.parametrize("as_module", [True, False])
def test_a_kernel_that_holds_the_input_is_split_by_its_form_alone(as_module):
    mixer, tokens = fill(nn.ModuleDict({"reparam_conv": conv(6, 3)})), draw(2, 28, 6)
    expected = as_image(mixer["reparam_conv"], tokens, GRID)
    for place, prefix, residual in (("token_mixer", "blk.token_mixer", None), ("pos_emb", "", True)):
        model = nn.ModuleDict({"blk": nn.ModuleDict({place: mixer, "head": nn.Linear(2, 2)})}).double()
        found = convert_peg(model if as_module else model.state_dict(), prefix)
        assert found.residual == residual
        assert_close((found.peg if residual else found.peg.encoding)(tokens, GRID), expected, **EXACT)


def test_a_convolution_of_zeros_is_refused_for_its_activation():
    layer = Yolo(6, 3, act=nn.SiLU())
    for each in layer.parameters():
        nn.init.zeros_(each)
    with pytest.raises(ValueError, match="an activation"):
        find_pegs(layer)


def test_a_prefix_names_a_convolution_of_no_known_form():
    model = fill(timm.create_model("convnext_atto", num_classes=0))
    with pytest.raises(
        ValueError, match=r"no known .*stages.0.blocks.0.conv_dw \(7x7 kernel, 40 ch.* and \d+ more.*--pre"
    ):
        find_pegs(model)
    name, tokens = "stages.0.blocks.1.conv_dw", draw(2, 28, 40)
    expected = as_image(model.get_submodule(name), tokens, GRID)
    assert convert_peg(model.state_dict(), name).residual is None
    for found in (convert_peg(model, name), convert_peg(model.state_dict(), "stages.0.blocks.1")):
        assert_close(found.peg.encoding(tokens, GRID), expected, **EXACT)


def test_the_source_is_left_alone():
    layer = Yolo(6, 3).train()
    before, random = {name: each.clone() for name, each in layer.state_dict().items()}, torch.get_rng_state()
    found = convert_peg(layer)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        found.peg.weight.zero_()
    plain = conv(6, 3).double()
    with torch.no_grad():
        convert_peg(plain).peg.weight.zero_()
    assert plain.weight.all()
    assert layer.training
    assert all(torch.equal(each, before[name]) for name, each in layer.state_dict().items())
    assert all(parameter.requires_grad for parameter in found.peg.parameters())


def test_weights_in_half_precision_are_folded_first_and_rounded_once():
    layer = fill(Yolo(6, 3), torch.float16)
    exact = convert_peg({f"pe.{name}": tensor.double() for name, tensor in layer.state_dict().items()})
    found = convert_peg({f"pe.{name}": tensor for name, tensor in layer.state_dict().items()})
    assert torch.equal(found.peg.weight, exact.peg.weight.half())
    assert torch.equal(found.peg.bias, exact.peg.bias.half())


class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = conv(6, 3)

    def forward(self, image):
        return image + 0.5 * self.proj(image)


NO_PEG = [
    (twins.PosConv(6, 6, stride=2), "stride and dilation must be 1"),
    (conv(6, 3, padding_mode="circular"), "padding_mode 'zeros'; got .*circular"),
    (nn.Conv2d(6, 6, 3, groups=6), "Conv2d gives neither its convolution nor that plus its input"),
    (davit.ConvPosEnc(6, act=True), "ConvPosEnc gives neither .*: an activation"),
    (Yolo(6, 3, act=nn.SiLU()), "an activation"),
    (Halved(), "a factor"),
    (nn.Sequential(davit.ConvPosEnc(6), davit.ConvPosEnc(6)), "layers one after the other"),
    (nn.Sequential(conv(6, 3), nn.Unflatten(1, (2, 3)), conv(2, 3, axes=3)), "expected one layer; got several"),
    (nn.ModuleDict({"cpe1": davit.ConvPosEnc(6, act=True), "head": nn.Linear(2, 2)}), "an activation"),
    (nn.Conv2d(6, 6, 3, padding=1), r"'weight' \(6, 6, 3, 3\) reads 6 channels for each of its outputs"),
    (nn.Conv2d(6, 6, 4, groups=6), r"no depth-wise convolution \(D, 1, k, ...\) with odd k"),
    (nn.Conv2d(6, 6, (3, 4), groups=6), r"no depth-wise convolution \(D, 1, k, ...\) with odd k"),
    ({"enc.enc0.block0.cpe.0.weight": torch.zeros(8, 3, 3, 3, 8)}, r"Point Transformer V3's xCPE .* mixes all"),
    (
        {"mlp.dwconv.weight": torch.zeros(6, 1, 3, 3), "mlp.dwconv.norm.weight": torch.zeros(6)},
        r"'mlp.dwconv' is called as in SegFormer, .* but is more than .*: mlp.dwconv.norm.weight",
    ),
    ({"a.weight": torch.zeros(2, 2)}, "no depth-wise convolution"),
    ({}, "there are no weights"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "words"), NO_PEG)
def test_what_no_peg_computes_is_refused_in_words(source, words):
    with pytest.raises(ValueError, match=words):
        find_pegs(source)


def test_wav2vec_2_is_refused_by_name():
    import transformers

    small = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, conv_dim=(8,))
    config = transformers.Wav2Vec2Config(**small, conv_kernel=(3,), conv_stride=(2,), num_feat_extract_layers=1)
    model = transformers.Wav2Vec2Model(config)
    for source in (model, model.state_dict()):
        with pytest.raises(
            ValueError, match=r"'encoder.pos_conv_embed.*' makes no PEG: wav2vec 2.0's .* mixes the channels"
        ):
            find_pegs(source)


def test_one_layer_is_one_layer():
    model = nn.ModuleDict({"cpe1": davit.ConvPosEnc(6), "cpe2": davit.ConvPosEnc(6), "head": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="expected one positional convolution; got cpe1, cpe2: name one with prefix="):
        convert_peg(model)
    assert convert_peg(model, "cpe2").name == "cpe2"
    model["cpe"] = davit.ConvPosEnc(6)
    assert convert_peg(model, "cpe").name == "cpe"
    model["strided"] = nn.ModuleDict({"dw": conv(6, 3, stride=2), "head": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="stride and dilation must be 1"):
        convert_peg(model, "strided")
    with pytest.raises(ValueError, match="there are no weights under 'cpe3'"):
        convert_peg(model, "cpe3")


def test_pegs_are_saved_and_loaded(tmp_path):
    path, sources = tmp_path / "peg.safetensors", [LAYERS[name][0] for name in list(LAYERS)[3:8]]
    found = [each._replace(name=f"layer.{n}") for n, source in enumerate(sources) for each in find_pegs(fill(source))]
    save_pegs(path, found)
    loaded = load_pegs(path)
    assert [each.record() for each in loaded] == [each.record() for each in found]
    for ours, theirs in zip(loaded, found, strict=True):
        assert repr(ours.peg) == repr(theirs.peg)
        assert all(torch.equal(each, theirs.peg.state_dict()[name]) for name, each in ours.peg.state_dict().items())
    assert load_pegs(str(path))[2].peg.dims == 2
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    records = json.dumps([found[0].record()])  # of a weight that is not there
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "cut.safetensors", {"cpvt_pegs": records})
    for other in ("other.safetensors", "other.pth", "cut.safetensors"):
        with pytest.raises(ValueError, match="was not written by `cpvt convert`"):
            load_pegs(tmp_path / other)


@pytest.mark.parametrize("name", ["module", "_orig_mod", "blocks._orig_mod", "module.module"])
def test_names_are_loaded_as_they_were_saved(name, tmp_path):
    """Wrappers for several processes and compilers are part of the names in a module."""
    model = nn.Module()
    model.add_module("head", nn.Linear(2, 2))
    place = model
    for each in name.split("."):
        place.add_module(each, nn.Module())
        place = getattr(place, each)
    place.pe = fill(Yolo(6, 3))
    found = find_pegs(model)
    save_pegs(tmp_path / "peg.safetensors", found)
    (loaded,) = load_pegs(tmp_path / "peg.safetensors")
    assert loaded.name == found[0].name == f"{name}.pe"
    assert torch.equal(loaded.peg.weight, found[0].peg.weight)


def test_pegs_of_one_name_are_not_saved_over_each_other(tmp_path):
    with pytest.raises(ValueError, match=r"expected a name for each PEG; got '', '': rename them with _replace"):
        save_pegs(tmp_path / "peg.safetensors", [convert_peg(conv(6, 3)), convert_peg(conv(6, 5))])


@pytest.fixture
def yolo_file(tmp_path):
    layer, path = fill(Yolo(6, 3)), tmp_path / "yolo.pt"
    state = {f"model.10.m.0.attn.pe.{name}": tensor for name, tensor in layer.state_dict().items()}
    torch.save({"model": {**state, "model.0.dw.weight": torch.randn(6, 1, 5, 5)}, "epoch": 3}, path)
    return layer, path


def test_the_command_lists_and_writes(yolo_file, tmp_path, capsys):
    layer, path = yolo_file
    out = tmp_path / "peg.safetensors"
    main(["convert", str(path), "--out", str(out)])
    line, _, last = capsys.readouterr().out.splitlines()
    assert re.match(
        r"model.10.m.0.attn.pe: 3x3 kernel, 6 channels, no residual, BatchNorm folded \(YOLO10, 11, 12\)", line
    )
    assert line.endswith(": peg.encoding(x, grid)")
    (found,) = load_pegs(out)
    assert json.loads(last) == {"file": str(path), "out": str(out), "pegs": [found.record()]}
    tokens = draw(2, 28, 6)
    assert_close(apply(found, tokens, GRID), as_image(layer, tokens, GRID), **EXACT)
    before = out.read_bytes()
    with pytest.raises(SystemExit):
        main(["convert", str(path), "--out", str(out), "--eps", "0.1"])
    assert re.match(r"cpvt: '.*peg.safetensors' exists; choose another --out", capsys.readouterr().err)
    assert out.read_bytes() == before


def test_the_command_takes_a_prefix_and_an_epsilon(yolo_file, capsys):
    path = str(yolo_file[1])
    main(["convert", path, "--prefix", "model.0", "--eps", "0.1"])
    line, last = capsys.readouterr().out.splitlines()
    assert line.startswith("model.0.dw: 5x5 kernel, 6 channels, residual unknown: peg(x, grid) if")
    assert json.loads(last)["out"] is None
    main(["convert", path, "--eps", "0.1"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pegs"][0]["batch_norm"]


@pytest.mark.parametrize("name", ["encoding.peg.1", "encoding.parts.1.peg.1", "blocks.0.peg"])
def test_weights_of_cpvt_itself_are_not_to_be_converted(name, tmp_path):
    state = {f"{name}.weight": torch.zeros(8, 1, 3, 3), "blocks.0.norm1.weight": torch.zeros(8)}
    safetensors.torch.save_file(state, tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="PEGs of cpvt itself: load a run by cpvt.load"):
        find_pegs(tmp_path / "own.safetensors")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["OTHER"], r"no known positional convolution; depth-wise convolutions: dw \(5x5 kernel, 6 channels\)"),
        (["FILE", "--out", "peg.pt"], "PEGs are written as .safetensors; got --out peg.pt"),
        (["FILE", "--eps", "0"], "eps must be above 0; got 0"),
        (["FILE", "--prefix", "nowhere"], "there are no weights under 'nowhere'"),
        (["nowhere.pt"], "the weights 'nowhere.pt' are missing"),
        (["MODULE"], "holds more than tensors, or is broken, and is not opened"),
    ],
)
def test_mistakes_of_the_command_are_one_message(options, words, yolo_file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"dw.weight": torch.randn(6, 1, 5, 5), "head.weight": torch.zeros(2, 2)}, "other.pt")
    torch.save({"model": conv(4, 3)}, "module.pt")  # a whole pickled module, as YOLO's own files
    files = {"FILE": str(yolo_file[1]), "OTHER": "other.pt", "MODULE": "module.pt"}
    with pytest.raises(SystemExit):
        main(["convert", *(files.get(each, each) for each in options)])
    said = capsys.readouterr()
    assert re.match(f"cpvt: .*{words}", said.err, re.DOTALL)
    assert said.out == ""
    assert not (tmp_path / "peg.pt").exists()


UNREADABLE = [  # name, content (None: a folder), what is said
    ("text.pt", b"hello world\n", r"holds more than tensors, or is broken, .*\(KeyError: 101\); expected a state_dict"),
    ("text.safetensors", b"hello world\n", r"is not a whole safetensors file \(SafetensorError: .*fetch or save"),
    ("adir.pt", None, "expected a file of weights; got the folder 'adir.pt': name the file in it"),
    ("bdir.safetensors", None, "expected a file of weights; got the folder 'bdir.safetensors'"),
    ("text.pt/inside.pt", b"", r"NotADirectoryError: .*text.pt"),
]


@pytest.mark.parametrize(("name", "content", "words"), UNREADABLE)
def test_what_is_no_file_of_weights_is_refused_in_words(name, content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is None:
        Path(name).mkdir()
    else:
        Path("text.pt").write_bytes(content)
        if "/" not in name:
            Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        find_pegs(name)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "old.pt"])
def test_damaged_files_are_read_or_refused_and_never_crash(kind, tmp_path):
    """Cut off anywhere, and with one bit changed in the header or the pickled structure."""
    path, state = tmp_path / f"weights.{kind}", {"pe.conv.weight": torch.randn(6, 1, 3, 3)}
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=kind == "pt")
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for cut in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_weights(path)
    refused = 0
    for place in torch.randint(min(400, len(whole)), (200,), generator=generator).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            read_weights(path)
        except ValueError as error:
            refused += str(path) in str(error)
    assert refused > 20


def test_a_converted_peg_is_a_peg():
    """It takes what any PEG takes: a scale, packs, prefix tokens."""
    found = convert_peg(fill(Ppeg(6)))
    assert isinstance(found.peg, cpvt.PEG)
    tokens = draw(1, 1 + 28 + 1 + 15, 6)
    packed = found.peg.forward_packed(tokens, [GRID, (3, 5)], 1)
    assert_close(packed[:, :29], found.peg(tokens[:, :29], GRID, 1), **EXACT)
