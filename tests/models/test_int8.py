"""int8 linear layers of PyTorch: the recipe of docs/speed.md, for our models as for timm's."""

import copy
import re
from pathlib import Path

import pytest
import timm
import torch

import cpvt

SPEED = (Path(__file__).parents[2] / "docs" / "speed.md").read_text()


def test_the_recipe_quantises_our_model_and_leaves_the_given_one():
    (block,) = re.findall(r"```python\n(.*?)```", SPEED, flags=re.DOTALL)
    names = {}
    exec(compile(block, "docs/speed.md", "exec"), names)
    model, small = names["model"], names["small"]
    assert {type(each) for each in model.modules() if "Linear" in type(each).__name__} == {torch.nn.Linear}
    check_quantised(model, small, (2, 3, 40, 56))
    images = [torch.randn(3, 32, 32), torch.randn(3, 24, 40)]
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(small(images), alone, atol=0.3, rtol=0.1)


def test_timms_models_are_quantised_alike():
    from benchmarks.precision import quantised

    model = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=64).eval()
    check_quantised(model, quantised(model), (2, 3, 64, 64))


def test_torchao_quantises_the_same_layers():
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    model = cpvt.create_model("cpvt_mini_peg5_gap", pretrained=True).eval()
    small = copy.deepcopy(model)
    quantization.quantize_(small, quantization.Int8DynamicActivationInt8WeightConfig())
    check_answers(model, small, (2, 3, 40, 56))


def check_quantised(model, small, shape):
    """Assert that every linear layer holds int8 weights with a scale per output channel."""
    layers = [name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)]
    found = {name: each for name, each in small.named_modules() if "DynamicQuantizedLinear" in repr(each)[:30]}
    assert list(found) == layers
    for name, layer in found.items():
        weight = layer.weight()
        assert (weight.dtype, weight.qscheme()) == (torch.qint8, torch.per_channel_affine), name
    check_answers(model, small, shape)


def check_answers(model, small, shape):
    """Assert that logits are close to those of the model, and not the same."""
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, logits = model(images), small(images)
    assert 1e-4 < float((logits - expected).abs().max() / expected.abs().max()) < 0.1
