"""Attention of few tokens, computed plainly or by PyTorch's fused kernel, whichever was measured to be faster."""

import pytest
import torch

import cpvt
from cpvt.models import attention, fastest


@pytest.fixture
def taken(monkeypatch):
    """Notes which form is taken."""
    noted, fused, plain = [], attention.F.scaled_dot_product_attention, attention._attend_plainly
    monkeypatch.setattr(
        attention.F, "scaled_dot_product_attention", lambda *a, **b: noted.append("fused") or fused(*a, **b)
    )
    monkeypatch.setattr(attention, "_attend_plainly", lambda *a, **b: noted.append("plain") or plain(*a, **b))
    return noted


def draw(tokens, dtype=torch.float32, learns=True):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, tokens, 8)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(learns) for _ in range(3)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [None, 1.3, torch.tensor(1.3)])
@pytest.mark.parametrize("tokens", [1, 7, 128])
def test_both_forms_give_the_same_numbers_and_gradients(tokens, temperature, bias, monkeypatch, taken):
    mask = torch.randn(1, 3, tokens, tokens, requires_grad=True) if bias else None
    found = []
    for way in ("fused", "plain"):
        monkeypatch.setenv("CPVT_ATTENTION", way)
        inputs = [*draw(tokens), *([mask] if bias else [])]
        x = attention._attend(*inputs[:3], mask, temperature)
        found.append([x, *torch.autograd.grad(x.square().sum(), inputs)])
    assert taken == ["fused", "plain"]
    for fused, plain in zip(*found):
        torch.testing.assert_close(plain, fused, atol=1e-5, rtol=1e-4)


def test_many_tokens_and_other_dtypes_keep_the_fused_kernel(monkeypatch, taken):
    monkeypatch.setenv("CPVT_ATTENTION", "plain")
    attention._attend(*draw(129), None, None)
    attention._attend(*draw(7, torch.bfloat16), None, None)
    assert taken == ["fused"] * 2
    program = torch.export.export(cpvt.create_model("cpvt_micro", depth=1), (torch.randn(2, 3, 16, 16),))
    assert "scaled_dot_product_attention" in str(program.graph)


def test_the_form_is_measured_for_a_shape_with_and_without_gradients(monkeypatch, nothing_chosen, taken):
    monkeypatch.delenv("CPVT_ATTENTION")
    for learns in (True, False):
        attention._attend(*draw(7, learns=learns), None, None)
    with torch.inference_mode():
        attention._attend(*draw(7, learns=False), None, None)
    kinds = [choice[:-1] for choice in fastest.choices()]
    threads = torch.get_num_threads()
    assert sorted(kinds, key=str) == [["attention", 3, 1, 1, 8, "no bias", learns, threads] for learns in (False, True)]
    assert {"fused", "plain"} <= set(taken)


def test_a_bias_that_learns_is_measured_with_its_gradient(monkeypatch, nothing_chosen):
    monkeypatch.delenv("CPVT_ATTENTION")
    noted, run = [], attention.run_once
    monkeypatch.setattr(attention, "run_once", lambda form, inputs: noted.append(inputs) or run(form, inputs))
    for learns in (True, False):
        attention._attend(*draw(20), torch.zeros(1, 3, 20, 20, requires_grad=learns), None)
    assert {tuple(each.requires_grad for each in inputs) for inputs in noted} == {(True,) * 4, (True,) * 3 + (False,)}
    assert {tuple(inputs[3].shape) for inputs in noted} == {(1, 1, 24, 24)}
    assert {choice[5] for choice in fastest.choices()} == {"bias", "learned bias"}
