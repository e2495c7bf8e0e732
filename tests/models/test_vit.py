"""The vision transformer: sizes, heads, padding, names, and agreement with timm's."""

import pytest
import timm
import torch

import cpvt
from cpvt.config import ModelConfig
from cpvt.encodings import TABLE
from cpvt.models import VisionTransformer

SMALL = dict(embed_dim=16, depth=3, num_heads=2, patch_size=4, img_size=16, num_classes=7)
HEADS = [("token", 1), ("avg", 0)]


def build(**options):
    torch.manual_seed(0)
    return VisionTransformer(ModelConfig(**{**SMALL, **options})).eval()


@pytest.mark.parametrize(("pool", "prefix"), HEADS)
@pytest.mark.parametrize("encoding", [*TABLE, "learned+peg"])
@pytest.mark.parametrize("size", [(16, 16), (8, 24), (13, 30), (4, 4), (4, 40)])
def test_any_size_gives_logits(encoding, pool, prefix, size):
    model = build(encoding=encoding, global_pool=pool)
    images = torch.randn(2, 3, *size)
    assert model(images).shape == (2, 7)
    grid = [-(-side // 4) for side in size]
    assert model.forward_features(images).shape == (2, prefix + grid[0] * grid[1], 16)


@pytest.mark.parametrize("encoding", TABLE)
def test_sides_the_patch_does_not_divide_are_padded_right_and_bottom(encoding):
    model = build(encoding=encoding)
    image = torch.randn(1, 3, 13, 18)
    padded = torch.zeros(1, 3, 16, 20)
    padded[:, :, :13, :18] = image
    torch.testing.assert_close(model(image), model(padded))


def test_the_training_grid_of_an_uneven_size_is_the_padded_one():
    model = build(encoding="learned", img_size=(13, 18))
    assert model.encoding.table.shape == (1, 4 * 5, 16)


@pytest.mark.parametrize("block_encoding", ["peg", "rope", "relative", "learned"])
def test_bfloat16_images_give_bfloat16_logits(block_encoding):
    model = build(encoding=block_encoding).to(torch.bfloat16)
    assert model(torch.randn(1, 3, 12, 20, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_autocast_works_for_every_encoding():
    for encoding in TABLE:
        model = build(encoding=encoding).train()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.randn(2, 3, 12, 20)).float().square().sum()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters()), encoding


def test_names_are_timms_except_under_encoding():
    ours = cpvt.create_model("deit_tiny").state_dict()
    theirs = timm.create_model("deit_tiny_patch16_224").state_dict()
    expected = {name: tensor.shape for name, tensor in theirs.items() if name != "pos_embed"}
    expected["encoding.table"] = torch.Size([1, 196, 192])
    assert {name: tensor.shape for name, tensor in ours.items()} == expected


@pytest.mark.parametrize(("pool", "prefix"), HEADS)
def test_with_timms_weights_and_no_positions_the_logits_are_timms(pool, prefix):
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=16, depth=3, num_heads=2, num_classes=7, pos_embed="none",
        class_token=pool == "token", global_pool=pool, fc_norm=False,
    ).eval()  # fmt: skip
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = build(encoding="none", global_pool=pool)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-4)


def test_the_head_reads_the_norm_then_the_mean():
    model = build(global_pool="avg")
    images = torch.randn(2, 3, 16, 16)
    features = model.forward_features(images)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.mean(1))
    torch.testing.assert_close(model(images), model.head(features.mean(1)))
    assert not any("cls_token" in name for name in model.state_dict())


def test_no_pool_gives_logits_of_every_token():
    assert build(global_pool="")(torch.randn(1, 3, 8, 12)).shape == (1, 6, 7)
    assert build(global_pool="", class_token=True)(torch.randn(1, 3, 8, 12)).shape == (1, 7, 7)
    assert build(num_classes=0)(torch.randn(1, 3, 8, 12)).shape == (1, 16)


@pytest.mark.parametrize("encoding", ["none", "relative", "rope", "peg", "learned", "rope_mixed", "lookhere"])
@pytest.mark.parametrize(("pool", "prefix"), HEADS)
def test_the_attention_map_is_what_the_block_computes(encoding, pool, prefix):
    model = build(encoding=encoding, global_pool=pool)
    images = torch.randn(2, 3, 8, 20)
    x, layout, positions = model.embed(images)
    first, positions = (positions.at_block(model.encoding, layout, depth, x) for depth in (1, 2))
    x = model.encoding(model.blocks[0](x, first), layout, 1)
    attention = model.blocks[1].attn
    weights = attention.weights(model.blocks[1].norm1(x), positions)
    _, _, value, _ = attention._heads(model.blocks[1].norm1(x), positions)
    by_hand = attention.proj((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(by_hand, attention(model.blocks[1].norm1(x), positions), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.attention_map(images, 2), weights[:, :, prefix:, prefix:])
    with pytest.raises(ValueError, match="from 1 to 3; got 4"):
        model.attention_map(images, 4)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_each_block_has_a_bias_of_its_own(pool):
    images = torch.randn(2, 3, 8, 20)

    def look(model):
        maps = [model.attention_map(images, block) for block in (1, 2, 3)]
        return model.forward_intermediates(images, intermediates_only=True), maps

    before = look(build(encoding="relative", global_pool=pool))
    for changed in (1, 2, 3):
        model = build(encoding="relative", global_pool=pool)
        with torch.no_grad():
            model.encoding.tables[changed - 1].normal_()
        for seen, known in zip(look(model), before):
            assert [not torch.equal(x, y) for x, y in zip(seen, known)] == [block >= changed for block in (1, 2, 3)]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_shared_table_is_a_table_in_each_block_that_learns_from_all(checkpointing):
    shared, alone = (build(encoding=f"relative(shared={each})", global_pool="avg") for each in (True, False))
    state = shared.state_dict()
    table = state.pop("encoding.tables.0")
    alone.load_state_dict({**state, **{f"encoding.tables.{number}": table for number in range(3)}})
    images = [torch.randn(3, 8, 20), torch.randn(3, 13, 6), torch.randn(3, 8, 20)]
    for asked in (torch.stack(images[::2]), images):
        for model in (shared, alone):
            model.set_grad_checkpointing(checkpointing)
            model.zero_grad()
            model(asked).square().sum().backward()
        assert torch.equal(shared(asked), alone(asked))
        by_block = [each.grad for each in alone.encoding.tables]
        assert not torch.allclose(by_block[0], by_block[1])
        torch.testing.assert_close(shared.encoding.tables[0].grad, sum(by_block), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_last_bias_takes_part_where_nothing_reads_it(checkpointing):
    # the class token gets no bias, and after the last block it alone is read; processes that share a model wait for all
    for pool, read in (("token", False), ("avg", True)):
        model = build(encoding="relative", global_pool=pool)
        model.set_grad_checkpointing(checkpointing)
        model(torch.randn(2, 3, 8, 20)).square().sum().backward()
        assert [bool(table.grad.any()) for table in model.encoding.tables] == [True, True, read]


def test_drop_path_grows_with_depth_and_acts_in_training_only():
    model = build(drop_path_rate=0.5, depth=5)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))


def test_weight_decay_leaves_positions_and_the_class_token_alone():
    model = build(encoding="learned+peg")
    assert model.no_weight_decay() == {
        "cls_token", "encoding.parts.0.table", "encoding.parts.1.peg.1.weight", "encoding.parts.1.peg.1.bias",
    }  # fmt: skip


def test_the_same_seed_starts_every_encoding_from_the_same_trunk():
    first, second = build(encoding="none"), build(encoding="learned+peg5")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 3}, "embed_dim must be a multiple of num_heads; got 16 and 3"),
        ({"global_pool": "max"}, "'token' .*, 'avg' .* or ''; got 'max'"),
        ({"class_token": False}, "reads the class token"),
        ({"weight_init": "he"}, "'deit' or 'xavier'; got 'he'"),
        ({"encoding": "rope", "embed_dim": 12}, "head width that is a multiple of 4; got 6"),
    ],
)
def test_models_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        build(**options)


def test_images_of_the_wrong_shape():
    for shape in ((1, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(
            ValueError, match=r"needs images of shape \(B, 3, H, W\), or a list of images; got"
        ) as error:
            build()(torch.zeros(shape))
        assert str(shape) in str(error.value)
