"""Distilled models: a second head, a token of its own beside the class token, and all that timm asks of both."""

from dataclasses import asdict

import pytest
import timm
import torch
from timm.models import create_feature_extractor, get_graph_node_names, group_parameters, save_for_hf
from torch.testing import assert_close

import cpvt
from cpvt.config import ModelConfig
from cpvt.encodings import TABLE
from cpvt.models import VisionTransformer

SMALL = dict(embed_dim=16, depth=3, num_heads=2, patch_size=4, img_size=16, num_classes=5, distilled=True)
POOLS = [("token", 2), ("avg", 0)]
both_pools = pytest.mark.parametrize(("pool", "prefix"), POOLS)
every_encoding = pytest.mark.parametrize("encoding", [*TABLE, "learned+peg", "relative+rope"])


def build(**options):
    """A small distilled model in eval mode, with weights large enough for every mistake to show."""
    torch.manual_seed(0)
    model = VisionTransformer(ModelConfig(**{**SMALL, **options})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def images_of_a_list():
    return [torch.randn(3, *sides) for sides in ((8, 20), (13, 6), (8, 20), (17, 17))]


@both_pools
def test_the_answer_is_the_mean_of_two_heads(pool, prefix):
    model, images = build(global_pool=pool), torch.randn(2, 3, 8, 20)
    features = model.forward_features(images)
    assert features.shape == (2, prefix + 2 * 5, 16)
    own, taught = (features[:, 0], features[:, 1]) if prefix else (features.mean(dim=1),) * 2
    answers = (model.head(own), model.head_dist(taught))
    assert (answers[0] - answers[1]).abs().max() > 0.1
    assert_close(model(images), sum(answers) / 2)
    assert_close(model.forward_head(features, pre_logits=True), (own + taught) / 2)


@both_pools
def test_both_answers_are_given_in_training_where_asked_and_nowhere_else(pool, prefix):
    model, images = build(global_pool=pool), torch.randn(2, 3, 8, 20)
    mean = model(images)
    assert_close(model.train()(images), mean)
    model.set_distilled_training(True)
    for asked in (images, list(images), images_of_a_list()):
        own, taught = model(asked)
        assert_close((own + taught) / 2, model.eval()(asked))
        assert (own - taught).abs().max() > 0.1
        model.train()
    assert model.forward_head(model.forward_features(images), pre_logits=True).shape == (2, 16)
    model.set_distilled_training(False)
    assert_close(model(images), mean)


@both_pools
@every_encoding
def test_a_image_of_a_list_is_answered_as_if_alone(encoding, pool, prefix):
    model, images = build(encoding=encoding, global_pool=pool), images_of_a_list()
    assert_close(model(images), torch.cat([model(each[None]) for each in images]), atol=1e-5, rtol=1e-4)
    model.train().set_distilled_training()
    own, taught = model(images)
    (own.sum() - taught.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_distillation_token_passes_by_a_peg_as_the_class_token_does():
    model = build(encoding="peg(at=(0, 1))")
    images = images_of_a_list()
    lists = model._embed_list(images, ["fit"] * len(images))
    for x, layout, _ in (model.embed(torch.randn(2, 3, 8, 20)), lists):
        after = model.encoding(x, layout, 1)
        stretches = zip(layout.split(x), layout.split(after)) if layout.packed else [(x, after)]
        for before, behind in stretches:
            assert torch.equal(before[:, :1], model.cls_token.expand(len(before), 1, -1))
            assert torch.equal(before[:, 1:2], model.dist_token.expand(len(before), 1, -1))
            assert torch.equal(behind[:, :2], before[:, :2])
            assert (behind[:, 2:] - before[:, 2:]).abs().amin(dim=2).gt(0).any(dim=1).all()


def test_maps_leave_both_tokens_out():
    model, images = build(), torch.randn(2, 3, 8, 20)
    assert model.attention_map(images, 2).shape == (2, 2, 10, 10)
    (found, prefix), *_ = model.forward_intermediates(images, [1], return_prefix_tokens=True, intermediates_only=True)
    assert (found.shape, prefix.shape) == ((2, 16, 2, 5), (2, 2, 16))


@both_pools
def test_a_reset_puts_on_two_fresh_heads(pool, prefix):
    model, images = build(global_pool=pool), torch.randn(2, 3, 8, 20)
    read = model.forward_head(model.forward_features(images), pre_logits=True)
    model.reset_classifier(7)
    assert model.get_classifier() == (model.head, model.head_dist)
    assert not torch.equal(model.head.weight, model.head_dist.weight)
    assert all(head.weight.std() < 0.03 and head.bias.eq(0).all() for head in model.get_classifier())
    assert model(images).shape == (2, 7)
    with pytest.raises(ValueError, match="must be 'token' or 'avg'; got ''"):
        model.reset_classifier(7, "")
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), read)
    model.reset_classifier(0, "")
    assert torch.equal(model(images), model.forward_features(images))


def test_another_pooling_keeps_both_tokens_that_the_blocks_know():
    model, images = build(), torch.randn(2, 3, 8, 20)
    features = model.forward_features(images)
    model.reset_classifier(5, "avg")
    assert torch.equal(model.forward_features(images), features)
    read = features[:, 2:].mean(dim=1)
    assert_close(model(images), (model.head(read) + model.head_dist(read)) / 2)
    copy = VisionTransformer(model.config).eval()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy(images), model(images))


def test_parameters_are_sorted_as_those_beside_them():
    model = build(encoding="learned+peg")
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert layers["dist_token"] == layers["cls_token"] == 0
    assert layers["head_dist.weight"] == layers["head_dist.bias"] == layers["head.weight"] == 4
    assert model.no_weight_decay() - build(encoding="learned+peg", distilled=False).no_weight_decay() == {"dist_token"}


@both_pools
def test_fresh_weights_are_those_of_a_model_built_under_the_seed(pool, prefix):
    config = ModelConfig(**{**SMALL, "global_pool": pool})
    torch.manual_seed(0)
    first = VisionTransformer(config).state_dict()
    second = VisionTransformer(config, "meta").to_empty(device="cpu")
    for parameter in second.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    torch.manual_seed(0)
    second.init_weights()
    for name, tensor in second.state_dict().items():
        assert torch.equal(tensor, first[name]), name
    assert ("dist_token" in first) == bool(prefix)
    assert "head_dist.weight" in first


def test_what_has_no_second_head_refuses_to_train_it():
    with pytest.raises(ValueError, match="build it with distilled=True"):
        build(distilled=False).set_distilled_training()
    build(distilled=False).set_distilled_training(False)
    with pytest.raises(ValueError, match="read one vector an image, so global_pool must be 'token' or 'avg'; got ''"):
        build(global_pool="")


@both_pools
def test_a_traced_model_answers_alike_at_every_size(pool, prefix):
    model = build(global_pool=pool)
    nodes = get_graph_node_names(model)[1]
    traced = create_feature_extractor(model, nodes[-1:])
    for sides in ((16, 16), (9, 30)):
        images = torch.randn(2, 3, *sides)
        (answers,) = traced(images).values()
        torch.testing.assert_close(answers, model(images), atol=1e-5, rtol=1e-4)


def test_features_only_needs_no_head():
    options = {key: value for key, value in SMALL.items() if key != "num_classes"}
    features = timm.create_model("cpvt_micro", features_only=True, **options)
    assert [each.shape for each in features(torch.randn(1, 3, 8, 20))] == [(1, 16, 2, 5)] * 3


def test_weights_of_a_file_fit_other_classes(tmp_path):
    source = build(global_pool="token")
    torch.save(source.state_dict(), tmp_path / "model.pth")
    options = {**asdict(source.config), "num_classes": 3}
    overlay = {"file": str(tmp_path / "model.pth"), "num_classes": 5, "input_size": (3, 16, 16)}
    tuned = timm.create_model("cpvt_micro", True, pretrained_cfg_overlay=overlay, **options).eval()
    images = torch.randn(2, 3, 8, 20)
    assert torch.equal(tuned.forward_features(images), source.forward_features(images))
    assert tuned(images).shape == (2, 3)
    with pytest.raises(ValueError, match=r"missing nothing, not expected \['dist_token'\]"):
        timm.create_model("cpvt_micro", True, pretrained_cfg_overlay=overlay, **{**options, "distilled": False})


def test_an_uploaded_model_comes_back(tmp_path):
    model, images = build(), torch.randn(2, 3, 8, 20)
    save_for_hf(model, tmp_path / "saved", safe_serialization=True)
    source = f"local-dir:{tmp_path / 'saved'}"
    back = timm.create_model(source, pretrained=True).eval()
    assert back.config == model.config
    assert torch.equal(back(images), model(images))
    other = timm.create_model(source, pretrained=True, num_classes=3).eval()
    assert torch.equal(other.forward_features(images), model.forward_features(images))
    assert other(images).shape == (2, 3)


@pytest.mark.parametrize("name", ["cpvt_micro", "cpvt_micro_gap"])
def test_the_exported_file_gives_the_mean(name, tmp_path):
    torch.manual_seed(0)
    model = cpvt.create_model(name, depth=1, num_classes=5, distilled=True).eval()
    done = cpvt.export(model, tmp_path / "model.pt2")
    assert len(done.checked) == 5
