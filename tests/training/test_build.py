"""The optimizer follows the recipe."""

import pytest
import torch

import cpvt
from cpvt.config import OptimConfig
from cpvt.training.build import create_optimizer


@pytest.mark.parametrize("layer_decay", [None, 1.0])
def test_weights_decay_but_not_encoding_prefix_norms_and_biases(layer_decay):
    model = cpvt.create_model("cpvt_micro", num_classes=2)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    recipe = OptimConfig(lr=0.1, weight_decay=0.5, layer_decay=layer_decay)
    optimizer = create_optimizer(model, recipe, None, fused=False)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # no gradient: what changes has decayed
    optimizer.step()
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and name != "cls_token" and not name.startswith("encoding.")
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if decays else 1.0))
