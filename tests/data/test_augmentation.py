"""Variations: timm's parts, each drawn for its image by itself, and nothing else drawn from."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from cpvt.data import Augmentation, LoadOptions, SampleSpec, Transform, load_plan
from cpvt.data.augmentation import AUTO_AUGMENTS
from cpvt.data.protocols import find_protocol

TRANSFORMS = {
    "L": Transform(mean=(0.1,), std=(0.5,), crop_ratio=1.0),
    "RGB": Transform(mean=(0.1, 0.3, 0.5), std=(0.5, 0.2, 0.25), crop_ratio=1.0),
}
EVERY = [Augmentation(auto_augment=words) for words in (*AUTO_AUGMENTS, "rand-m5-n3-tweights", "3a")]
EVERY += [Augmentation(color_jitter=0.4), Augmentation(erasing=1.0), Augmentation(AUTO_AUGMENTS[0], 0.4, 0.5)]
KINDS = ("resized-crop", "crop", "canvas", "native-mirrored")
every_variation = pytest.mark.parametrize("augmentation", EVERY, ids=str)
every_kind = pytest.mark.parametrize("kind", KINDS)


def noise(height=18, width=20, mode="RGB"):
    values = np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def draw(seed=0):
    return np.random.default_rng(seed)


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def preprocessing_of(kind, augmentation, mode="RGB", sides=(10, 12)):
    return find_protocol(kind)(TRANSFORMS[mode], sides, augmentation=augmentation)


@pytest.mark.parametrize("mode", TRANSFORMS)
def test_a_crop_is_timms_own(mode):
    from timm.data import create_transform

    transform = TRANSFORMS[mode]
    timm = create_transform(
        (10, 12), is_training=True, scale=(0.2, 0.9), color_jitter=None, interpolation="bicubic",
        mean=transform.mean, std=transform.std,
    )  # fmt: skip
    for seed in range(10):
        ours = find_protocol("resized-crop")(transform, (10, 12), (0.2, 0.9))(noise(mode=mode), draw(seed))
        seed_all(int(draw(seed).integers(2**31)))
        assert torch.equal(ours, timm(noise(mode=mode)))


@pytest.mark.parametrize("words", AUTO_AUGMENTS[:1])
def test_colours_are_changed_as_timm_changes_them(words):
    from timm.data.auto_augment import rand_augment_transform

    transform = TRANSFORMS["RGB"]
    fill = {"translate_const": int(10 * 0.45), "img_mean": tuple(round(255 * value) for value in transform.mean)}
    timm = rand_augment_transform(words, {**fill, "interpolation": Image.Resampling.BICUBIC})
    changed = 0
    for seed in range(20):
        ours = Augmentation(words).apply(noise(), (10, 12), "bicubic", transform.mean, draw(seed))
        seed_all(int(draw(seed).integers(2**31)))
        assert np.array_equal(ours, timm(noise()))
        changed += not np.array_equal(ours, noise())
    assert changed > 8


@every_variation
@every_kind
@pytest.mark.parametrize("mode", TRANSFORMS)
def test_what_is_seen_follows_from_the_generator_alone(augmentation, kind, mode):
    preprocessing, image = preprocessing_of(kind, augmentation, mode), noise(mode=mode)
    seen = [preprocessing(image, draw(seed)) for seed in range(12)]
    seed_all(1)
    assert all(torch.equal(preprocessing(image, draw(seed)), seen[seed]) for seed in reversed(range(12)))
    assert not all(torch.equal(seen[0], other) for other in seen[1:])
    assert all(each.isfinite().all() and len(each) == len(TRANSFORMS[mode].mean) for each in seen)


@every_variation
@every_kind
def test_variation_changes_what_is_seen_and_neither_its_shape_nor_the_image_read(augmentation, kind):
    preprocessing, plain, image = preprocessing_of(kind, augmentation), preprocessing_of(kind, Augmentation()), noise()
    pairs = [(preprocessing(image, draw(seed)), plain(noise(), draw(seed))) for seed in range(12)]
    assert all(varied.shape == whole.shape for varied, whole in pairs)
    assert not all(torch.equal(varied, whole) for varied, whole in pairs)
    assert np.array_equal(image, noise())


@every_variation
@every_kind
def test_no_variation_touches_the_global_generators(augmentation, kind):
    def states():
        name, key, *rest = np.random.get_state()  # noqa: NPY002
        return random.getstate(), (name, key.tolist(), *rest), torch.get_rng_state().tolist()

    seed_all(2)
    before = states()
    preprocessing_of(kind, augmentation)(noise(), draw())
    assert states() == before


@every_kind
def test_erasing_fills_a_rectangle_with_noise_in_its_share_of_the_images(kind):
    preprocessing, plain = preprocessing_of(kind, Augmentation(erasing=0.25)), preprocessing_of(kind, Augmentation())
    erased = 0
    for seed in range(200):
        different = (preprocessing(noise(), draw(seed)) != plain(noise(), draw(seed))).any(0)
        if different.any():
            erased += 1
            rows, columns = different.any(1).nonzero(), different.any(0).nonzero()
            assert different[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert different.float().mean() < 0.5
    assert 25 <= erased <= 75


@every_kind
def test_erased_parts_differ_from_pixel_to_pixel(kind):
    preprocessing, plain = preprocessing_of(kind, Augmentation(erasing=1.0)), preprocessing_of(kind, Augmentation())
    tensor = preprocessing(noise(), draw())
    filled = tensor[tensor != plain(noise(), draw())]
    assert len(filled) > 3
    assert len(filled.unique()) == len(filled)


def test_colour_jitter_gives_way_to_auto_augment():
    both, one = (preprocessing_of("resized-crop", Augmentation(AUTO_AUGMENTS[0], jitter)) for jitter in (0.8, 0.0))
    for seed in range(20):
        assert torch.equal(both(noise(), draw(seed)), one(noise(), draw(seed)))


@every_kind
def test_colour_jitter_leaves_shapes_and_fill_alone(kind):
    grey = Image.new("RGB", (6, 6), (100, 100, 100))
    tensor = preprocessing_of(kind, Augmentation(color_jitter=0.8))(grey, draw(1))
    plain = preprocessing_of(kind, Augmentation())(grey, draw(1))
    assert torch.equal(tensor == 0, plain == 0)
    assert not torch.equal(tensor, plain)
    seen = tensor[0][tensor[0] != 0]
    assert (seen == seen[0]).all()


@pytest.mark.parametrize("mode", TRANSFORMS)
@pytest.mark.parametrize("words", ["rand-m10-n6-inc1", "rand-m30-n6-mmax30-inc1", "augmix-m10-d6-mstd0"])
def test_the_strongest_changes_are_made_too(words, mode):
    # of these, posterising keeps no bit, which Pillow refuses since version 13
    draws = [
        Augmentation(words).apply(noise(mode=mode), (10, 12), "bicubic", TRANSFORMS[mode].mean, draw(n))
        for n in range(60)
    ]
    assert len({image.tobytes() for image in draws}) > 30


class Images:
    def __len__(self):
        return 6

    def read(self, index, draw):
        return noise(14 + index, 20), index


@pytest.mark.parametrize("kind", ["resized-crop", "crop"])
def test_a_image_is_varied_alike_whoever_reads_it_and_after_whatever(kind):
    preprocessing = preprocessing_of(kind, Augmentation(AUTO_AUGMENTS[0], erasing=0.5))

    def read(numbers, workers, **options):
        plan = [[SampleSpec(number, copy) for copy in range(2)] for number in numbers]
        batches = list(load_plan(Images(), preprocessing, plan, LoadOptions(workers=workers, **options)))
        return {number: batch.images for number, batch in zip(numbers, batches)}

    alone = read(range(6), 0)
    for numbers, workers in (([5, 1, 3, 0], 0), ([2, 4, 0], 2), (range(6), 1)):
        seed_all(workers)
        for number, images in read(numbers, workers).items():
            assert torch.equal(images, alone[number])
    other = read(range(6), 0, epoch=1)
    assert not any(torch.equal(other[number], alone[number]) for number in range(6))
    assert not any(torch.equal(*images) for images in alone.values())


@pytest.mark.parametrize(
    "words",
    ["foo", "rand9", "rand-x9", "rand-foo", "rand-m9-tfoo", "rand-mstd", "original-q1", "rand-n99-tweights", "rand-m9.5", "-"],
)  # fmt: skip
def test_words_that_timm_does_not_know_are_an_error_that_shows_some(words):
    with pytest.raises(ValueError, match=f"such as rand-m9-mstd0.5-inc1, original, augmix-m5-w4-d2; got '{words}'"):
        Augmentation(words)


@pytest.mark.parametrize("options", [{"color_jitter": -0.1}, {"erasing": 1.1}, {"erasing": -0.1}])
def test_shares_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"erasing from 0 to 1; got color_jitter .* and erasing"):
        Augmentation(**options)


@pytest.mark.parametrize("kind", ["resize", "native"])
@pytest.mark.parametrize(
    "augmentation", [Augmentation("original"), Augmentation(color_jitter=0.1), Augmentation(erasing=0.1)]
)
def test_images_to_test_with_are_not_varied(kind, augmentation):
    with pytest.raises(ValueError, match=f"'{kind}' is a test protocol and does not augment; got Augmentation"):
        preprocessing_of(kind, augmentation)


@pytest.mark.parametrize("interpolation", ["lanczos", "box", "nearest"])
def test_every_interpolation_goes_with_auto_augment(interpolation):
    transform = Transform((0.5,) * 3, (0.5,) * 3, interpolation=interpolation)
    preprocessing = find_protocol("resized-crop")(transform, (8, 9), augmentation=Augmentation("rand-m9-n8"))
    for seed in range(10):
        assert preprocessing(noise(), draw(seed)).isfinite().all()
