"""Order: a model without an encoding ignores it, any other does not."""

import pytest
import torch

from cpvt.evaluation.probes.order import permute_patches


def test_patches_change_places_and_nothing_else():
    image = torch.arange(4 * 6).reshape(1, 1, 4, 6)
    moved = permute_patches(image, 2, torch.tensor([5, 1, 2, 3, 4, 0]))
    torch.testing.assert_close(moved[0, 0, :2, :2], image[0, 0, 2:, 4:])
    torch.testing.assert_close(moved[0, 0, 2:, 4:], image[0, 0, :2, :2])
    torch.testing.assert_close(moved[0, 0, :2, 2:], image[0, 0, :2, 2:])
    torch.testing.assert_close(moved[0, 0, 2:, :4], image[0, 0, 2:, :4])


def test_every_batch_has_its_own_permutation(tiny_model, measured, monkeypatch):
    from cpvt.evaluation.probes import order

    orders = []
    monkeypatch.setattr(order, "permute_patches", lambda images, patch, order: orders.append(order) or images)
    measured(lambda images: images.mean((1, 2, 3))[:, None].expand(-1, 10), "order", images=4, token_budget=1)
    assert not orders  # its patch size is unknown
    measured(tiny_model("none"), "order", images=4, token_budget=16)
    assert all(sorted(each.tolist()) == list(range(16)) for each in orders)
    assert len({tuple(each.tolist()) for each in orders}) == 4


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_model_without_encoding_ignores_order(tiny_model, measured, pool):
    find = measured(tiny_model("none", pool), "order")
    assert max(find("logit change") + find("token change") + find("mean token change")) < 1e-4
    assert find("predictions changed") == [0, 0]


@pytest.mark.parametrize("encoding", ["learned", "rope", "relative", "peg"])
def test_any_encoding_sees_order_and_its_baseline_without_does_not(tiny_model, measured, encoding):
    find = measured(tiny_model(encoding), "order")
    assert min(find("token change", depth=2)) > 0.05
    assert min(find("logit change")) > 0.005
    assert max(find("token change", baseline="none") + find("logit change", baseline="none")) < 1e-4


def test_without_a_token_per_patch_only_logits_are_measured(measured):
    from cpvt.adapters import adapter_of

    layers = torch.nn.Conv2d(1, 4, 8, 8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 10)
    find = measured(adapter_of(torch.nn.Sequential(*layers), train_size=16, patch_size=4), "order")
    assert "no tokens of shape" in find.refused["model", "tokens"]
    assert min(find("logit change")) > 0
