"""Linear layers are what nn.Linear is, on whatever road they are computed."""

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import create_feature_extractor
from torch.nn.utils import prune

import cpvt
from cpvt.models import linear


@pytest.fixture
def roads(monkeypatch):
    """Notes which road is taken, as on a processor where oneDNN is faster."""
    taken = []
    monkeypatch.setenv("CPVT_LINEAR", "onednn")
    monkeypatch.setattr(linear, "_plain", False)
    convolve, multiply = linear.F.conv2d, torch.nn.Linear.forward
    monkeypatch.setattr(
        linear.F, "conv2d", lambda *given, **options: taken.append("convolved") or convolve(*given, **options)
    )
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda *given: taken.append("multiplied") or multiply(*given))
    return taken


class Applied(torch.nn.Module):
    """A linear layer that is computed as those of our models are."""

    def __init__(self, *sizes, **options):
        super().__init__()
        self.layer = torch.nn.Linear(*sizes, **options)
        self.weight, self.bias = self.layer.weight, self.layer.bias

    def forward(self, x):
        return linear.apply_linear(self.layer, x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 150, 64), (1, 500, 64), (700, 1, 64), (1, 1031, 64)])
def test_outputs_and_gradients_are_those_of_a_plain_product(roads, shape, bias):
    torch.manual_seed(0)
    layer, x = Applied(64, 48, bias=bias), torch.randn(shape, requires_grad=True)
    inputs, seed = [x, *layer.layer.parameters()], torch.randn(*shape[:2], 48)
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
            Applied(64, 48)(torch.randn(shape))
    finally:
        torch.set_num_threads(before)
    assert "aten::mkldnn_convolution" in {event.key for event in profile.key_averages()}


def test_a_slice_of_tokens_is_taken_as_it_is(roads):
    layer, x = Applied(64, 48), torch.randn(3, 200, 64)[:, 1:190]
    torch.testing.assert_close(
        layer(x), layer.weight.new_tensor((x @ layer.weight.T + layer.bias).tolist()), atol=1e-5, rtol=1e-4
    )
    assert roads == ["convolved"]


def test_nothing_in_gives_nothing_out(roads):
    assert Applied(64, 48)(torch.zeros(2, 0, 64)).shape == (2, 0, 48)
    assert Applied(64, 48)(torch.zeros(0, 7, 64)).shape == (0, 7, 48)


def test_gradients_of_gradients_are_those_of_a_plain_product(roads):
    torch.manual_seed(0)
    layer, x = Applied(8, 6), torch.randn(2, 30, 8, requires_grad=True)
    found = []
    for form in (layer, lambda x: torch.nn.functional.linear(x, layer.weight, layer.bias)):
        (first,) = torch.autograd.grad(form(x).sigmoid().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), [x, layer.weight]))
    assert roads == ["convolved"]
    for ours, truth in zip(*found):
        torch.testing.assert_close(ours, truth, atol=1e-5, rtol=1e-4)


def test_everywhere_else_it_is_a_plain_product(roads, monkeypatch):
    layer = Applied(64, 48)
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
    monkeypatch.setenv("CPVT_LINEAR", "torch")
    layer(torch.randn(2, 500, 64))
    assert roads == ["multiplied"] * 7


def test_exported_programs_hold_a_plain_product(roads):
    program = torch.export.export(Applied(64, 48), (torch.randn(2, 500, 64),))
    assert "convolved" not in roads
    assert not any("conv" in str(node.target) for node in program.graph.nodes)


def test_what_takes_the_place_of_a_layer_is_called(roads):
    layer, x = torch.nn.Linear(64, 48), torch.randn(2, 500, 64)
    linear.apply_linear(layer, x)
    assert roads.pop() == "convolved"
    seen = []
    hook = layer.register_forward_hook(lambda *given: seen.append(given))
    linear.apply_linear(layer, x)
    assert (roads.pop(), len(seen)) == ("multiplied", 1)
    hook.remove()
    everywhere = torch.nn.modules.module.register_module_forward_pre_hook(lambda *given: seen.append(given))
    linear.apply_linear(layer, x)
    everywhere.remove()
    assert (roads.pop(), len(seen)) == ("multiplied", 2)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    assert (linear.apply_linear(layer, x) - F.linear(x, layer.weight, layer.bias)).abs().max() == 0
    assert roads == ["multiplied"]
    assert float((layer.weight == 0).float().mean()) == 0.5
    adapter = torch.nn.Sequential(torch.nn.Linear(64, 2), torch.nn.Linear(2, 48))
    torch.testing.assert_close(linear.apply_linear(adapter, x), adapter(x))


@pytest.mark.filterwarnings("ignore:.*quantiz.*deprecated")
def test_dynamic_quantisation_finds_every_linear_layer_that_timms_models_have(tmp_path):
    torch.manual_seed(0)
    ours = cpvt.create_model("cpvt_tiny", encoding="learned", num_classes=10).eval()
    timms = timm.create_model("deit_tiny_patch16_224", num_classes=10).eval()
    sizes, images = [], torch.randn(2, 3, 96, 128)
    for model in (ours, timms):
        small = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        found = [each for each in small.modules() if isinstance(each, torch.ao.nn.quantized.dynamic.Linear)]
        assert len(found) == 49
        torch.save(small.state_dict(), tmp_path / "weights.pt")
        sizes.append((tmp_path / "weights.pt").stat().st_size)
        if model is ours:
            with torch.no_grad():
                exact, rounded = model(images), small(images)
            assert 0 < (exact - rounded).abs().max() < 0.1 * exact.abs().max()
    assert sizes[0] < 1.05 * sizes[1] < 7e6


def test_a_traced_graph_holds_the_layers_themselves():
    model = timm.create_model("cpvt_micro", depth=2, num_classes=5).eval()
    assert not {type(each) for each in model.modules() if isinstance(each, torch.nn.Linear)} - {torch.nn.Linear}
    extract = create_feature_extractor(model, ["head"])
    images = torch.randn(2, 3, 24, 40)
    with torch.no_grad():
        torch.testing.assert_close(extract(images)["head"], model(images))
    assert any(node.op == "call_module" and node.target == "blocks.0.attn.qkv" for node in extract.graph.nodes)
