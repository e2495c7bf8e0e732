"""PEG at coordinates against the dense form: full grids, subsets, several images, all gradients."""

import pytest
import torch

import cpvt
from cpvt.ops import scattered

FORMS = [
    (dict(), (5, 7)),
    (dict(kernel_size=1), (3, 4)),
    (dict(kernel_size=5), (1, 9)),
    (dict(kernel_size=(5, 3), dilation=2), (6, 5)),
    (dict(dims=1, causal=True, kernel_size=5), (11,)),
    (dict(dims=3, causal=True), (3, 2, 4)),
]
every_form = pytest.mark.parametrize(("form", "grid"), FORMS, ids=[str(form) for form, _ in FORMS])


def build(form, dim=4):
    torch.manual_seed(0)
    layer = cpvt.PEG(dim, **form).double()
    torch.nn.init.normal_(layer.bias)
    return layer


def places(grid):
    return torch.cartesian_prod(*map(torch.arange, grid)).view(-1, len(grid))


def draw(count, dim=4, seed=1):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def assert_same_with_gradients(layer, tokens, outputs):
    torch.testing.assert_close(*outputs)
    inputs = [tokens, *layer.parameters()]
    seed = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for ours, truth in zip(*(torch.autograd.grad(output, inputs, seed) for output in outputs)):
        torch.testing.assert_close(ours, truth)


@every_form
@pytest.mark.parametrize("chunk", [4, 8192])
def test_a_full_grid_in_any_order_is_the_dense_form(form, grid, chunk, monkeypatch):
    monkeypatch.setitem(scattered.CHUNKS, "cpu", chunk)
    layer, coordinates = build(form), places(grid)
    tokens = draw(len(coordinates))
    shuffle = torch.randperm(len(coordinates), generator=torch.Generator().manual_seed(3))
    out = torch.empty_like(tokens).index_copy(0, shuffle, layer.forward_at(tokens[shuffle], coordinates[shuffle]))
    assert_same_with_gradients(layer, tokens, (out, layer(tokens[None], grid)[0]))


@every_form
def test_a_subset_sees_zero_where_nothing_stands(form, grid):
    layer, coordinates = build(form), places(grid)
    kept = torch.randperm(len(coordinates), generator=torch.Generator().manual_seed(4))[: len(coordinates) // 2]
    tokens = draw(len(kept))
    canvas = torch.zeros(len(coordinates), 4, dtype=torch.float64).index_copy(0, kept, tokens)
    outputs = layer.forward_at(tokens, coordinates[kept] + 1000), layer(canvas[None], grid)[0, kept]
    assert_same_with_gradients(layer, tokens, outputs)


def test_tokens_of_different_images_never_meet():
    layer, coordinates = build({}), places((3, 4))
    tokens = draw(24)
    image = torch.tensor([0] * 12 + [7] * 12)
    mixed = torch.randperm(24, generator=torch.Generator().manual_seed(5))
    out = layer.forward_at(tokens[mixed], coordinates.repeat(2, 1)[mixed], image[mixed])
    out = torch.empty_like(out).index_copy(0, mixed, out)
    assert_same_with_gradients(layer, tokens, (out, layer(tokens.view(2, 12, 4), (3, 4)).flatten(0, 1)))


def test_rows_do_not_run_into_each_other():
    # the last of one row and the first of the next are no neighbours, whatever the numbering
    layer = build({})
    alone = layer.forward_at(draw(1), torch.tensor([[1, 0]]))
    both = layer.forward_at(torch.cat([draw(1), draw(1, seed=9)]), torch.tensor([[1, 0], [0, 4]]))
    torch.testing.assert_close(both[:1], alone)


def test_folded_none_and_half_precision():
    layer, coordinates = build({}), places((3, 4))
    tokens = draw(12)
    torch.testing.assert_close(layer.fold().forward_at(tokens, coordinates), layer.forward_at(tokens, coordinates))
    assert layer.forward_at(tokens[:0], coordinates[:0]).shape == (0, 4)
    low = build({}).bfloat16().forward_at(tokens.bfloat16(), coordinates)
    assert low.dtype == torch.bfloat16
    assert (low.double() - layer.forward_at(tokens, coordinates)).norm() < 0.02 * tokens.norm()


@pytest.mark.parametrize(
    ("coordinates", "image", "words"),
    [
        (torch.zeros(3, 2), None, "coordinates must be int64, places are whole numbers; got torch.float32"),
        (torch.tensor([[0, 1], [0, -2], [1, 1]]), None, "coordinates must be zero or more; got -2"),
        (torch.tensor([[0, 1], [5, 2], [0, 1]]), None, r"tokens 0 and 2 stand at the same place, \[0, 1\]"),
        (torch.zeros(4, 2, dtype=torch.int64), None, r"3 tokens need coordinates of shape \(3, 2\); got \(4, 2\)"),
        (torch.zeros(3, 3, dtype=torch.int64), None, r"shape \(3, 2\); got \(3, 3\)"),
        (torch.arange(6).view(3, 2), torch.zeros(2, dtype=torch.int64), r"image numbers of shape \(3,\); got \(2,\)"),
        (torch.arange(6).view(3, 2), torch.tensor([0, -1, 0]), "image must be zero or more; got -1"),
        (torch.arange(6).view(3, 2), torch.zeros(3), "image must be int64"),
        (torch.tensor([[0, 0], [2**40, 0], [0, 2**40]]), None, "places reach too far"),
    ],
)
def test_places_that_make_no_sense(coordinates, image, words):
    with pytest.raises(ValueError, match=words):
        cpvt.PEG(4).forward_at(torch.zeros(3, 4), coordinates, image)


def test_what_coordinates_do_not_go_with():
    with pytest.raises(ValueError, match="padding_mode must be 'zeros'; got 'circular'"):
        cpvt.PEG(4, padding_mode="circular").forward_at(torch.zeros(1, 4), torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"shape \(T, D\); got \(1, 3, 4\)"):
        cpvt.PEG(4).forward_at(torch.zeros(1, 3, 4), torch.zeros(3, 2, dtype=torch.int64))
