"""Linear layers are what nn.Linear is, on whatever road they are computed."""

import pytest
import torch

from cpvt.models import linear


@pytest.fixture
def roads(monkeypatch):
    """Notes which road is taken, as on a processor where oneDNN is faster."""
    taken = []
    monkeypatch.setattr(linear, "ONEDNN_IS_FASTER", True)
    convolve, multiply = linear.F.conv2d, torch.nn.Linear.forward
    monkeypatch.setattr(
        linear.F, "conv2d", lambda *given, **options: taken.append("convolved") or convolve(*given, **options)
    )
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda *given: taken.append("multiplied") or multiply(*given))
    return taken


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 150, 64), (1, 500, 64), (700, 1, 64), (1, 1031, 64)])
def test_outputs_and_gradients_are_those_of_a_plain_product(roads, shape, bias):
    torch.manual_seed(0)
    layer, x = linear.Linear(64, 48, bias=bias), torch.randn(shape, requires_grad=True)
    inputs, seed = [x, *layer.parameters()], torch.randn(*shape[:2], 48)
    expected = torch.nn.functional.linear(x, layer.weight, layer.bias)
    out = layer(x)
    assert roads == ["convolved"]
    assert out.is_contiguous()
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)
    for found, truth in zip(torch.autograd.grad(out, inputs, seed), torch.autograd.grad(expected, inputs, seed)):
        torch.testing.assert_close(found, truth, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN here")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(2, 30, 64), (15, 9, 64), (16, 9, 64), (1, 500, 64)])
def test_what_convolves_is_onednn_with_any_number_of_threads_and_images(roads, shape, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            linear.Linear(64, 48)(torch.randn(shape))
    finally:
        torch.set_num_threads(before)
    assert "aten::mkldnn_convolution" in {event.key for event in profile.key_averages()}


def test_a_slice_of_tokens_is_taken_as_it_is(roads):
    layer, x = linear.Linear(64, 48), torch.randn(3, 200, 64)[:, 1:190]
    torch.testing.assert_close(
        layer(x), layer.weight.new_tensor((x @ layer.weight.T + layer.bias).tolist()), atol=1e-5, rtol=1e-4
    )
    assert roads == ["convolved"]


def test_nothing_in_gives_nothing_out(roads):
    assert linear.Linear(64, 48)(torch.zeros(2, 0, 64)).shape == (2, 0, 48)
    assert linear.Linear(64, 48)(torch.zeros(0, 7, 64)).shape == (0, 7, 48)


def test_gradients_of_gradients_are_those_of_a_plain_product(roads):
    torch.manual_seed(0)
    layer, x = linear.Linear(8, 6), torch.randn(2, 30, 8, requires_grad=True)
    found = []
    for form in (layer, lambda x: torch.nn.functional.linear(x, layer.weight, layer.bias)):
        (first,) = torch.autograd.grad(form(x).sigmoid().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, layer.weight]))
    assert roads == ["convolved"]
    for ours, truth in zip(*found):
        torch.testing.assert_close(ours, truth, atol=1e-5, rtol=1e-4)


def test_everywhere_else_it_is_a_plain_product(roads, monkeypatch):
    layer = linear.Linear(64, 48)
    layer(torch.randn(500, 64))  # a head
    layer(torch.randn(1, 20, 64))  # small
    layer.double()(torch.randn(2, 500, 64, dtype=torch.float64))
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(2, 500, 64))
    with linear.plain_linear():
        layer(torch.randn(2, 500, 64))
    linear.plain_linear()(layer)(torch.randn(2, 500, 64))
    assert roads == ["multiplied"] * 6
    layer(torch.randn(2, 500, 64))
    assert roads.pop() == "convolved"
    monkeypatch.setattr(linear, "ONEDNN_IS_FASTER", False)
    layer(torch.randn(2, 500, 64))
    assert roads == ["multiplied"] * 7


def test_exported_programs_hold_a_plain_product(roads):
    program = torch.export.export(linear.Linear(64, 48), (torch.randn(2, 500, 64),))
    assert "convolved" not in roads
    assert not any("conv" in str(node.target) for node in program.graph.nodes)
