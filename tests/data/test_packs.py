"""Lists of images at their own sizes, within a token budget."""

import numpy as np
import pytest
import torch
from PIL import Image

from cpvt.data import BadImageError, LoadOptions, Transform, load_packs
from cpvt.data.protocols import find_protocol
from cpvt.grids import within_budget

TRANSFORM = Transform((0.5,) * 3, (0.25,) * 3)
SIZES = [
    (12, 20),
    (8, 8),
    (40, 9),
    (5, 30),
    (16, 16),
    (9, 9),
]  # height, width; with patch 4: 15, 4, 30, 16, 16, 9 patches


class Noise:
    """Images of several sizes; those in `bad` do not decode."""

    def __init__(self, sizes=SIZES, bad=()):
        self.sizes, self.bad = sizes, bad

    def __len__(self):
        return len(self.sizes)

    def read(self, index, rng):
        if index in self.bad:
            raise BadImageError(f"image {index} does not decode")
        height, width = self.sizes[index]
        values = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(values), index


def native(longest_side):
    return find_protocol("native")(TRANSFORM, (longest_side, longest_side))


@pytest.mark.parametrize("workers", [0, 2])
def test_lists_hold_what_fits_the_budget_in_order(workers):
    packs = list(load_packs(Noise(), native(100), 4, 35, LoadOptions(workers=workers)))
    assert [pack.labels.tolist() for pack in packs] == [[0, 1], [2], [3, 4], [5]]
    for pack in packs:
        for image, label in zip(pack.images, pack.labels.tolist()):
            whole, _ = Noise().read(label, None)
            torch.testing.assert_close(image, TRANSFORM.whole(whole))  # its own size, not a pixel changed
    assert [pack.labels.tolist() for pack in load_packs(Noise(), native(100), 4, 35, order=[5, 2, 0])] == [
        [5],
        [2],
        [0],
    ]


def test_an_image_above_the_budget_gets_its_own_list():
    assert [len(pack.images) for pack in load_packs(Noise(), native(100), 4, 1)] == [1] * 6


def test_a_longest_side_shrinks_in_proportion_and_counts():
    (pack,) = load_packs(Noise(), native(20), 4, 1000, LoadOptions(on_bad_image="skip"))
    assert [tuple(image.shape[1:]) for image in pack.images] == [(12, 20), (8, 8), (20, 4), (16, 16), (9, 9)]
    assert pack.shrunk == 1  # 5x30 becomes 3x20, below a patch
    assert pack.skipped == [
        "image number 3 has 3x20 pixels, and the model takes 4x4 or more; allow a longer side, or remove the file"
    ]
    assert pack.padding_fraction == 0


def test_images_that_do_not_decode_are_an_error_or_left_out():
    with pytest.raises(BadImageError, match="image 2 does not decode"):
        list(load_packs(Noise(bad=[2]), native(100), 4, 35))
    packs = list(load_packs(Noise(bad=[0, 5]), native(100), 4, 35, LoadOptions(on_bad_image="skip")))
    assert [pack.labels.tolist() for pack in packs] == [[1, 2], [3, 4]]
    assert [len(pack.skipped) for pack in packs] == [1, 1]


def test_invalid_options():
    with pytest.raises(ValueError, match="1 or more; got 0"):
        next(load_packs(Noise(), native(100), 4, 0))
    with pytest.raises(ValueError, match="'error' or 'skip'; got 'ignore'"):
        next(load_packs(Noise(), native(100), 4, options=LoadOptions(on_bad_image="ignore")))


def test_a_stream_is_cut_where_the_budget_ends():
    cut = lambda items, budget: list(within_budget(items, int, budget))  # noqa: E731
    assert cut([1, 2, 3, 9, 1, 0, 4], 5) == [[1, 2], [3], [9], [1, 0, 4]]
    assert cut([], 5) == []
    assert cut([0, 0], 1) == [[0, 0]]
