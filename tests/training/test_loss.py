"""The loss: mixup, cutmix, smoothing and distillation."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data import Mixup

from cpvt.adapters import ModelAdapter
from cpvt.config import OptimConfig
from cpvt.data import Transform
from cpvt.data.augmentation import seeded
from cpvt.training.loss import Criterion, Teacher, check_teacher
from cpvt.training.sampler import step_seed

BOTH = OptimConfig(mixup=0.8, cutmix=1.0)


def batch(count, classes=5):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, 8, 10, generator=generator), torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("seed", range(6))  # some choose mixup, some cutmix
def test_mixing_equals_timms(seed):
    images, labels = batch(6)
    with seeded(seed, numpy_too=True):
        wanted = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=5)(images.clone(), labels)
    found = Criterion(BOTH, 5).mix(images.clone(), labels, seed)
    torch.testing.assert_close(found, tuple(wanted))


def test_the_middle_image_of_an_odd_number_is_not_mixed():
    images, labels = batch(7)
    mixed, targets = Criterion(BOTH, 5).mix(images.clone(), labels, 3)
    assert torch.equal(mixed[3], images[3])
    assert not torch.equal(mixed[2], images[2])
    torch.testing.assert_close(targets[3], F.one_hot(labels[3], 5) * 0.9 + 0.02)
    torch.testing.assert_close(targets.sum(1), torch.ones(7))
    alone, _ = Criterion(BOTH, 5).mix(*[part[:1].clone() for part in (images, labels)], 3)
    assert torch.equal(alone, images[:1])


def test_mixup_and_cutmix_have_their_probabilities():
    criterion, kinds = (
        Criterion(OptimConfig(mixup=0.8, cutmix=1.0, mixup_prob=0.6, mixup_switch_prob=0.2), 2),
        Counter(),
    )
    for seed in range(400):
        black_and_white = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 8, 8).clone()
        mixed, _ = criterion.mix(black_and_white, torch.tensor([0, 1]), seed)
        shades = set(mixed[0].flatten().tolist())
        kinds["blended" if shades - {0.0, 1.0} else "cut" if 1.0 in shades else "as they were"] += 1
    assert kinds["blended"] / 400 == pytest.approx(0.6 * 0.8, abs=0.06)
    assert kinds["cut"] / 400 == pytest.approx(0.6 * 0.2, abs=0.04)


def test_processes_with_pairs_of_a_batch_mix_like_one_process():
    images, labels = batch(8)
    whole = Criterion(BOTH, 5).mix(images.clone(), labels, 9)
    numbers = [0, 2, 5, 7]
    part = Criterion(BOTH, 5).mix(images[numbers].clone(), labels[numbers], 9)
    for one, two in zip(part, whole):
        torch.testing.assert_close(one, two[numbers])


def test_smoothing_of_plain_labels_and_of_mixed_ones_is_the_same():
    images, labels = batch(4)
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    plain = Criterion(OptimConfig(), 5)(logits, images, labels)
    unmixed = Criterion(OptimConfig(mixup=1e-9, mixup_prob=1e-9), 5)  # never mixed: soft labels all the same
    soft = unmixed(logits, images, unmixed.mix(images, labels, 0)[1])
    torch.testing.assert_close(plain.loss, soft.loss)
    assert plain.correct == soft.correct == (logits.argmax(1) == labels).sum()


def colour(images):
    """A model that predicts the channel with the largest mean, as it sees the images."""
    return images.mean((2, 3))


def test_a_teacher_sees_its_own_normalisation_and_is_half_of_the_loss():
    student = Transform(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    own = Transform(mean=(0.9, 0.0, 0.0), std=(0.1, 1.0, 1.0))
    seen = torch.tensor([0.5, 0.6, 0.2])[None, :, None, None].expand(
        2, 3, 4, 4
    )  # second largest, as the student sees it
    teacher = Teacher(ModelAdapter(colour, "colour", own), student)
    assert torch.equal(teacher(seen), torch.tensor([1, 1]))
    assert torch.equal(teacher(list(seen)), torch.tensor([1, 1]))
    bright = torch.tensor([1.0, 0.6, 0.2])[None, :, None, None].expand(2, 3, 4, 4)  # (1 - 0.9) / 0.1 = 1 above 0.8
    assert torch.equal(teacher(bright), torch.tensor([0, 0]))
    first, second = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([2, 0])
    answer = Criterion(OptimConfig(smoothing=0.0, distillation_alpha=0.3), 3, teacher)((first, second), seen, labels)
    wanted = 0.7 * F.cross_entropy(first, labels) + 0.3 * F.cross_entropy(second, torch.tensor([1, 1]))
    torch.testing.assert_close(answer.loss, wanted)
    assert answer.correct == ((first + second).argmax(1) == labels).sum()


def test_a_teacher_of_other_classes_or_channels_is_rejected():
    known = ModelAdapter(colour, "colour", class_names=("cat", "dog", "cow"))
    check_teacher(known, ("cat", "dog", "cow"))
    with pytest.raises(ValueError, match="lacks fox.*it has 3, they have 2"):
        check_teacher(known, ("cat", "fox"))
    with pytest.raises(ValueError, match="their order differs"):
        check_teacher(known, ("dog", "cat", "cow"))
    counting = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(3, 7, 1), torch.nn.Flatten())
    with pytest.raises(ValueError, match="has 7 classes, the images have 2"):
        check_teacher(ModelAdapter(counting, "counting"), ("cat", "fox"))
    with pytest.raises(ValueError, match="reads 3 channels, the images have 1"):
        Teacher(ModelAdapter(colour, "colour", Transform((0.5,) * 3, (0.5,) * 3)), Transform((0.5,), (0.5,)))


def test_a_steps_seed_follows_from_its_arguments_alone():
    assert step_seed(1, 2, 3) == step_seed(1, 2, 3)
    assert len({step_seed(*each) for each in np.ndindex(4, 4, 4)}) == 64
