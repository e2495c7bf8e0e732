"""The scale of objects, estimated without labels: the one at which a model is surest."""

import numpy as np
import pytest
import torch
from torch import nn

import cpvt
from cpvt.adapters import adapter_of
from cpvt.adapters.classify import classify, preprocessing_of
from cpvt.adapters.scale import candidate_scales, entropy, lowest_entropy_logits, rule_under
from cpvt.data import Transform


class Sure(nn.Module):
    """Surest of the class that an image's first pixel names, where it is told what the second pixel says."""

    scale_grid = (4, 4)

    def __init__(self, classes=3):
        super().__init__()
        self.num_classes, self.scale, self.told = classes, "fit", []

    def forward(self, images):
        self.told.append(self.scale)
        scale = self.scale[0] if isinstance(self.scale, tuple) else float(self.scale)
        sharpness = 5.0 / (1.0 + 10 * (images[:, 0, 0, 1] - scale).abs())
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), self.num_classes) * sharpness[:, None]


def images_of(*pairs, size=64):
    images = torch.zeros(len(pairs), 3, size, size)
    for image, (label, scale) in zip(images, pairs):
        image[:, 0, 0], image[:, 0, 1] = label, scale
    return images


def adapter(size=16, **options):
    return adapter_of(Sure(**options), "sure", train_size=size, transform=Transform((0.5,) * 3, (0.25,) * 3))


def test_candidates_are_steps_up_to_the_ratio_of_the_sizes():
    assert candidate_scales(adapter(32), (96, 96)) == [(1, 1), (1.5, 1.5), (2, 2), (3, 3)]
    assert candidate_scales(adapter(32), (40, 40)) == [(1, 1), (1.25, 1.25)]
    assert candidate_scales(adapter(32), (64, 80)) == [(1, 1), (1.5, 1.5), (2, 2), (2, 2.5)]
    assert candidate_scales(adapter(32), (24, 32)) == [(1, 1)]
    assert candidate_scales(adapter(32), (24, 56)) == [(1, 1), (1, 1.5), (1, 1.75)]
    with pytest.raises(ValueError, match="does not state its training size, so candidates= must list"):
        candidate_scales(adapter(None), (24, 24))


def test_the_entropy_is_that_of_the_probabilities():
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(entropy(probabilities.log()), torch.tensor([1.0397207708, 0.0], dtype=torch.float64))
    assert entropy(torch.tensor([[1e4, -1e4]])).item() == 0.0


def test_a_set_is_given_the_scale_of_the_lowest_mean_entropy():
    images = images_of((0, 2.0), (1, 2.0), (2, 1.0))
    assert cpvt.estimate_scale(adapter(), images) == 2.0
    assert cpvt.estimate_scale(Sure(), images, (1.0, 2.0, 4.0)) == 2.0
    assert cpvt.estimate_scale(adapter(), [images[:1], images[1:]]) == 2.0
    assert cpvt.estimate_scale(adapter(), images_of((0, 1.0), (1, 1.0), (2, 3.0))) == 1.0
    assert cpvt.estimate_scale(adapter(), images, candidates=[(1, 1), (2.0, 1.0)]) == (2.0, 1.0)


def test_images_may_come_one_by_one_and_candidates_as_an_array():
    images = images_of((0, 2.0), (1, 2.0))
    assert cpvt.estimate_scale(adapter(), images[0]) == 2.0
    assert cpvt.estimate_scale(adapter(), list(images)) == 2.0
    assert cpvt.estimate_scale(adapter(), images, np.linspace(1, 3, 3)) == 2.0
    for wrong in (images[0, 0], [np.zeros((3, 8, 8))], images[None]):
        with pytest.raises(ValueError, match=r"images must be tensors \(B, C, H, W\) or \(C, H, W\)"):
            cpvt.estimate_scale(adapter(), wrong)
    with pytest.raises(ValueError, match="candidates must be one scale or more; got none"):
        cpvt.estimate_scale(adapter(), images, [])


def test_of_equally_sure_scales_the_first_is_taken():
    images = images_of((0, 1.5))
    assert cpvt.estimate_scale(adapter(), images, [1.0, 2.0]) == 1.0
    assert cpvt.estimate_scale(adapter(), images, [2.0, 1.0]) == 2.0


def test_each_image_gets_the_answer_at_its_own_surest_scale():
    wrapped, images = adapter(), images_of((0, 1.0), (2, 3.0), (1, 4.0))
    logits, scales = lowest_entropy_logits(wrapped, images)
    assert scales == [(1.0, 1.0), (3.0, 3.0), (4.0, 4.0)]
    torch.testing.assert_close(logits, torch.diag(torch.full((3,), 5.0))[[0, 2, 1]])
    assert wrapped.model.scale == "fit"  # as it was


def test_a_model_is_told_during_a_call_only_whatever_happens():
    wrapped = adapter().with_scale("2")
    wrapped.logits(images_of((0, 1.0)))
    with pytest.raises(IndexError):
        wrapped.logits(torch.zeros(1, 3, 0, 0))
    assert (wrapped.model.told, wrapped.model.scale) == ([2.0, 2.0], "fit")


def test_what_to_tell_follows_from_the_protocol_unless_it_is_asked_for():
    ours, other = adapter(), adapter_of(nn.Identity(), "other")
    assert [rule_under(rule, "protocol", ours) for rule in ("fit", "pixels", None)] == ["fit", "pixels", None]
    assert rule_under("fit", "protocol", other) is None
    assert [rule_under("fit", asked, ours) for asked in ("auto", "2.0", "1x2")] == ["auto", 2.0, (1.0, 2.0)]
    for asked in ("fit", "auto", 2.0):
        with pytest.raises(ValueError, match="'other' has no PEG, so it takes no scale"):
            rule_under("fit", asked, other)


def test_a_scale_needs_classes_and_images():
    features = cpvt.create_model("cpvt_micro", num_classes=0)
    with pytest.raises(ValueError, match="this model has no head, num_classes=0"):
        cpvt.estimate_scale(features, torch.randn(2, 3, 64, 64))
    with pytest.raises(ValueError, match="from class probabilities; 'sure' gives 1"):
        cpvt.estimate_scale(adapter(classes=1), images_of((0, 1.0)))
    with pytest.raises(ValueError, match="estimated from images; got none"):
        cpvt.estimate_scale(adapter(), [])
    with pytest.raises(ValueError, match="has no PEG"):
        cpvt.estimate_scale(adapter_of(nn.Identity(), "other", train_size=16), images_of((0, 1.0)))
    with pytest.raises(ValueError, match="scale must be 1 or more"):
        cpvt.estimate_scale(adapter(), images_of((0, 1.0)), [0.5, 1.0])


def test_predictions_say_the_scale_that_was_told():
    image = np.zeros((32, 32, 3), np.uint8)
    model = cpvt.create_model("cpvt_micro", num_classes=3, img_size=8).eval()
    wrapped = adapter_of(model, "ours", train_size=8, transform=Transform((0.5,) * 3, (0.25,) * 3, crop_ratio=1.0))

    def told(protocol, size, scale):
        (found,) = classify(wrapped, [image], preprocessing_of(wrapped, protocol, size), scale=scale)
        return found.scale

    assert told("resize", 16, "protocol") == (2.0, 2.0)
    assert told("resize", (16, 24), "protocol") == (2.0, 3.0)
    assert told("canvas", 16, "protocol") == (1.0, 1.0)
    assert told("native", 32, "protocol") is None  # the model's own rule
    assert told("resize", 16, "1.5") == (1.5, 1.5)
    assert told("canvas", 24, "auto") in candidate_scales(wrapped, (24, 24))
    assert told("native", 32, "auto") in candidate_scales(wrapped, (32, 32))
    (found,) = classify(wrapped, [image], preprocessing_of(wrapped, "resize", 16))
    assert " read at 16x16 at scale 2  " in str(found)


def test_after_a_change_of_the_training_size_scales_still_count_from_the_size_before():
    model = cpvt.create_model("cpvt_micro", num_classes=3, img_size=32).eval()
    model.set_input_size(64)
    ours = adapter_of(model, "ours")
    assert [ours.scale_at(rule, (64, 128)) for rule in ("fit", "pixels", "paper", 1.5)] == [
        (2.0, 4.0), (2.0, 2.0), None, (1.5, 1.5),
    ]  # fmt: skip
    assert candidate_scales(ours, (96, 96)) == [(1, 1), (1.5, 1.5), (2, 2), (3, 3)]
    images = torch.randn(1, 3, 128, 128)
    assert torch.equal(model(images, scale="pixels"), model(images, scale=2.0))
    assert not torch.equal(model(images, scale="pixels"), model(images, scale=1.0))


def test_the_scale_of_a_size_that_the_patch_does_not_divide_is_that_which_the_model_is_told():
    model = cpvt.create_model("cpvt_micro", num_classes=3, img_size=48, patch_size=8).eval()
    ours, images = adapter_of(model, "ours"), torch.randn(1, 3, 50, 48)
    assert ours.scale_at("fit", (50, 48)) == (7 / 6, 1.0)
    assert torch.equal(model(images, scale="fit"), model(images, scale=ours.scale_at("fit", (50, 48))))


def test_threads_that_tell_one_model_different_scales_do_not_meet():
    from concurrent.futures import ThreadPoolExecutor

    ours = adapter_of(cpvt.create_model("cpvt_micro", num_classes=3).eval(), "ours")
    images, scales = torch.randn(1, 3, 64, 64), [1.0, 1.5, 2.0, "pixels", "paper"] * 8
    alone = [ours.with_scale(scale).logits(images) for scale in scales]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda scale: ours.with_scale(scale).logits(images), scales))
    assert all(torch.equal(one, other) for one, other in zip(alone, together))
    assert ours.model.scale == "fit"
