"""PEG at any distance between taps: every form against a loop over neighbours in float64, outputs and gradients."""

import itertools
import math
import re
import warnings

import pytest
import torch
import torch.nn.functional as F

from cpvt import PEG, ops
from cpvt.ops import packed, reference, shifted, spread

STEPS = [1, 1.25, 1.5, 2, 2.7, 3, (1, 2), (2.5, 1)]
every_step = pytest.mark.parametrize("step", STEPS)
AXES = [((7,), 1.5), ((9,), 2.7), ((3, 5, 4), 1.25), ((3, 4, 5), (1, 2, 1.5))]


def draw(grid, prefix=0, kernel_size=3, dim=3, dtype=torch.float64):
    """Tokens, weight and bias, all asking for gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, prefix + math.prod(grid), dim), (dim, 1, *[kernel_size] * len(grid)), (dim,)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def assert_same(inputs, *outputs):
    torch.testing.assert_close(*outputs)
    seed = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for ours, truth in zip(*(torch.autograd.grad(output, inputs, seed) for output in outputs)):
        torch.testing.assert_close(ours, truth)


def by_shifts(tokens, weight, bias, grid, prefix_tokens=0, padding_mode="zeros", dilation=1, causal=False):
    """`ops.peg` as graphs compute it."""
    steps = dilation if isinstance(dilation, tuple) else (dilation,) * len(grid)
    prefix, patches = tokens[:, :prefix_tokens], tokens[:, prefix_tokens:]
    image = patches.unflatten(1, grid).movedim(-1, 1)
    encoded = image + shifted.encode(image, weight, bias, steps, padding_mode, causal)
    return torch.cat([prefix, encoded.movedim(1, -1).flatten(1, -2)], 1)


FORMS = {"dense": ops.peg, "shifted": by_shifts}
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.mark.parametrize("step", [1.5, 2, (1, 2.7)])
def test_the_reference_reads_neighbours_that_interpolation_gives(step):
    # F.grid_sample reads any place of an image, bilinear between pixels and zero beyond the border
    tokens, weight, bias = draw((4, 5))
    down, across = step if isinstance(step, tuple) else (step, step)
    image = tokens.unflatten(1, (4, 5)).movedim(-1, 1)
    expected = bias[:, None, None].expand_as(image)
    for row, column in itertools.product(range(3), range(3)):
        y = torch.arange(4).double() + down * (row - 1)
        x = torch.arange(5).double() + across * (column - 1)
        where = torch.stack(torch.meshgrid(2 * x / 4 - 1, 2 * y / 3 - 1, indexing="xy"), -1).expand(2, -1, -1, -1)
        expected = expected + weight[:, :, row, column, None] * F.grid_sample(image, where, align_corners=True)
    found = reference.peg(tokens, weight, bias, (4, 5), residual=False, dilation=step)
    assert_same([tokens, weight, bias], found, expected.movedim(1, -1).flatten(1, 2))


@every_form
@every_step
@pytest.mark.parametrize("grid", [(5, 7), (4, 4), (1, 9), (6, 1)])
@pytest.mark.parametrize(("prefix", "kernel_size"), [(0, 3), (2, 5)])
def test_outputs_and_all_gradients_equal_the_reference(form, step, grid, prefix, kernel_size):
    inputs = draw(grid, prefix, kernel_size)
    assert_same(inputs, *(peg(*inputs, grid, prefix, dilation=step) for peg in (FORMS[form], reference.peg)))


@every_form
@every_step
@pytest.mark.parametrize("mode", ops.PADDING_MODES)
def test_every_padding_mode_equals_the_reference(form, step, mode):
    inputs = draw((4, 5))
    how = dict(padding_mode=mode, dilation=step)
    assert_same(inputs, *(peg(*inputs, (4, 5), 0, **how) for peg in (FORMS[form], reference.peg)))


@every_form
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(("grid", "step"), [*AXES, *(((5, 4), step) for step in STEPS)])
def test_sequences_videos_and_causal_kernels_equal_the_reference(form, causal, kernel_size, grid, step):
    inputs = draw(grid, 1, kernel_size)
    how = dict(causal=causal, dilation=step)
    assert_same(inputs, *(peg(*inputs, grid, 1, **how) for peg in (FORMS[form], reference.peg)))


@pytest.mark.parametrize("step", [1, 1.0, (1.0, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_one_is_the_plain_convolution_to_the_bit(step, dtype):
    tokens, weight, bias = draw((5, 7), dtype=dtype)
    image = tokens.unflatten(1, (5, 7)).movedim(-1, 1)
    if dtype == torch.float32:
        expected = F.conv2d(image, weight + F.pad(torch.ones(1, 1, 1, 1), [1] * 4), bias, padding=1, groups=3)
    else:
        expected = image + F.conv2d(image, weight, bias, padding=1, groups=3)
    assert torch.equal(ops.convolve(image, weight, bias, dilation=step), expected)
    assert torch.equal(ops.peg(tokens, weight, bias, (5, 7), dilation=step), expected.movedim(1, -1).flatten(1, 2))


@every_step
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_rounds_a_kernel_once(step, autocast):
    # sums of many small shares, which bfloat16 would round at each addition, stay close to the truth
    wide = [each.detach() for each in draw((6, 7), kernel_size=5)]
    truth = reference.peg(*wide, (6, 7), residual=False, dilation=step)
    low = [each.to(torch.float32 if autocast else torch.bfloat16) for each in wide]
    for peg in (ops.peg, lambda *given, residual, dilation: by_shifts(*given, dilation=dilation) - given[0]):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = peg(*low, (6, 7), residual=False, dilation=step)
        assert (found.double() - truth).norm() < 0.01 * truth.norm()


def test_a_spread_kernel_is_not_rounded_by_autocast():
    weight = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    exact, _ = spread.spread(weight.double(), (1.3, 2.7))
    with torch.autocast("cpu", torch.bfloat16):
        kernel, gaps = spread.spread(weight, (1.3, 2.7))
    assert gaps == [1, 1]
    torch.testing.assert_close(kernel, exact.float())
    low = weight.bfloat16()
    assert torch.equal(spread.spread(low, (1.3, 2.7))[0], spread.spread(low.float(), (1.3, 2.7))[0])
    assert spread.spread(low, (3, 1.0))[0] is low


def test_gradients_of_gradients():
    inputs = draw((2, 3), 1, dim=2)
    for form in FORMS.values():
        assert torch.autograd.gradgradcheck(lambda *tensors, form=form: form(*tensors, (2, 3), 1, dilation=1.5), inputs)


BAD = [0, 0.5, -1, math.nan, math.inf, "2", None, True, (1, 2, 3), (2,), (1, 0)]


@pytest.mark.parametrize("step", BAD)
def test_steps_that_make_no_sense(step):
    tokens, weight, bias = (each.detach() for each in draw((3, 5)))
    calls = [
        lambda: ops.peg(tokens, weight, bias, (3, 5), dilation=step),
        lambda: ops.convolve(torch.zeros(1, 3, 3, 5).double(), weight, bias, dilation=step),
        lambda: ops.peg_packed(tokens[:1], weight, bias, [(3, 5)], dilation=step),
        lambda: ops.peg_packed(tokens[:1], weight, bias, [(3, 5)], dilations=[step]),
        lambda: ops.peg_at(tokens[0], weight, bias, torch.arange(30).view(15, 2), dilation=step),
        lambda: reference.peg(tokens, weight, bias, (3, 5), dilation=step),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=re.escape(f"one for each of 2 axes; got {step!r}")):
            call()


def test_padding_that_needs_a_larger_grid_for_a_step_says_so():
    with pytest.raises(ValueError, match="a border of 3 needs a grid of at least 4 rows and columns; got 3x9"):
        ops.peg(*draw((3, 9)), (3, 9), padding_mode="reflect", dilation=2.1)


@every_step
@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("placing", ["canvas", "each", "auto"])
@pytest.mark.parametrize("causal", [False, True])
def test_no_image_of_a_pack_sees_another(step, prefix, placing, causal):
    grids = [(3, 5), (1, 7), (4, 4), (4, 4), (5, 1)]
    tokens, weight, bias = draw((sum(prefix + h * w for h, w in grids), 1))
    pack, how = tokens[:1], dict(dilation=step, causal=causal)
    parts = pack.split([prefix + h * w for h, w in grids], dim=1)
    alone = torch.cat([ops.peg(part, weight, bias, grid, prefix, **how) for part, grid in zip(parts, grids)], dim=1)
    assert_same(
        [tokens, weight, bias], ops.peg_packed(pack, weight, bias, grids, prefix, placing=placing, **how), alone
    )


def test_images_of_a_pack_at_steps_of_their_own(monkeypatch):
    grids = [(3, 5), (3, 5), (3, 5), (4, 4), (1, 7)]
    steps = [2, (2, 2.0), 1.5, 1.5, (1, 2.7)]
    tokens, weight, bias = draw((sum(1 + h * w for h, w in grids), 1))
    parts = tokens[:1].split([1 + h * w for h, w in grids], dim=1)
    alone = [ops.peg(part, weight, bias, grid, 1, dilation=step) for part, grid, step in zip(parts, grids, steps)]
    found = ops.peg_packed(tokens[:1], weight, bias, grids, 1, dilations=steps)
    assert_same([tokens, weight, bias], found, torch.cat(alone, dim=1))
    with pytest.raises(ValueError, match="'canvas' needs one dilation for all images"):
        ops.peg_packed(tokens[:1], weight, bias, grids, 1, dilations=steps, placing="canvas")
    with pytest.raises(ValueError, match="dilations must be one for each of 5 images; got 4"):
        ops.peg_packed(tokens[:1], weight, bias, grids, 1, dilations=steps[1:])
    calls = []
    monkeypatch.setattr(packed, "peg", lambda tokens, *rest, **how: calls.append(len(tokens)) or tokens)
    ops.peg_packed(tokens[:1], weight, bias, grids, 1, dilations=steps)
    assert calls == [2, 1, 1, 1]  # images of equal grids and steps, side by side, go together


@every_step
@pytest.mark.parametrize("grid", [(5, 7), (1, 9)])
@pytest.mark.parametrize("causal", [False, True])
def test_a_full_grid_at_coordinates_is_the_dense_form(step, grid, causal):
    tokens, weight, bias = draw(grid, kernel_size=5)
    places = torch.cartesian_prod(*map(torch.arange, grid))
    found = ops.peg_at(tokens[0], weight, bias, places, dilation=step, causal=causal)
    assert_same([tokens, weight, bias], found, ops.peg(tokens[:1], weight, bias, grid, dilation=step, causal=causal)[0])


def test_places_between_which_no_tap_lies_are_not_looked_for():
    assert spread.offsets(3, 2.7, 0, False) == [-3, -2, 0, 2, 3]
    assert spread.offsets(3, 2, 0, False) == [-2, 0, 2]
    assert spread.offsets(3, 1.5, 0, True) == [-3, -2, -1, 0]
    tokens, weight, bias = draw((5, 7))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        ops.peg_at(tokens[0], weight, bias, torch.cartesian_prod(torch.arange(5), torch.arange(7)), dilation=(2.7, 3))
    assert (5 * 3, 35) in [tuple(each.shape) for each in kept if each.dtype == torch.int64]


class OfAnySize(torch.nn.Module):
    """A PEG whose grid is that of the image (B, h, w, D) and whose scale is the grid's, counted in its first grid."""

    def __init__(self, mode="zeros", causal=False):
        super().__init__()
        self.layer = PEG(8, padding_mode=mode, causal=causal)

    def forward(self, x):
        scale = tuple(torch.sym_max(1.0, side / 6) for side in x.shape[1:3])
        return self.layer(x.flatten(1, 2), (x.shape[1], x.shape[2]), scale=scale)


SIZES = [(2, 7, 10), (3, 12, 14), (2, 18, 21), (4, 13, 9), (2, 5, 30)]  # none as many as channels


def compile_and_count(function):
    """The function compiled as a whole for all sizes, and a list into which its graphs come."""
    graphs = []
    torch._dynamo.reset()
    compiled = torch.compile(
        function,
        backend=lambda graph, inputs: graphs.append(graph) or graph.forward,
        dynamic=True,
        fullgraph=True,
    )
    return compiled, graphs


@pytest.mark.parametrize("mode", ops.PADDING_MODES)
def test_one_graph_serves_every_size_and_the_scale_that_follows_from_it(mode):
    model = OfAnySize(mode)
    compiled, graphs = compile_and_count(model)
    for size in SIZES:
        x = torch.randn(*size, 8)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.parametrize("kind", [float, torch.tensor, lambda scale: (scale, 1.2 * scale)])
@pytest.mark.parametrize("causal", [False, True])
def test_one_graph_serves_every_scale_that_it_is_given(kind, causal):
    layer = PEG(8, causal=causal)
    compiled, graphs = compile_and_count(lambda x, h, w, scale: layer(x, (h, w), 1, scale))
    for (batch, h, w), scale in zip(SIZES, (1.5, 2.0, 2.7, 1.0, 3.0)):
        x = torch.randn(batch, 1 + h * w, 8)
        found = [run(x, h, w, kind(scale)) for run in (compiled, lambda x, h, w, s: layer(x, (h, w), 1, s))]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.parametrize("scale", [1, 2, (1, 2)])
def test_a_graph_for_a_whole_scale_keeps_the_convolution(scale):
    layer = PEG(8, dilation=2)
    compiled, graphs = compile_and_count(lambda x: layer(x, (4, 5), scale=scale))
    compiled(torch.randn(2, 20, 8))
    called = [getattr(node.target, "__name__", "") for node in graphs[0].graph.nodes]
    assert "conv2d" in called
    assert "matmul" not in called


def test_gradients_of_a_graph_are_those_of_the_convolution():
    layer = PEG(8)
    compiled, _ = compile_and_count(lambda x, scale: layer(x, (6, 7), 0, scale))
    x = torch.randn(2, 42, 8, requires_grad=True)
    outputs = compiled(x, 1.7), layer(x, (6, 7), scale=1.7)
    for found, truth in zip(*(torch.autograd.grad(out.sin().sum(), [x, *layer.parameters()]) for out in outputs)):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


FREE = {"x": dict.fromkeys(range(3), torch.export.Dim.DYNAMIC)}


@pytest.mark.parametrize("mode", ops.PADDING_MODES)
@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_program_serves_every_size(mode, strict):
    model = OfAnySize(mode)
    program = torch.export.export(model, (torch.randn(2, 7, 10, 8),), dynamic_shapes=FREE, strict=strict)
    for size in SIZES:
        x = torch.randn(*size, 8)
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ops.PADDING_MODES)
def test_an_onnx_file_serves_every_size(mode, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = OfAnySize(mode).eval()
    path = tmp_path / "peg.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about itself
        torch.onnx.export(model, (torch.randn(2, 7, 10, 8),), path, dynamic_shapes=FREE, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    for size in SIZES:
        x = torch.randn(*size, 8)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-4, atol=1e-5)
