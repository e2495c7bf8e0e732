"""Augmentation: timm's transforms, seeded by each image's own generator and nothing else."""

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
EVERY = [Augmentation(auto_augment=name) for name in (*AUTO_AUGMENTS, "rand-m5-n3-tweights", "3a")]
EVERY += [Augmentation(color_jitter=0.4), Augmentation(erasing=1.0), Augmentation(AUTO_AUGMENTS[0], 0.4, 0.5)]
KINDS = ("resized-crop", "crop", "canvas", "native-mirrored")
every_augmentation = pytest.mark.parametrize("augmentation", EVERY, ids=str)
every_kind = pytest.mark.parametrize("kind", KINDS)


def noise(height=18, width=20, mode="RGB"):
    values = np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def rng(seed=0):
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
        ours = find_protocol("resized-crop")(transform, (10, 12), (0.2, 0.9))(noise(mode=mode), rng(seed))
        seed_all(int(rng(seed).integers(2**31)))
        assert torch.equal(ours, timm(noise(mode=mode)))


@pytest.mark.parametrize("name", AUTO_AUGMENTS[:1])
def test_colours_change_as_in_timm(name):
    from timm.data.auto_augment import rand_augment_transform

    transform = TRANSFORMS["RGB"]
    options = {"translate_const": int(10 * 0.45), "img_mean": tuple(round(255 * value) for value in transform.mean)}
    timm = rand_augment_transform(name, {**options, "interpolation": Image.Resampling.BICUBIC})
    changed = 0
    for seed in range(20):
        ours = Augmentation(name).apply(noise(), (10, 12), "bicubic", transform.mean, rng(seed))
        seed_all(int(rng(seed).integers(2**31)))
        assert np.array_equal(ours, timm(noise()))
        changed += not np.array_equal(ours, noise())
    assert changed > 8


@every_augmentation
@every_kind
@pytest.mark.parametrize("mode", TRANSFORMS)
def test_what_is_seen_follows_from_the_generator_alone(augmentation, kind, mode):
    preprocessing, image = preprocessing_of(kind, augmentation, mode), noise(mode=mode)
    seen = [preprocessing(image, rng(seed)) for seed in range(12)]
    seed_all(1)
    assert all(torch.equal(preprocessing(image, rng(seed)), seen[seed]) for seed in reversed(range(12)))
    assert not all(torch.equal(seen[0], other) for other in seen[1:])
    assert all(each.isfinite().all() and len(each) == len(TRANSFORMS[mode].mean) for each in seen)


@every_augmentation
@every_kind
def test_augmentation_changes_neither_the_shape_nor_the_image_read(augmentation, kind):
    preprocessing, plain, image = preprocessing_of(kind, augmentation), preprocessing_of(kind, Augmentation()), noise()
    pairs = [(preprocessing(image, rng(seed)), plain(noise(), rng(seed))) for seed in range(12)]
    assert all(augmented.shape == whole.shape for augmented, whole in pairs)
    assert not all(torch.equal(augmented, whole) for augmented, whole in pairs)
    assert np.array_equal(image, noise())


@every_augmentation
@every_kind
def test_no_augmentation_touches_the_global_generators(augmentation, kind):
    def states():
        name, key, *rest = np.random.get_state()  # noqa: NPY002
        return random.getstate(), (name, key.tolist(), *rest), torch.get_rng_state().tolist()

    seed_all(2)
    before = states()
    preprocessing_of(kind, augmentation)(noise(), rng())
    assert states() == before


@every_kind
def test_erasing_puts_noise_in_a_rectangle_in_its_fraction_of_the_images(kind):
    preprocessing, plain = preprocessing_of(kind, Augmentation(erasing=0.25)), preprocessing_of(kind, Augmentation())
    erased = 0
    for seed in range(200):
        different = (preprocessing(noise(), rng(seed)) != plain(noise(), rng(seed))).any(0)
        if different.any():
            erased += 1
            rows, columns = different.any(1).nonzero(), different.any(0).nonzero()
            assert different[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert different.float().mean() < 0.5
    assert 25 <= erased <= 75


@every_kind
def test_erased_parts_differ_from_pixel_to_pixel(kind):
    preprocessing, plain = preprocessing_of(kind, Augmentation(erasing=1.0)), preprocessing_of(kind, Augmentation())
    tensor = preprocessing(noise(), rng())
    erased = tensor[tensor != plain(noise(), rng())]
    assert len(erased) > 3
    assert len(erased.unique()) == len(erased)


def test_auto_augment_overrides_colour_jitter():
    both, one = (preprocessing_of("resized-crop", Augmentation(AUTO_AUGMENTS[0], jitter)) for jitter in (0.8, 0.0))
    for seed in range(20):
        assert torch.equal(both(noise(), rng(seed)), one(noise(), rng(seed)))


@every_kind
def test_colour_jitter_leaves_shapes_and_padding_alone(kind):
    grey = Image.new("RGB", (6, 6), (100, 100, 100))
    tensor = preprocessing_of(kind, Augmentation(color_jitter=0.8))(grey, rng(1))
    plain = preprocessing_of(kind, Augmentation())(grey, rng(1))
    assert torch.equal(tensor == 0, plain == 0)
    assert not torch.equal(tensor, plain)
    seen = tensor[0][tensor[0] != 0]
    assert (seen == seen[0]).all()


@pytest.mark.parametrize("mode", TRANSFORMS)
@pytest.mark.parametrize("name", ["rand-m10-n6-inc1", "rand-m30-n6-mmax30-inc1", "augmix-m10-d6-mstd0"])
def test_the_strongest_augmentations_work(name, mode):
    # some posterise to 0 bits, which Pillow 13 rejects
    images = [
        Augmentation(name).apply(noise(mode=mode), (10, 12), "bicubic", TRANSFORMS[mode].mean, rng(n))
        for n in range(60)
    ]
    assert len({image.tobytes() for image in images}) > 30


class Images:
    def __len__(self):
        return 6

    def read(self, index, rng):
        return noise(14 + index, 20), index


@pytest.mark.parametrize("kind", ["resized-crop", "crop"])
def test_an_image_is_augmented_alike_in_any_worker_and_order(kind):
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
    "name",
    [
        "foo", "rand9", "rand-x9", "rand-foo", "rand-m9-tfoo", "rand-mstd", "original-q1", "rand-n99-tweights",
        "rand-m9.5", "-",
    ],
)  # fmt: skip
def test_an_unknown_auto_augment_is_an_error_that_shows_examples(name):
    with pytest.raises(ValueError, match=f"such as rand-m9-mstd0.5-inc1, original, augmix-m5-w4-d2; got '{name}'"):
        Augmentation(name)


@pytest.mark.parametrize("options", [{"color_jitter": -0.1}, {"erasing": 1.1}, {"erasing": -0.1}])
def test_fractions_out_of_range(options):
    with pytest.raises(ValueError, match=r"erasing from 0 to 1; got color_jitter .* and erasing"):
        Augmentation(**options)


@pytest.mark.parametrize("kind", ["resize", "native"])
@pytest.mark.parametrize(
    "augmentation", [Augmentation("original"), Augmentation(color_jitter=0.1), Augmentation(erasing=0.1)]
)
def test_test_protocols_do_not_augment(kind, augmentation):
    with pytest.raises(ValueError, match=f"'{kind}' is a test protocol and does not augment; got Augmentation"):
        preprocessing_of(kind, augmentation)


@pytest.mark.parametrize("interpolation", ["lanczos", "box", "nearest"])
def test_every_interpolation_works_with_auto_augment(interpolation):
    transform = Transform((0.5,) * 3, (0.5,) * 3, interpolation=interpolation)
    preprocessing = find_protocol("resized-crop")(transform, (8, 9), augmentation=Augmentation("rand-m9-n8"))
    for seed in range(10):
        assert preprocessing(noise(), rng(seed)).isfinite().all()


def mirrored_images(kind, hflip, count=80):
    """How many of some images that get brighter to the right are shown with their bright side left."""
    ramp = Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 6, (36, 1))).convert("RGB")
    preprocessing = find_protocol(kind)(TRANSFORMS["RGB"], (10, 12), hflip=hflip)
    shown = [preprocessing(ramp, rng(seed))[0, 5] for seed in range(count)]
    return sum(bool(row[0] > row[-1]) for row in shown)


@pytest.mark.parametrize("kind", ["resized-crop", "crop", "native-mirrored"])
def test_images_are_mirrored_with_the_probability_of_hflip(kind):
    assert (mirrored_images(kind, 0.0), mirrored_images(kind, 1.0)) == (0, 80)
    assert 8 <= mirrored_images(kind, 0.25) <= 32
    never, always = (find_protocol(kind)(TRANSFORMS["RGB"], (10, 12), hflip=hflip) for hflip in (0.0, 1.0))
    for seed in range(10):  # everything else is drawn alike
        assert torch.equal(always(noise(), rng(seed)), never(noise(), rng(seed)).flip(2))


def test_the_augmentation_none_never_mirrors():
    assert mirrored_images("canvas", 1.0) == 0
