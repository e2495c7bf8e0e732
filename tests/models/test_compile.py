"""torch.compile makes one graph for all sizes: two at the most, the first size's own and the one for every other."""

from itertools import pairwise

import pytest
import torch

import cpvt
from cpvt.encodings import TABLE
from cpvt.models import linear
from tests.pairs import pairs

SIZES = [
    (2, 32, 32), (3, 24, 40), (2, 33, 50), (4, 48, 24), (5, 16, 16), (2, 64, 96), (3, 17, 29), (7, 40, 40), (2, 45, 20),
    (6, 28, 36), (3, 37, 35), (4, 29, 43), (3, 38, 53), (5, 53, 27), (6, 21, 19), (3, 69, 99), (4, 22, 32), (8, 45, 43),
    (3, 50, 23), (7, 33, 39),
]  # fmt: skip


def compile_and_count(model, dynamic):
    """The compiled model, and a list into which its graphs come."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    return torch.compile(model, backend=count, dynamic=dynamic), graphs


@pytest.mark.parametrize(
    ("encoding", "pool", "dynamic"),
    pairs([*TABLE, "learned+peg", "relative(shared=True)+rope"], ["token", "avg"], [None, True]),
)
def test_twenty_sizes_make_at_most_two_graphs(encoding, pool, dynamic):
    torch.manual_seed(0)
    model = cpvt.create_model("cpvt_micro", encoding=encoding, global_pool=pool, depth=2, num_classes=5).eval()
    compiled, graphs = compile_and_count(model, dynamic)
    with torch.no_grad():
        for batch, height, width in SIZES:
            images = torch.randn(batch, 3, height, width)
            torch.testing.assert_close(compiled(images), model(images))
    assert 1 <= len(graphs) <= 2


@pytest.mark.parametrize("onednn", [True, False])
def test_either_road_of_the_linear_layers_makes_at_most_two_graphs(onednn, monkeypatch):
    monkeypatch.setattr(linear, "ONEDNN_IS_FASTER", onednn)
    test_twenty_sizes_make_at_most_two_graphs("peg", "avg", None)


SINGLY = [(2, 32, 40), (2, 48, 40), (2, 48, 64), (3, 32, 32), (4, 64, 36), (3, 32, 40)]  # one side after the other
AS_CHANNELS = [(3, 32, 40), (3, 48, 40), (3, 48, 64), (2, 32, 32), (4, 32, 32), (5, 64, 64)]  # as many as channels


@pytest.mark.parametrize("sizes", [SINGLY, AS_CHANNELS], ids=["singly", "as many images as channels"])
@pytest.mark.parametrize(("dynamic", "marked", "most"), [(None, False, 4), (True, False, 2), (None, True, 1)])
def test_sides_that_change_one_by_one_make_as_many_graphs_as_the_guide_says(sizes, dynamic, marked, most):
    model = cpvt.create_model("cpvt_micro", depth=2, num_classes=5).eval()
    compiled, graphs = compile_and_count(model, dynamic)
    with torch.no_grad():
        for batch, height, width in sizes:
            images = torch.randn(batch, 3, height, width)
            for axis in (0, 2, 3) if marked else ():
                torch._dynamo.maybe_mark_dynamic(images, axis)
            torch.testing.assert_close(compiled(images), model(images))
    assert 1 <= len(graphs) <= most


def test_ones_cost_graphs_of_their_own_once():
    # torch takes a size of 1 for a constant: a single image, a single row or column of patches
    model = cpvt.create_model("cpvt_micro", depth=2, num_classes=5).eval()
    compiled, graphs = compile_and_count(model, dynamic=True)
    single, row, column = [(1, 32, 32), (1, 24, 40)], [(2, 4, 20), (3, 4, 44)], [(2, 20, 4), (5, 36, 4)]
    made = []
    with torch.no_grad():
        for sizes in (SIZES, single, row, column):
            for batch, height, width in sizes:
                images = torch.randn(batch, 3, height, width)
                torch.testing.assert_close(compiled(images), model(images))
            made.append(len(graphs))
    assert made[0] <= 2
    assert [after - before for before, after in pairwise(made)] == [1, 1, 1]
