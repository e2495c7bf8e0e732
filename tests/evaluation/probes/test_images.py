"""The images of probes: seeded, in halves that share none, and what their names say."""

from dataclasses import replace

import pytest
import torch

from cpvt.data import Transform, open_data
from cpvt.evaluation.probes.images import Album


@pytest.fixture
def album(digits):
    def make(data=digits, count=10, **options):
        return Album(data, Transform((0.5,), (0.25,), 1.0), torch.device("cpu"), count, 4, **options)

    return make


def gather(album, kind, part="all", sides=(16, 24)):
    batches = list(album.batches(kind, sides, part))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("kind", ["natural", "noise"])
def test_the_halves_make_the_whole_and_share_nothing(album, kind):
    fit, test, whole = (gather(album(), kind, part)[0] for part in ("fit", "test", "all"))
    assert whole.shape == (10, 1, 16, 24)
    assert len(fit) == len(test) == 5
    assert not any(torch.equal(one, other) for one in fit for other in test)
    if kind == "natural":
        torch.testing.assert_close(torch.cat([fit, test]), whole)


def test_the_same_seed_shows_the_same_images_again_and_another_others(album):
    for kind in ("natural", "noise"):
        one = album()
        first, again, cached, other = (
            gather(each, kind, sides=(16, 16))[0] for each in (one, album(), one, album(seed=1))
        )
        assert torch.equal(first, again)
        assert torch.equal(first, cached)
        assert not torch.equal(first, other)


def test_batches_keep_to_the_budget_and_change_nothing(album):
    whole, cut = album(), album(token_budget=50)
    assert {len(images) for images, _ in cut.batches("natural", (16, 24))} == {2}
    torch.testing.assert_close(gather(cut, "natural")[0], gather(whole, "natural")[0])


def test_noise_is_normal_and_black_and_white_are_what_they_are_called(album):
    noise, labels = gather(album(count=100), "noise")
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert (labels == -1).all()
    assert gather(album(), "black")[0].unique().tolist() == [-2]
    assert gather(album(), "white")[0].unique().tolist() == [2]


def test_without_test_images_those_to_train_on_are_shown(album, digits):
    labels = gather(album(replace(digits, test=None), count=2000), "natural", sides=(4, 4))[1]
    assert len(labels) == 1200
    assert sorted(labels.tolist()) == sorted(digits.train.labels.tolist())


def test_a_image_that_does_not_decode_is_named_or_left_out(album, tiny_folder):
    (tiny_folder / "test" / "cat" / "0.png").write_bytes(b"no image")
    data = open_data(str(tiny_folder), mode="L")
    with pytest.raises(ValueError, match="0.png' does not decode"):
        gather(album(data), "natural")
    assert len(gather(album(data, on_bad_image="skip"), "natural")[0]) == 5
