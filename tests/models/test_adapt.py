"""A model gone on with: what it knows is kept, what may be another is, and nothing else."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cpvt import PEG
from cpvt.config import ModelConfig
from cpvt.models import VisionTransformer
from cpvt.models.adapt import adapt_model

SMALL = dict(embed_dim=16, depth=3, num_heads=2, patch_size=4, img_size=32, num_classes=5, encoding="peg")
HEADS = ("head.", "head_dist.")


def build(**options):
    torch.manual_seed(0)
    model = VisionTransformer(ModelConfig(**{**SMALL, **options})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize(
    "encoding",
    ["none", "learned", "sincos", "rope", "rope(grid=(5, 6))", "sincos(coordinates='raw')", "relative", "peg", "peg5",
     "learned+peg", "relative+rope+peg(at=(0, 2), kernel_size=5)"],
)  # fmt: skip
@pytest.mark.parametrize("size", [48, (40, 24)])
def test_at_another_size_it_answers_as_before(encoding, size):
    model = build(encoding=encoding)
    sides = (size, size) if isinstance(size, int) else size
    images, others = torch.randn(2, 3, *sides), torch.randn(2, 3, 32, 32)
    expected, expected_of_others = model(images), model(others)
    continued, words = adapt_model(model, replace(model.config, img_size=size))
    assert continued.config.img_size == size
    assert_close(continued.eval()(images), expected)
    if "learned" not in encoding:  # a table resized twice is a little off
        assert_close(continued(others), expected_of_others)
    assert len(words) == 1
    assert words[0].startswith(f"training size 32 -> {size}")
    assert ("encoding now" in words[0]) == (continued.config.encoding != encoding)


def test_a_text_that_leaves_the_grid_out_means_the_one_that_is_there():
    wanted = ModelConfig(**{**SMALL, "encoding": "rope", "img_size": 48})
    once, _ = adapt_model(build(encoding="rope(grid=(8, 8))"), wanted)
    assert (once.config.encoding, once.config.scale_grid) == ("rope(grid=(8, 8))", (8, 8))
    images = torch.randn(2, 3, 20, 20)
    expected = once.eval()(images)
    for text in ("rope", "rope(grid=(8, 8))"):
        wanted = ModelConfig(**{**SMALL, "encoding": text, "img_size": 20})
        twice, _ = adapt_model(adapt_model(once, once.config)[0], wanted)
        assert_close(twice.eval()(images), expected)
    with pytest.raises(ValueError, match=r"encoding: rope\(grid=\(8, 8\)\) -> rope\(grid=\(12, 12\)\)"):
        adapt_model(once, replace(once.config, encoding="rope(grid=(12, 12))"))


def trunk(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith(HEADS)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize(
    ("classes", "same_classes", "words"), [(3, True, "5 classes -> 3"), (5, False, "other classes")]
)
def test_heads_for_other_classes_start_afresh_on_the_same_trunk(distilled, classes, same_classes, words):
    model = build(distilled=distilled)
    before, head = trunk(model), model.head.weight.clone()
    continued, told = adapt_model(model, replace(model.config, num_classes=classes), same_classes)
    assert same(trunk(continued), before)
    assert told == [f"{words}: the head starts afresh"]
    assert continued(torch.randn(1, 3, 20, 20)).shape == (1, classes)
    assert all(part.weight.std() < 0.1 for name, part in continued.named_children() if name.startswith("head_di"))
    assert continued.head.weight.std() < 0.1 < head.std()


def test_the_same_model_is_left_alone_but_for_what_training_drops():
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    continued, words = adapt_model(model, replace(model.config, drop_rate=0.5, drop_path_rate=0.3))
    assert words == []
    assert same(continued.state_dict(), before)
    assert continued.config == replace(model.config, drop_rate=0.5, drop_path_rate=0.3)
    assert (continued.head_drop.p, continued.blocks[2].drop_path.drop_prob) == (0.5, pytest.approx(0.3))


def test_a_second_head_starts_as_the_first():
    model, images = build(global_pool="avg"), torch.randn(2, 3, 20, 20)
    expected = model(images)
    continued, words = adapt_model(model, replace(model.config, distilled=True))
    assert "a head for the teacher's answers was added" in words[0]
    assert_close(continued.eval()(images), expected)
    token, _ = adapt_model(build(), ModelConfig(**{**SMALL, "distilled": True}))
    assert torch.equal(token.dist_token, token.cls_token)
    assert token.dist_token.data_ptr() != token.cls_token.data_ptr()
    assert torch.equal(token.head_dist.weight, token.head.weight)
    token.train().set_distilled_training()
    assert_close(*token(images))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_second_head_may_be_left_behind(pool):
    model = build(distilled=True, global_pool=pool)
    before = {name: tensor for name, tensor in model.state_dict().items() if "dist" not in name}
    continued, words = adapt_model(model, replace(model.config, distilled=False))
    assert same(continued.state_dict(), before)
    assert "left behind" in words[0]


@pytest.mark.parametrize(
    ("before", "wanted", "means"),
    [
        ("none", "peg", "peg"),
        ("learned", "learned+peg", "learned(grid=(8, 8))+peg"),
        ("rope(grid=(8, 8))", "rope+peg5", "rope(grid=(8, 8))+peg5"),
        ("sincos+peg", "sincos+peg+peg(at=(2,))", None),
    ],
)
def test_a_peg_more_starts_at_zero_and_changes_no_answer(before, wanted, means):
    model, images = build(encoding=before), torch.randn(2, 3, 32, 32)
    expected = model(images)
    continued, words = adapt_model(model, replace(model.config, encoding=wanted))
    assert_close(continued.eval()(images), expected, atol=0, rtol=0)
    assert words[-1].startswith("added peg")
    assert continued.config.encoding in (wanted, means)
    continued(images).sum().backward()
    pegs = [each for part in continued.modules() if isinstance(part, PEG) for each in part.parameters()]
    assert any(each.grad is not None and each.grad.any() for each in pegs), "it learns"


def test_another_model_is_refused_with_all_that_differs():
    wanted = dict(embed_dim=32, depth=4, encoding="peg5", in_chans=1, global_pool="avg")
    with pytest.raises(ValueError, match="trained on as it is") as error:
        adapt_model(build(), ModelConfig(**{**SMALL, **wanted}))
    for words in (
        "embed_dim: 16 -> 32", "depth: 3 -> 4", "encoding: peg -> peg5", "in_chans: 3 -> 1",
        "global_pool: token -> avg",
        "class_token: True -> False",
    ):  # fmt: skip
        assert words in str(error.value)
    with pytest.raises(ValueError, match=r"encoding: peg -> peg\+learned"):
        adapt_model(build(), ModelConfig(**{**SMALL, "encoding": "peg+learned"}))
    with pytest.raises(ValueError, match=r"encoding: peg -> peg\(kernel_size=5\)"):
        adapt_model(build(), ModelConfig(**{**SMALL, "encoding": "peg(kernel_size=5)"}))
    kept, _ = adapt_model(build(), ModelConfig(**{**SMALL, "class_token": True}))  # said, not another
    assert kept.num_prefix_tokens == 1
