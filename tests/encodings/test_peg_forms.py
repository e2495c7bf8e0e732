"""PEG on sequences and videos, causal, with several kernels, dilated, folded: each equals the loop over neighbours."""

import pytest
import torch
import torch.nn.functional as F

import cpvt
from cpvt.ops import reference

FORMS = [
    (dict(dims=1), (7,)),
    (dict(dims=1, causal=True), (7,)),
    (dict(dims=1, causal=True, kernel_size=5, dilation=2), (9,)),
    (dict(dims=2, dilation=2), (5, 6)),
    (dict(dims=2, causal=True), (4, 3)),
    (dict(dims=2, kernel_size=(7, 5, 3)), (4, 9)),
    (dict(dims=2, kernel_size=(3, 5), causal=True, dilation=2), (6, 5)),
    (dict(dims=2, kernel_size=(5, 3), padding_mode="circular"), (4, 6)),
    (dict(dims=2, kernel_size=(5, 3), padding_mode="reflect", dilation=2), (6, 7)),
    (dict(dims=2, kernel_size=((7, 3),)), (4, 9)),
    (dict(dims=2, kernel_size=((3, 5), (1, 5), (3, 3)), causal=True), (6, 5)),
    (dict(dims=2, kernel_size=((5, 3), 3), padding_mode="reflect", dilation=2), (6, 7)),
    (dict(dims=3, kernel_size=((3, 1, 5),), causal=True), (3, 4, 5)),
    (dict(dims=2, kernel_size=1), (4, 3)),
    (dict(dims=2, kernel_size=1, padding_mode="reflect"), (1, 3)),
    (dict(dims=3), (2, 3, 4)),
    (dict(dims=3, causal=True), (4, 2, 3)),
    (dict(dims=3, padding_mode="replicate"), (2, 1, 3)),
]
IDS = [", ".join(f"{name}={value}" for name, value in form.items()) for form, _ in FORMS]
every_form = pytest.mark.parametrize(("form", "grid"), FORMS, ids=IDS)


def build(form, dim=3):
    torch.manual_seed(0)
    layer = cpvt.PEG(dim, **form).double()
    torch.nn.init.normal_(layer.bias)
    return layer


def draw(grid, prefix=0, dim=3, batch=2):
    generator = torch.Generator().manual_seed(1)
    count = prefix + torch.Size(grid).numel()
    return torch.randn(batch, count, dim, generator=generator, dtype=torch.float64).requires_grad_()


def slowly(layer, tokens, grid, prefix, residual=True, scale=1):
    """One loop over neighbours per kernel, added up."""
    total = tokens if residual else torch.zeros_like(tokens)
    for number, weight in enumerate((layer.weight, *layer.smaller)):
        bias = layer.bias if number == 0 else None
        options = (layer.padding_mode, False, layer.dilation * scale, layer.causal)
        total = total + reference.peg(tokens, weight, bias, grid, prefix, *options)
    return total


@every_form
@pytest.mark.parametrize("prefix", [0, 2])
def test_outputs_and_all_gradients_equal_the_loop_over_neighbours(form, grid, prefix):
    layer, tokens = build(form), draw(grid, prefix)
    outputs = layer(tokens, grid, prefix), slowly(layer, tokens, grid, prefix)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(
        layer.encoding(tokens, grid, prefix), slowly(layer, tokens, grid, prefix, residual=False)
    )
    inputs, seed = [tokens, *layer.parameters()], torch.randn_like(tokens)
    for ours, truth in zip(*(torch.autograd.grad(output, inputs, seed) for output in outputs)):
        torch.testing.assert_close(ours, truth)


@every_form
@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_every_form_has_a_scale(form, grid, scale):
    layer, tokens = build(form), draw(grid, 1)
    scales = tuple(min(scale, side) for side in grid)  # no more than a grid of one row can hold
    if form.get("kernel_size") == 1:  # which sees no neighbour
        assert torch.equal(layer(tokens, grid, 1, scales), layer(tokens, grid, 1))
        return
    outputs = layer(tokens, grid, 1, scales), slowly(layer, tokens, grid, 1, scale=scale)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(layer.fold()(tokens, grid, 1, scales), outputs[1])
    inputs, seed = [tokens, *layer.parameters()], torch.randn_like(tokens)
    for ours, truth in zip(*(torch.autograd.grad(output, inputs, seed) for output in outputs)):
        torch.testing.assert_close(ours, truth)


@every_form
@pytest.mark.parametrize("prefix", [0, 2])
def test_folded_is_one_kernel_with_the_same_output(form, grid, prefix):
    layer, tokens = build(form), draw(grid, prefix)
    folded = layer.fold()
    assert sum(weight.numel() for weight in folded.parameters()) == layer.weight.numel() + layer.bias.numel()
    torch.testing.assert_close(folded(tokens, grid, prefix), layer(tokens, grid, prefix))
    torch.testing.assert_close(folded.fold()(tokens, grid, prefix), layer(tokens, grid, prefix))
    assert torch.equal(folded(tokens, grid, prefix)[:, :prefix], tokens[:, :prefix])
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    with pytest.raises(ValueError, match="folded PEG no longer knows"):
        folded.encoding(tokens, grid, prefix)


@every_form
def test_half_precision_stays_close(form, grid):
    layer, tokens = build(form), draw(grid)
    low = build(form).bfloat16()
    out = low(tokens.bfloat16(), grid)
    assert out.dtype == torch.bfloat16
    assert (out.double() - layer(tokens, grid)).norm() < 0.02 * layer(tokens, grid).norm()


@pytest.mark.parametrize(("form", "grid"), [(form, grid) for form, grid in FORMS if form.get("causal")])
def test_a_causal_peg_never_looks_ahead_and_does_look_back(form, grid):
    layer, tokens = build(form), draw(grid).detach()
    later = tokens.unflatten(1, grid).clone()
    later[:, 2:] += 1.0
    before = layer(tokens, grid).unflatten(1, grid)
    after = layer(later.flatten(1, -2), grid).unflatten(1, grid)
    assert torch.equal(after[:, :2], before[:, :2])
    earlier = tokens.unflatten(1, grid).clone()
    earlier[:, 0] += 1.0
    reach = form.get("dilation", 1)
    assert not torch.equal(layer(earlier.flatten(1, -2), grid).unflatten(1, grid)[:, reach], before[:, reach])


def test_several_kernels_are_the_sum_of_their_convolutions():
    # PPEG as TransMIL writes it: 7x7, 5x5 and 3x3, each padded for itself, and the tokens
    layer = cpvt.PEG(4, (7, 5, 3), layout="NCHW").double()
    image = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    expected = image + layer.bias.view(1, -1, 1, 1)
    for weight in (layer.weight, *layer.smaller):
        expected = expected + F.conv2d(image, weight, padding=weight.shape[-1] // 2, groups=4)
    torch.testing.assert_close(layer(image), expected)


def test_the_encoding_takes_the_forms_that_fit_images():
    model = cpvt.create_model("cpvt_micro", encoding="peg(at=(1, 2), kernel_size=(5, 3), dilation=2)", num_classes=3)
    assert model(torch.randn(1, 3, 20, 33)).shape == (1, 3)
    assert model.encoding.peg["2"].kernel_size == (5, 3)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (dict(dims=4), "dims must be 1, 2 or 3.*got 4"),
        (dict(dilation=0), "dilation must be 1 or more; got 0"),
        (dict(kernel_size=()), "odd and 1 or more"),
        (dict(kernel_size=(5, 4)), "odd and 1 or more.*got 4"),
        (dict(kernel_size=((5, 4),)), r"odd and 1 or more.*got \(5, 4\)"),
        (dict(kernel_size=((5, 3, 3),)), r"or one for each of 2 axes.*got \[\(5, 3, 3\)\]"),
        (dict(kernel_size=((3, 7), (5, 5))), r"the largest covers the others; got \[\(3, 7\), \(5, 5\)\]"),
        (dict(causal=True, padding_mode="reflect"), "must be 'zeros'; got 'reflect'"),
        (dict(dims=3, layout="NHWC"), "is for images, dims=2"),
    ],
)
def test_forms_that_make_no_sense(form, words):
    with pytest.raises(ValueError, match=words):
        cpvt.PEG(4, **form)


def test_a_grid_of_the_wrong_number_of_axes():
    with pytest.raises(ValueError, match=r"grid= with 3 sides.*got \(3, 5\)"):
        cpvt.PEG(4, dims=3)(torch.zeros(1, 15, 4), grid=(3, 5))
    with pytest.raises(ValueError, match="a grid of 2 axes needs a weight of 4"):
        cpvt.ops.peg(torch.zeros(1, 15, 4), torch.zeros(4, 1, 3), None, (3, 5))
    with pytest.raises(ValueError, match=r"a 2x3x4 grid needs tokens of shape \(B, 24, D\); got \(1, 15, 4\)"):
        cpvt.PEG(4, dims=3)(torch.zeros(1, 15, 4), grid=(2, 3, 4))
