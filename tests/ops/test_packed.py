"""PEG on packs, both forms of it, against PEG on each image alone."""

import pytest
import torch

from cpvt import PEG, ops
from cpvt.ops import packed, reference

GRIDS = [(3, 5), (1, 7), (4, 4), (4, 4), (5, 1), (1, 1), (6, 2)]


def draw(grids, prefix, dims=2, kernel=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    tokens = sum(prefix + torch.Size(grid).numel() for grid in grids)
    shapes = [(1, tokens, 4), (4, 1, *[kernel] * dims), (4,)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def one_by_one(tokens, weight, bias, grids, prefix, **how):
    parts = tokens.split([prefix + torch.Size(grid).numel() for grid in grids], dim=1)
    return torch.cat([ops.peg(part, weight, bias, grid, prefix, **how) for part, grid in zip(parts, grids)], dim=1)


def check(grids, prefix, form, dims=2, kernel=3, **how):
    inputs = draw(grids, prefix, dims, kernel)
    expected = one_by_one(*inputs, grids, prefix, **how)
    found = ops.peg_packed(*inputs, grids, prefix, placing=form, **how)
    torch.testing.assert_close(found, expected)
    seed = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found_gradients = torch.autograd.grad(found, inputs, seed)
    for gradient, truth in zip(found_gradients, torch.autograd.grad(expected, inputs, seed)):
        torch.testing.assert_close(gradient, truth)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (5, 1), (3, 2), (7, 3)])
@pytest.mark.parametrize("form", ["canvas", "each"])
def test_no_image_of_a_pack_sees_another(form, kernel, dilation, prefix, residual):
    check(GRIDS, prefix, form, kernel=kernel, dilation=dilation, residual=residual)


@pytest.mark.parametrize("form", ["canvas", "each"])
@pytest.mark.parametrize(("dims", "grids"), [(1, [(5,), (1,), (8,)]), (3, [(2, 3, 1), (1, 1, 4), (3, 2, 2)])])
@pytest.mark.parametrize("causal", [True, False])
def test_packs_of_sequences_and_films(form, dims, grids, causal):
    check(grids, 1, form, dims, causal=causal, dilation=2)


@pytest.mark.parametrize("mode", ["replicate", "circular", "reflect"])
def test_other_paddings_go_image_by_image(mode):
    grids = [(3, 5), (4, 4), (2, 6)]
    check(grids, 1, "auto", padding_mode=mode)
    with pytest.raises(ValueError, match=f"'canvas'; got 'canvas' for '{mode}'"):
        check(grids, 1, "canvas", padding_mode=mode)


@pytest.mark.parametrize("form", ["canvas", "each"])
def test_the_slow_version_agrees(form):
    tokens, weight, bias = draw(GRIDS, 2)
    parts = tokens.split([2 + h * w for h, w in GRIDS], dim=1)
    truth = torch.cat([reference.peg(part, weight, bias, grid, 2) for part, grid in zip(parts, GRIDS)], dim=1)
    torch.testing.assert_close(ops.peg_packed(tokens, weight, bias, GRIDS, 2, placing=form), truth)


def test_small_images_go_on_a_canvas_and_large_ones_one_by_one(monkeypatch):
    calls = []
    monkeypatch.setattr(packed, "peg", lambda tokens, *rest, **how: calls.append(tokens.shape[1]) or tokens)
    for width, expected in ((8, 1), (4096, 2)):
        calls.clear()
        weight = torch.zeros(width, 1, 3, 3)
        ops.peg_packed(torch.zeros(1, 4 * 4 + 3 * 5, width), weight, None, [(4, 4), (3, 5)])
        assert len(calls) == expected


def test_a_canvas_that_would_be_mostly_empty_is_not_laid():
    grids = [(1, 40), (40, 1)]  # a canvas of 42x40 for 80 tokens
    inputs = draw(grids, 0)
    assert (ops.peg_packed(*inputs, grids) - one_by_one(*inputs, grids, 0)).abs().max() < 1e-12
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_lay_out", None)
        ops.peg_packed(*inputs, grids)
        with pytest.raises(TypeError):
            ops.peg_packed(*draw([(4, 4), (3, 5)], 0), [(4, 4), (3, 5)])


def test_the_form_of_a_layer_reaches_its_packs(monkeypatch):
    asked = []
    monkeypatch.setattr(packed, "peg", lambda tokens, *_, form, **how: asked.append(form) or tokens)
    layer = PEG(4).double()
    layer.form = "dense"
    layer.forward_packed(draw(GRIDS, 0)[0].detach(), GRIDS)
    assert set(asked) == {"dense"}


def test_a_pack_of_nothing_and_packs_that_a_layer_cannot_take():
    with pytest.raises(ValueError, match="at least one grid"):
        ops.peg_packed(torch.zeros(1, 0, 4), torch.zeros(4, 1, 3, 3), None, [])
    with pytest.raises(ValueError, match="layout 'NLC' and grids of 2 sides; got 'NHWC'"):
        PEG(4, layout="NHWC").forward_packed(torch.zeros(1, 15, 4), [(3, 5)])
    with pytest.raises(ValueError, match=r"grids of 2 sides; got 'NLC' and \[\(15,\)\]"):
        PEG(4).forward_packed(torch.zeros(1, 15, 4), [(15,)])


@pytest.mark.parametrize("prefix", [0, 2])
def test_a_folded_layer_takes_packs(prefix):
    torch.manual_seed(0)
    layer = PEG(4).double()
    tokens = draw(GRIDS, prefix)[0].detach()
    torch.testing.assert_close(
        layer.fold().forward_packed(tokens, GRIDS, prefix), layer.forward_packed(tokens, GRIDS, prefix)
    )


@pytest.mark.parametrize("shape", [(1, 30, 4), (2, 31, 4), (31, 4)])
def test_tokens_that_do_not_fit_the_grids(shape):
    with pytest.raises(ValueError, match=r"these 2 grids need tokens of shape \(1, 31, D\); got"):
        ops.peg_packed(torch.zeros(shape), torch.zeros(4, 1, 3, 3), None, [(4, 4), (3, 5)])
