"""LookHere against a slow version."""

import math

import pytest
import torch

import cpvt
from cpvt.encodings import create_encoding
from tests.encodings.slow import GRIDS, SHAPE, tokens

TWELVE = SHAPE._replace(dim=48, num_heads=12, depth=3)
AXES, DIAGONALS = [(0, 1), (1, 0), (0, -1), (-1, 0)], [(1, 1), (1, -1), (-1, -1), (-1, 1)]  # (rows, columns)
BETWEEN = [
    (math.sin(math.radians(a)), math.cos(math.radians(a)))
    for a in (22.5, 112.5, 202.5, 292.5, 67.5, 157.5, 247.5, 337.5)
]
FIELDS = {  # field of view -> the middle of the field, half of its angle in degrees, of each of eight heads
    180: [(direction, 90) for direction in AXES + AXES],
    90: [(direction, 45) for direction in AXES + DIAGONALS],
    45: [(direction, 22.5) for direction in BETWEEN],
}
SLOPES = [1 / 2] * 4 + [1 / 4] * 4 + [1 / 4, 1 / 16, 1 / 64, 1 / 256]


def angle_between(first, second):
    """In degrees, from 0 to 180."""
    cosine = (first[0] * second[0] + first[1] * second[1]) / math.hypot(*first) / math.hypot(*second)
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


@pytest.mark.parametrize("scale", [None, (1.5, 2.0)])
@pytest.mark.parametrize(("view", "grid"), [(view, grid) for view in FIELDS for grid in GRIDS[:5]])
def test_heads_look_one_way_and_less_the_further(view, grid, scale):
    encoding = create_encoding(f"lookhere(view={view}, use_scale=True)", TWELVE)
    along_rows, along_columns = scale or (1, 1)
    for depth, layer_slope in ((1, 1.5), (2, 1.0), (3, 0.5)):
        bias = encoding.bias(grid, depth, scale)
        for query, row, column in tokens(grid):
            for key, other_row, other_column in tokens(grid):
                rows, columns = other_row - row, other_column - column
                distance = math.hypot(rows / along_rows, columns / along_columns)
                for head, slope in enumerate(SLOPES):
                    seen = head >= 8 or query == key
                    if not seen:
                        direction, half = FIELDS[view][head]
                        seen = angle_between((rows, columns), direction) <= half + 1e-4
                    expected = -slope * layer_slope * distance if seen else -math.inf
                    assert bias[head, query, key] == pytest.approx(expected, abs=1e-5), (head, rows, columns)


@pytest.mark.parametrize(("heads", "directed"), [(1, 0), (2, 2), (3, 2), (4, 4), (6, 4), (8, 4), (12, 8), (16, 8)])
def test_how_many_heads_are_directed(heads, directed):
    bias = create_encoding("lookhere", SHAPE._replace(dim=16 * heads, num_heads=heads)).bias((3, 5), 1)
    assert sum(bool(head.isinf().any()) for head in bias) == directed


def test_a_model_without_class_token_stays_finite():
    model = cpvt.create_model("cpvt_micro", encoding="lookhere(view=45)", global_pool="avg", num_classes=3)
    images = torch.randn(1, 3, 4, 40, requires_grad=True)  # one row: heads that look up see the token alone
    logits = model(images)
    logits.sum().backward()
    assert logits.isfinite().all()
    assert images.grad.isfinite().all()


def test_views_are_listed():
    with pytest.raises(ValueError, match="one of 180, 90, 45; got 60"):
        create_encoding("lookhere(view=60)", SHAPE)
