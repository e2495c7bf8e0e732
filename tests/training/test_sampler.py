"""Samplers: every image once an epoch, the same in every process, many sizes within one token budget."""

from collections import Counter

import numpy as np
import pytest

from cpvt.runtime import distributed
from cpvt.training.sampler import create_sampler, own_share


def sampler(**options):
    given = {
        "images": 103,
        "batch_size": 8,
        "repeats": 1,
        "seed": 3,
        "train_size": (32, 32),
        "sizes": [(32, 32)],
        "patch_size": 4,
    }
    return create_sampler(**{**given, **options})


def test_an_epoch_holds_every_image_once_in_the_order_of_its_seed():
    steps = sampler().steps(5)
    assert [len(step) for step in steps] == [8] * 12 + [7]
    numbers = [spec.number for step in steps for spec in step]
    assert numbers == np.random.default_rng((3, 5)).permutation(103).tolist()
    assert numbers != [spec.number for step in sampler().steps(6) for spec in step]


def test_repeated_augmentation_holds_fewer_images_in_several_copies():
    specs = [spec for step in sampler(repeats=3).steps(0) for spec in step]
    assert len(specs) == 103
    assert len(set(specs)) == 103
    counts = Counter(spec.number for spec in specs)
    assert len(counts) == 35
    assert sorted(counts.values()) == [1] + [3] * 34


def test_each_step_has_one_size_and_about_the_tokens_of_a_batch():
    many = sampler(images=5000, sizes=[(16, 16), (32, 32), (48, 64)])
    steps = many.steps(0)
    assert sorted(spec.number for step in steps for spec in step) == list(range(5000))
    seen = Counter()
    for step in steps[:-1]:
        ((height, _),) = {spec.sides or (32, 32) for spec in step}
        seen[height] += 1
        assert len(step) == {16: 32, 32: 8, 48: 3}[height]  # 512 tokens: 16, 64 and 192 per image
    assert len(steps) == many.num_steps(0)
    assert many.total_steps(3) == sum(len(many.steps(epoch)) for epoch in range(3))
    assert max(seen.values()) < 1.4 * min(seen.values())
    assert [step[0].sides for step in steps] != [step[0].sides for step in many.steps(1)][: len(steps)]


def test_a_single_other_size_is_used():
    assert {spec.sides for step in sampler(sizes=[(16, 16)]).steps(0) for spec in step} == {(16, 16)}
    assert {spec.sides for step in sampler().steps(0) for spec in step} == {None}


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("length", [1, 7, 8, 2])
def test_processes_share_a_step_and_keep_the_pairs_that_are_mixed(monkeypatch, count, length):
    step, parts = sampler().steps(0)[0][:length], []
    monkeypatch.setattr(distributed, "world_size", lambda: count)
    for number in range(count):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        parts.append(own_share(step))
    assert sorted(spec for part in parts for spec in part) == sorted(step)
    pairs = {frozenset((first, last)) for first, last in zip(step, reversed(step))}
    for part in parts:
        assert all(frozenset((first, last)) in pairs for first, last in zip(part, reversed(part)))
    if count == 1:
        assert parts[0] == step
