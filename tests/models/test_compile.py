"""torch.compile makes one graph for all sizes: two at the most, the first size's own and the one for every other."""

from itertools import pairwise

import pytest
import torch

import cpvt
from cpvt.encodings import TABLE
from cpvt.models import fastest, linear
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


@pytest.mark.parametrize("way", ["onednn", "torch", ""])
def test_either_road_of_the_linear_layers_makes_at_most_two_graphs(way, monkeypatch, nothing_chosen):
    monkeypatch.setenv("CPVT_LINEAR", way)
    test_twenty_sizes_make_at_most_two_graphs("peg", "avg", None)


@pytest.mark.parametrize("way", ["onednn", "torch"])
def test_a_compiled_graph_holds_the_product_that_eager_calls(way, monkeypatch):
    monkeypatch.setenv("CPVT_LINEAR", way)
    monkeypatch.setattr(linear, "_plain", False)
    model = cpvt.create_model("cpvt_micro", depth=2, num_classes=5).eval()
    model.scale = "paper"  # given a scale, graphs sum in another order
    compiled, graphs = compile_and_count(model, dynamic=True)
    with torch.inference_mode():
        for batch, height, width in SIZES[:3]:
            images = torch.randn(batch, 3, height, width)
            torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)
    found = [str(node.target) for node in graphs[-1].graph.nodes]
    assert sum("cpvt.linear" in target for target in found) == (2 * 4 if way == "onednn" else 0)
    assert sum("conv2d" in target for target in found) == 2  # of the patches, and PEG


@pytest.mark.parametrize("way", ["onednn", "torch", "torch when it runs"])
@pytest.mark.parametrize("shape", [(3, 3, 24, 40), (1, 3, 164, 132)])  # the second has 1,353 tokens, a long row
def test_compiled_training_calls_the_products_of_eager_training(way, shape, monkeypatch):
    monkeypatch.setenv("CPVT_LINEAR", "torch" if way == "torch" else "onednn")
    if way == "torch when it runs":
        monkeypatch.setattr(linear, "_is_chosen", lambda *arguments: False)
    monkeypatch.setattr(linear, "_plain", False)
    torch.manual_seed(0)
    model = cpvt.create_model("cpvt_micro", depth=2, num_classes=5, qkv_bias=False)
    compiled, images = torch.compile(model, backend="aot_eager"), torch.randn(shape)
    names = [name for name, _ in model.named_parameters()]
    found = [torch.autograd.grad(each(images).square().sum(), list(model.parameters())) for each in (compiled, model)]
    for got, expected in zip(*found):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    frozen = model.blocks[1].mlp.fc1.requires_grad_(False)
    compiled(images).square().sum().backward()
    torch.testing.assert_close(model.blocks[0].mlp.fc1.weight.grad, found[1][names.index("blocks.0.mlp.fc1.weight")],
                               atol=1e-4, rtol=1e-4)  # fmt: skip
    assert frozen.weight.grad is None
    graph, graphs = compile_and_count(model, dynamic=True)
    graph(images)
    targets = [str(node.target) for node in graphs[-1].graph.nodes]
    assert sum("cpvt.linear" in target for target in targets) == (0 if way == "torch" else 2 * 4)


def test_what_is_not_chosen_yet_is_measured_in_compiled_training(monkeypatch, nothing_chosen):
    monkeypatch.delenv("CPVT_LINEAR")
    monkeypatch.setattr(linear, "_plain", False)
    monkeypatch.setattr(linear, "_convolves_in_a_graph", torch.compiler.assume_constant_result(lambda *widths: True))
    torch._dynamo.reset()
    model = cpvt.create_model("cpvt_micro", depth=1, num_classes=5)
    torch.compile(model, backend="aot_eager")(torch.randn(3, 3, 24, 40)).sum().backward()
    assert all(each.grad is not None for each in model.parameters())
    assert {choice[-3] for choice in fastest.choices() if choice[0] == "linear"} == {False}  # of inference


def small_model():
    torch.manual_seed(0)
    model = cpvt.create_model("cpvt_micro", encoding="rope+peg", img_size=24, depth=2, num_classes=5).eval()
    for parameter in (*model.encoding.parameters(), *model.head.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("rule", ["paper", "pixels", "fit", "fit*0.9", 2.0, (1.0, 1.5)])
def test_every_rule_for_the_scale_makes_at_most_two_graphs(rule, dynamic, monkeypatch):
    monkeypatch.setenv("CPVT_LINEAR", "torch")  # the other one is a convolution, too
    model = small_model()
    model.scale = rule
    compiled, graphs = compile_and_count(model, dynamic)
    with torch.no_grad():
        for batch, height, width in SIZES[:6]:
            images = torch.randn(batch, 3, height, width)
            torch.testing.assert_close(compiled(images), model(images), atol=1e-4, rtol=1e-4)
    assert 1 <= len(graphs) <= 2
    convolutions = sum("conv2d" in str(node.target) for node in graphs[-1].graph.nodes)
    assert convolutions == (2 if rule in ("paper", "pixels") else 1)  # of the patches, and a PEG that is without scale


NUMBERS = [1.0, 1.5, 2.0, 2.7, 3.0, 1.25]
PAIRS = [(1.0, 1.5), (1.5, 1.0), (2.0, 1.25), (2.7, 3.0), (1.2, 2.2), (3.0, 1.0)]


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("scales", [NUMBERS, PAIRS], ids=["numbers", "pairs"])
def test_a_scale_of_any_value_in_each_call_makes_at_most_two_graphs(scales, dynamic):
    model = small_model()
    compiled, graphs = compile_and_count(model, dynamic)
    with torch.no_grad():
        for (batch, height, width), scale in zip(SIZES, scales):
            images = torch.randn(batch, 3, height, width)
            torch.testing.assert_close(compiled(images, scale), model(images, scale), atol=1e-4, rtol=1e-4)
    assert 1 <= len(graphs) <= 2


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
