"""Plans: batches as specified; each image depends on (seed, epoch, number, copy) alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from cpvt.data import BadImageError, LoadOptions, SampleSpec, Transform, load_batches, load_plan
from cpvt.data.protocols import find_protocol

TRANSFORM = Transform((0.5,) * 3, (0.25,) * 3)
SIZES = [(12, 20), (8, 8), (30, 9), (5, 30), (16, 16), (9, 9)]  # height, width
workers_too = pytest.mark.parametrize("workers", [0, 2])


class Noise:
    """Images of several sizes; the sixth does not decode."""

    def __len__(self):
        return len(SIZES)

    def read(self, index, rng):
        if index == 5:
            raise BadImageError("image 5 does not decode")
        values = np.random.default_rng(index).integers(0, 256, (*SIZES[index], 3), dtype=np.uint8)
        return Image.fromarray(values), index


def preprocessing(kind="crop", sides=(6, 7)):
    return find_protocol(kind)(TRANSFORM, sides)


def load(plan, kind="crop", **options):
    return list(load_plan(Noise(), preprocessing(kind), plan, LoadOptions(**options)))


def one(spec, **options):
    (batch,) = load([[spec]], **options)
    return batch.images[0]


@workers_too
def test_each_element_gives_a_batch_in_order_and_an_empty_one_an_empty_batch(workers):
    plan = [[SampleSpec(3), SampleSpec(0)], [], [SampleSpec(4)], [SampleSpec(0), SampleSpec(1), SampleSpec(2)]]
    batches = load(iter(plan), workers=workers)
    assert [batch.labels.tolist() for batch in batches] == [[3, 0], [], [4], [0, 1, 2]]
    assert [len(batch.images) for batch in batches] == [2, 0, 1, 3]
    assert torch.equal(batches[0].images[1], batches[3].images[0])
    assert torch.equal(batches[0].images[1], one(SampleSpec(0)))


@workers_too
def test_copies_of_an_image_differ_and_the_first_is_that_of_load_batches(workers):
    (batch,) = load([[SampleSpec(0, copy) for copy in range(8)]], workers=workers, seed=3, epoch=2)
    (plain,) = load_batches(Noise(), preprocessing(), 1, LoadOptions(seed=3, epoch=2), order=[0])
    assert torch.equal(batch.images[0], plain.images[0])
    assert len({image.numpy().tobytes() for image in batch.images}) > 5  # of 7 x 14 places, mirrored or not
    for copy, image in enumerate(batch.images):
        assert torch.equal(one(SampleSpec(0, copy), seed=3, epoch=2), image)


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
@pytest.mark.parametrize("copy", [0, 1])
def test_seed_and_epoch_change_every_copy(change, copy):
    plan = [[SampleSpec(number, copy) for number in range(5)]]
    assert not torch.equal(load(plan)[0].images, load(plan, **change)[0].images)


def test_the_address_of_a_first_copy_is_that_of_published_results():
    expected = np.random.default_rng((7, 3, 11)).random(4)
    assert np.array_equal(SampleSpec(11).generator(7, 3).random(4), expected)
    assert not np.array_equal(SampleSpec(11, 1).generator(7, 3).random(4), expected)


@workers_too
@pytest.mark.parametrize("kind", ["crop", "resized-crop", "resize", "canvas"])
def test_sides_of_a_sample_replace_those_of_the_protocol(kind, workers):
    plan = [[SampleSpec(0, 0, (4, 10)), SampleSpec(1, 0, (4, 10))], [SampleSpec(0)]]
    large, own = load(plan, kind, workers=workers)
    assert large.images.shape == (2, 3, 4, 10)
    assert own.images.shape == (1, 3, 6, 7)
    direct = find_protocol(kind)(TRANSFORM, (4, 10))(Noise().read(0, None)[0], SampleSpec(0).generator(0, 0))
    assert torch.equal(large.images[0], direct)


def test_sides_of_a_sample_count_in_the_padding_fraction():
    (batch,) = load([[SampleSpec(1, 0, (8, 16)), SampleSpec(1)]], stack=False)  # 8 x 8 covers half, and all
    assert batch.padding_fraction == pytest.approx((1 / 2 + 0) / 2)


@workers_too
def test_without_stacking_each_image_keeps_its_size(workers):
    plan = [[SampleSpec(0), SampleSpec(2, 0, (10, 10))], [SampleSpec(4)]]
    first, second = load_plan(
        Noise(), preprocessing("native", (99, 99)), plan, LoadOptions(stack=False, workers=workers)
    )
    assert [tuple(image.shape) for image in first.images] == [(3, 12, 20), (3, 10, 3)]
    assert first.shrunk == 1
    assert torch.equal(first.images[0], TRANSFORM.whole(Noise().read(0, None)[0]))
    assert torch.equal(second.images[0], TRANSFORM.whole(Noise().read(4, None)[0]))


@pytest.mark.parametrize("sizes", [((4, 10), (10, 4)), ((4, 4), (5, 5))])
def test_images_of_several_sizes_do_not_stack(sizes):
    with pytest.raises(ValueError, match="several sizes do not stack; pass stack=False"):
        load([[SampleSpec(0, 0, side) for side in sizes]])


def test_native_images_to_train_on_are_whole_and_half_of_them_mirrored():
    mirrored = 0
    for copy in range(60):
        image = one(SampleSpec(3, copy), kind="native-mirrored", stack=False)
        whole = find_protocol("native")(TRANSFORM, (6, 7))(Noise().read(3, None)[0], np.random.default_rng(0))
        assert torch.equal(image, whole) or torch.equal(image, whole.flip(2))
        mirrored += not torch.equal(image, whole)
    assert 15 <= mirrored <= 45


@pytest.mark.parametrize(("kind", "stacks"), [("native", False), ("native-mirrored", False), ("crop", True)])
def test_a_protocol_says_whether_its_images_stack(kind, stacks):
    assert preprocessing(kind).stacks == stacks


@workers_too
def test_images_that_are_bad_or_too_small_are_an_error_or_left_out(workers):
    with pytest.raises(BadImageError, match="^image 5 does not decode"):
        load([[SampleSpec(0)], [SampleSpec(5)]], workers=workers)
    with pytest.raises(BadImageError, match="^image number 1 has 6x7 pixels, and the model takes 7x7"):
        load([[SampleSpec(1)]], workers=workers, smallest_side=7)
    with pytest.raises(BadImageError, match="^image 5 does not decode, or pass --on-bad-image skip .on_bad"):
        load([[SampleSpec(5)]], workers=workers)
    (batch,) = load([[SampleSpec(5), SampleSpec(0)]], workers=workers, on_bad_image="skip")
    assert (batch.labels.tolist(), batch.skipped) == ([0], ["image 5 does not decode"])


class Unlabelled(Noise):
    """The same images, of which all but number 1 have no class."""

    def read(self, index, rng):
        return super().read(index, rng)[0], {0: None, 1: 1}.get(index, -1)

    def name(self, index):
        return f"{index}.png"


@workers_too
def test_an_image_without_a_class_is_bad_where_classes_are_needed(workers):
    plan, crop = [[SampleSpec(1), SampleSpec(0), SampleSpec(2)]], preprocessing()
    for number in (0, 2):
        with pytest.raises(BadImageError, match=f"^image '{number}.png' has no class; choose a set"):
            list(load_plan(Unlabelled(), crop, [[SampleSpec(number)]], LoadOptions(workers=workers)))
    (batch,) = load_plan(Unlabelled(), crop, plan, LoadOptions(workers=workers, on_bad_image="skip"))
    assert (batch.labels.tolist(), len(batch.skipped)) == ([1], 2)
    (batch,) = load_plan(Unlabelled(), crop, plan, LoadOptions(workers=workers, labelled=False))
    assert (batch.labels.tolist(), batch.skipped) == ([1, -1, -1], [])


@workers_too
@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_an_image_of_a_class_that_the_set_does_not_name_is_an_error(workers, on_bad_image):
    plan, options = [[SampleSpec(0), SampleSpec(1), SampleSpec(2)]], {"workers": workers, "on_bad_image": on_bad_image}
    with pytest.raises(ValueError, match="^image number 2 has class number 2, but the data set names 2 classes"):
        load(plan, classes=2, **options)
    assert load(plan, classes=3, **options)[0].labels.tolist() == [0, 1, 2]


@workers_too
def test_loading_does_not_touch_the_global_generator(workers):
    before = torch.get_rng_state()
    load([[SampleSpec(0)], [SampleSpec(1)]], workers=workers)
    assert torch.equal(torch.get_rng_state(), before)
