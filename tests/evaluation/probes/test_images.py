"""The images of probes: seeded, in disjoint halves, of the kinds they are named after."""

from dataclasses import replace

import pytest
import torch

from cpvt.data import Transform, open_data
from cpvt.evaluation.probes.images import ProbeDataset


@pytest.fixture
def dataset(digits):
    def make(data=digits, count=10, **options):
        return ProbeDataset(data, Transform((0.5,), (0.25,), 1.0), torch.device("cpu"), count, 4, **options)

    return make


def gather(dataset, kind, part="all", sides=(16, 24)):
    batches = list(dataset.batches(kind, sides, part))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("kind", ["natural", "noise"])
def test_the_halves_are_disjoint_and_make_the_whole(dataset, kind):
    fit, test, whole = (gather(dataset(), kind, part)[0] for part in ("fit", "test", "all"))
    assert whole.shape == (10, 1, 16, 24)
    assert len(fit) == len(test) == 5
    assert not any(torch.equal(one, other) for one in fit for other in test)
    if kind == "natural":
        torch.testing.assert_close(torch.cat([fit, test]), whole)


def test_images_depend_on_the_seed_alone(dataset):
    for kind in ("natural", "noise"):
        one = dataset()
        first, again, cached, other = (
            gather(each, kind, sides=(16, 16))[0] for each in (one, dataset(), one, dataset(seed=1))
        )
        assert torch.equal(first, again)
        assert torch.equal(first, cached)
        assert not torch.equal(first, other)


def test_batches_keep_to_the_budget_and_change_nothing(dataset):
    whole, cut = dataset(), dataset(token_budget=50)
    assert {len(images) for images, _ in cut.batches("natural", (16, 24))} == {2}
    torch.testing.assert_close(gather(cut, "natural")[0], gather(whole, "natural")[0])


def test_noise_is_normal_and_black_and_white_are_constant(dataset):
    noise, labels = gather(dataset(count=100), "noise")
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert (labels == -1).all()
    assert gather(dataset(), "black")[0].unique().tolist() == [-2]
    assert gather(dataset(), "white")[0].unique().tolist() == [2]


def test_without_test_images_training_images_are_used(dataset, digits):
    labels = gather(dataset(replace(digits, test=None), count=2000), "natural", sides=(4, 4))[1]
    assert len(labels) == 1200
    assert sorted(labels.tolist()) == sorted(digits.train.labels.tolist())


def test_an_image_that_does_not_decode_is_named_or_left_out(dataset, tiny_folder):
    (tiny_folder / "test" / "cat" / "0.png").write_bytes(b"no image")
    data = open_data(str(tiny_folder), mode="L")
    with pytest.raises(ValueError, match="0.png' does not decode"):
        gather(dataset(data), "natural")
    assert len(gather(dataset(data, on_bad_image="skip"), "natural")[0]) == 5
