"""What timm changes and prunes in a model: heads, sizes, intermediates, parameter groups, fresh weights."""

from dataclasses import asdict

import pytest
import timm
import torch
from timm.models import create_feature_extractor, get_graph_node_names, group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay

import cpvt
from cpvt.encodings import TABLE
from cpvt.models import VisionTransformer

NAMES = [*TABLE, "learned+peg", "relative+rope"]


def build(encoding="peg5", loud=True, **options):
    """A small model, positions and head with weights large enough to matter, in eval mode."""
    torch.manual_seed(0)
    model = cpvt.create_model("cpvt_micro", **{"depth": 4, "num_classes": 5, "encoding": encoding, **options})
    for parameter in (*model.encoding.parameters(), *model.head.parameters()) if loud else ():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def rebuilt(model):
    """A model built from the configuration of another, with its weights: what a checkpoint does."""
    copy = VisionTransformer(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.eval()


@pytest.mark.parametrize("pool", ["token", "avg", ""])
def test_a_reset_head_answers_for_its_classes_and_the_configuration_says_so(pool):
    model, images = build(global_pool=pool), torch.randn(2, 3, 21, 33)
    features = model.forward_features(images)
    model.reset_classifier(7)
    assert model.get_classifier() is model.head
    assert (model.num_classes, model.config.num_classes, model.global_pool) == (7, 7, pool)
    assert model(images).shape == (*features.shape[:1], *features.shape[1:2] * (pool == ""), 7)
    assert 0.01 < model.head.weight.std() < 0.3  # neither zero nor torch's own start, which is wider
    assert model.head.bias.eq(0).all()
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), model.forward_head(features, pre_logits=True))
    assert torch.equal(rebuilt(model)(images), model(images))
    model.reset_classifier(0, "")
    assert torch.equal(model(images), features)


def test_another_pooling_keeps_the_class_token_that_the_blocks_know():
    model, images = build(), torch.randn(2, 3, 21, 33)
    features = model.forward_features(images)
    model.reset_classifier(5, "avg")
    assert model.num_prefix_tokens == 1
    assert torch.equal(model.forward_features(images), features)
    torch.testing.assert_close(model(images), model.head(features[:, 1:].mean(dim=1)))
    assert torch.equal(rebuilt(model)(images), model(images))
    model.reset_classifier(5, "token")
    torch.testing.assert_close(model(images), model.head(features[:, 0]))
    with pytest.raises(ValueError, match="reads the class token"):
        build(global_pool="avg").reset_classifier(5, "token")
    with pytest.raises(ValueError, match="got 'max'"):
        model.reset_classifier(5, "max")
    assert model.global_pool == "token"


def test_a_reset_head_stays_where_the_model_is():
    model = cpvt.create_model("cpvt_micro", dtype=torch.bfloat16, device="meta")
    model.reset_classifier(3)
    assert (model.head.weight.dtype, model.head.weight.device.type) == (torch.bfloat16, "meta")


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("encoding", NAMES)
def test_intermediates_are_what_the_next_block_receives(encoding, pool):
    model, images = build(encoding, global_pool=pool), torch.randn(2, 3, 21, 33)
    received = []
    for block in model.blocks[1:]:
        block.register_forward_pre_hook(lambda module, inputs: received.append(inputs[0]))
    before_norm = []
    model.norm.register_forward_pre_hook(lambda module, inputs: before_norm.append(inputs[0]))
    features, intermediates = model.forward_intermediates(images, output_fmt="NLC")
    expected = [x[:, model.num_prefix_tokens :] for x in (*received, *before_norm)]
    assert len(intermediates) == len(expected) == 4
    for got, wanted in zip(intermediates, expected):
        assert torch.equal(got, wanted)
    assert torch.equal(features, model.forward_features(images))


def test_intermediates_in_every_form():
    model, images = build(), torch.randn(2, 3, 21, 33)
    plain = model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    normed = model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True, norm=True)
    assert torch.equal(normed[-1], model.forward_features(images)[:, 1:])
    maps = model.forward_intermediates(images, indices=[-1, 1], intermediates_only=True)
    assert [each.shape for each in maps] == [(2, 64, 6, 9)] * 2
    for each, block in zip(maps, (1, 3)):
        assert torch.equal(each.flatten(2).transpose(1, 2), plain[block])
    pairs = model.forward_intermediates(images, 2, return_prefix_tokens=True, intermediates_only=True)
    assert [(each.shape, prefix.shape) for each, prefix in pairs] == [((2, 64, 6, 9), (2, 1, 64))] * 2
    found = model.forward_intermediates(images, 2, return_prefix_tokens=True, output_dict=True)
    assert set(found) == {"image_features", "image_intermediates", "image_intermediates_prefix"}
    assert torch.equal(found["image_intermediates_prefix"][1], pairs[1][1])
    assert torch.equal(found["image_features"], model.forward_features(images))
    ran = []
    model.blocks[2].register_forward_hook(lambda *call: ran.append(call))
    features, (early,) = model.forward_intermediates(images, [1], stop_early=True, output_fmt="NLC")
    assert not ran
    assert torch.equal(early, plain[1])
    torch.testing.assert_close(features[:, 1:], normed[1])
    older = model.get_intermediate_layers(images, [0, 3], reshape=True, norm=True, return_prefix_tokens=True)
    assert [(each.shape, prefix.shape) for each, prefix in older] == [((2, 64, 6, 9), (2, 1, 64))] * 2
    assert torch.equal(model.get_intermediate_layers(images, 2)[0], plain[2])
    gap = build(global_pool="avg").forward_intermediates(images, 1, return_prefix_tokens=True)[1]
    assert isinstance(gap[0], torch.Tensor)  # no prefix, no pairs, as in timm


@pytest.mark.parametrize("indices", [0, 5, -1, [4], [-5], []])
def test_blocks_that_do_not_exist(indices):
    with pytest.raises(ValueError, match="from 1 to 4, or blocks from -4 to 3; got"):
        build().forward_intermediates(torch.randn(1, 3, 8, 8), indices)


def test_intermediates_of_what_has_none():
    with pytest.raises(ValueError, match="not a list"):
        build().forward_intermediates([torch.randn(3, 8, 8)])
    with pytest.raises(ValueError, match="'NCHW' or 'NLC'; got 'NHWC'"):
        build().forward_intermediates(torch.randn(1, 3, 8, 8), output_fmt="NHWC")


@pytest.mark.parametrize(
    "encoding", [*NAMES, "relative(shared=True)", "sincos+peg(at=(0, 2, 4), kernel_size=5)", "learned+peg(at=(3,))"]
)
def test_a_pruned_model_gives_the_same_intermediates_with_less(encoding):
    model, images = build(encoding), torch.randn(2, 3, 21, 33)
    expected = model.forward_intermediates(images, [0, 1], intermediates_only=True)
    later = [name for name, depth in model.encoding.layers().items() if depth > 2]
    assert model.prune_intermediate_layers([0, 1]) == [0, 1]
    pruned = model.forward_intermediates(images, [0, 1], intermediates_only=True)
    assert all(torch.equal(got, wanted) for got, wanted in zip(pruned, expected))
    assert len(model.blocks) == len(model.feature_info) == model.config.depth == 2
    assert not [
        name for name in model.state_dict() if any(f"{name}.".startswith(f"encoding.{late}.") for late in later)
    ]
    assert model.num_classes == 0
    assert torch.equal(model(images), rebuilt(model)(images))


def test_pruning_keeps_the_head_where_asked_and_drops_the_norm_where_asked():
    model = build()
    assert model.prune_intermediate_layers(1, prune_head=False) == [3]
    assert model.num_classes == 5
    assert isinstance(model.norm, torch.nn.LayerNorm)
    model.prune_intermediate_layers(1, prune_norm=True)
    assert isinstance(model.norm, torch.nn.Identity)


@pytest.mark.parametrize("encoding", [*NAMES, "sincos(coordinates='raw')+peg"])
def test_another_training_size_changes_no_answer_there(encoding):
    model, images = build(encoding), torch.randn(2, 3, 45, 70)
    expected, answers = model(images), model(torch.randn(2, 3, 32, 32))
    model.set_input_size((45, 70))
    assert (model.config.img_size, model.grid, model.patch_embed.img_size) == ((45, 70), (12, 18), (45, 70))
    torch.testing.assert_close(model(images), expected)
    assert torch.equal(rebuilt(model)(images), model(images))
    assert answers.std() > 0.1
    model.set_input_size(60)
    assert model.config.img_size == 60
    off = 0.3 if encoding == "factorized" else 0.2  # a table resized twice is a little off, linearly more
    torch.testing.assert_close(model(images), expected, atol=off, rtol=0)


def test_a_table_is_trained_on_at_its_new_size():
    model = build("learned")
    model.encoding.table.requires_grad_(False)
    model.set_input_size((48, 20))
    assert model.encoding.table.shape == (1, 12 * 5, 64)
    assert isinstance(model.encoding.table, torch.nn.Parameter)
    assert not model.encoding.table.requires_grad


def test_another_patch_resamples_the_patch_embedding():
    model = build("learned")
    expected = model.patch_embed(torch.full((1, 3, 32, 32), 0.5))[0, 0, 0]
    model.set_input_size(64, patch_size=8)
    assert (model.config.patch_size, model.patch_embed.proj.weight.shape[2:]) == (8, (8, 8))
    torch.testing.assert_close(model.patch_embed(torch.full((1, 3, 64, 64), 0.5))[0, 0, 0], expected, atol=1e-4, rtol=0)
    assert model.feature_info[0]["reduction"] == 8
    assert model(torch.randn(1, 3, 33, 70)).shape == (1, 5)
    assert torch.equal(rebuilt(model)(images := torch.randn(1, 3, 33, 70)), model(images))
    with pytest.raises(ValueError, match=r"patches are square here; got \(8, 4\)"):
        model.set_input_size(patch_size=(8, 4))
    with pytest.raises(ValueError, match="grid must be rows and columns"):
        build("rope(grid=4)")


@pytest.mark.parametrize("encoding", NAMES)
def test_checkpointed_blocks_give_the_same_answers_and_gradients(encoding):
    model, images = build(encoding), [torch.randn(3, 21, 33), torch.randn(3, 16, 40), torch.randn(3, 21, 33)]
    for inputs in (torch.stack(images[::2]), images):
        gradients, answers, calls = [], [], []
        hook = model.blocks[0].register_forward_pre_hook(lambda *call, calls=calls: calls.append(call))
        for enable in (False, True):
            model.set_grad_checkpointing(enable)
            answers.append(model(inputs))
            answers[-1].sum().backward()
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
            model.zero_grad()
        hook.remove()
        assert len(calls) == 3  # once, and then twice
        torch.testing.assert_close(answers[0], answers[1])
        torch.testing.assert_close(gradients[0], gradients[1])
    features, intermediates = model.forward_intermediates(torch.stack(images[::2]))
    model.set_grad_checkpointing(False)
    torch.testing.assert_close(model.forward_intermediates(torch.stack(images[::2])), (features, intermediates))


def expected_layer(name, encoding, depth):
    """The layer of a parameter, as a reader would say it."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return int(parts[1]) + 1
    own = encoding
    if parts[1:2] == ["parts"]:
        own = encoding.parts[int(parts[2])]
    for lists in own.per_block:
        if lists in parts[:-1]:
            return int(parts[parts.index(lists) + 1]) + 1
    if "peg" in parts:
        return int(parts[parts.index("peg") + 1])
    return {"norm": depth, "head": depth + 1}.get(parts[0], 0)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(
    "encoding", [*NAMES, "peg(at=(0, 1, 4))", "learned+relative+peg(at=(0, 2), kernel_size=(5, 3))"]
)
def test_every_parameter_is_in_its_layer(encoding, coarse):
    model = build(encoding)
    layers = group_parameters(model, model.group_matcher(coarse), reverse=True)
    assert layers == {name: expected_layer(name, model.encoding, 4) for name, _ in model.named_parameters()}


def test_a_table_that_serves_all_blocks_is_in_the_stem():
    model = build("peg+relative(shared=True)")
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert (layers["encoding.parts.1.tables.0"], layers["encoding.parts.0.peg.1.weight"]) == (0, 1)


@pytest.mark.parametrize("encoding", ["peg(at=(1, 11, 12))", "relative"])
def test_layers_beyond_nine_are_told_apart(encoding):
    model = cpvt.create_model("cpvt_tiny", encoding=encoding, device="meta")
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert layers == {name: expected_layer(name, model.encoding, 12) for name, _ in model.named_parameters()}


def test_layer_decay_and_weight_decay_as_timm_makes_them():
    model = build("learned+relative+peg(at=(0, 1, 3))")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay()
    )
    seen = {}
    for group in groups:
        seen |= {names[id(parameter)]: (group["lr_scale"], group["weight_decay"]) for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        spared = parameter.ndim == 1 or name == "cls_token" or name.startswith("encoding.")
        assert seen[name] == (0.5 ** (5 - expected_layer(name, model.encoding, 4)), 0.0 if spared else 0.05), name
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("encoding", NAMES)
def test_fresh_weights_are_those_of_a_model_built_under_the_seed(encoding, pool):
    first = build(encoding, loud=False, global_pool=pool)
    second = cpvt.create_model("cpvt_micro", device="meta", **asdict(first.config)).to_empty(device="cpu")
    for parameter in second.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    torch.manual_seed(0)
    second.init_weights()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_the_manner_of_a_fresh_start_is_noted():
    model = build()
    model.init_weights("deit")
    assert model.config.weight_init == "deit"
    assert model.blocks[0].mlp.fc1.weight.std() < 0.03
    with pytest.raises(ValueError, match="'deit' or 'xavier'; got 'jax'"):
        model.init_weights("jax")
    model.patch_embed.proj.weight.data.fill_(7)
    model.init_weights(needs_reset=False)
    assert model.patch_embed.proj.weight.eq(7).all()


def test_dropout_before_the_head_acts_in_training_only():
    model, images = build(drop_rate=0.5), torch.randn(4, 3, 16, 16)
    assert torch.equal(model(images), model(images))
    model.train()
    assert not torch.equal(model(images), model(images))


def test_features_only_takes_what_the_blocks_hand_on():
    torch.manual_seed(0)
    features = timm.create_model("cpvt_micro_peg5", features_only=True, out_indices=(0, 2)).eval()
    torch.manual_seed(0)
    whole = timm.create_model("cpvt_micro_peg5").eval()
    images = torch.randn(2, 3, 21, 33)
    expected = whole.forward_intermediates(images, [0, 2], intermediates_only=True)
    for got, wanted in zip(features(images), expected, strict=True):
        assert torch.equal(got, wanted)
    assert features.feature_info.channels() == [64, 64]
    assert features.feature_info.reduction() == [4, 4]
    assert len(timm.create_model("cpvt_micro_gap", features_only=True, depth=2)(images)) == 2


RULES = ["paper", "pixels", "fit*0.9", 2.0, (1.0, 1.5)]


@pytest.mark.parametrize("rule", RULES)
def test_features_are_those_at_the_models_scale(rule):
    model, images = build("rope+peg(at=(1, 3))"), torch.randn(2, 3, 45, 70)
    received = []
    for part in (*model.blocks[1:], model.norm):
        part.register_forward_pre_hook(lambda module, inputs: received.append(inputs[0][:, 1:]))
    expected = model(images, scale=rule)
    blocks, other = received[:], model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    model.scale = rule
    assert (model.scale, model.config.scale) == (rule, rule)
    assert torch.equal(model(images), expected)
    for got, wanted in zip(model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True), blocks):
        assert torch.equal(got, wanted)
    assert all((each - wanted).abs().max() > 0.01 for each, wanted in zip(other, blocks))
    torch.manual_seed(0)
    whole = timm.create_model("cpvt_micro_peg5").eval()
    features = timm.create_model("cpvt_micro_peg5", features_only=True, out_indices=(0, 2), scale=rule).eval()
    features.load_state_dict({f"model.{name}": each for name, each in whole.state_dict().items()}, strict=False)
    whole.scale = rule
    for got, wanted in zip(features(images), whole.forward_intermediates(images, [0, 2], intermediates_only=True)):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("rule", RULES)
def test_a_feature_extractor_keeps_the_rule_and_takes_no_other(rule):
    model, images = build("rope+peg"), torch.randn(2, 3, 45, 70)
    model.scale = rule
    expected, answer = model(images), get_graph_node_names(model)[1][-1]
    traced = create_feature_extractor(model, [answer])
    for each in (images, torch.randn(1, 3, 33, 80)):
        torch.testing.assert_close(traced(each)[answer], model(each))
    model.scale = "fit"
    torch.testing.assert_close(traced(images)[answer], expected)
    assert (model(images) - expected).abs().max() > 0.01
    with pytest.raises(ValueError, match=r"keeps the rule that it was traced with \(model.scale\); got scale=2.0"):
        traced(images, 2.0)


@pytest.mark.parametrize("rule", RULES)
def test_a_saved_model_keeps_its_rule_temperature_and_grid(rule, tmp_path):
    model, images = build(attn_temperature=rule == "paper", img_size=24), torch.randn(2, 3, 45, 70)
    model.scale = rule
    model.set_input_size((40, 48))
    assert (model.scale_grid, model.grid) == ((6, 6), (10, 12))
    timm.models._hub.save_for_hf(model, tmp_path, safe_serialization=True)
    back = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert back.config == model.config
    assert torch.equal(back(images), model(images))
    assert (rule, back.config.attn_temperature, back.scale_grid) == (back.scale, rule == "paper", (6, 6))


@pytest.mark.parametrize("change", [{"img_size": 2}, {"patch_size": 64}])
def test_a_size_below_a_patch_is_refused_and_changes_nothing(change):
    model = cpvt.create_model("cpvt_micro", num_classes=3, img_size=32)
    before = model.config
    with pytest.raises(ValueError, match="img_size must be a patch or more"):
        model.set_input_size(**change)
    assert model.config == before
    assert model.patch_embed.patch_size == (4, 4)


def test_a_model_without_its_last_norm_is_not_saved(tmp_path):
    model = cpvt.create_model("cpvt_micro", num_classes=3, img_size=32)
    model.prune_intermediate_layers(1, prune_norm=True)
    with pytest.raises(ValueError, match="prune_norm=True"):
        model.save_pretrained(tmp_path)
