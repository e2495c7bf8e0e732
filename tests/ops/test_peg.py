"""PEG against the truth: a loop over neighbours, in float64, outputs and every gradient."""

import pytest
import torch

from cpvt import PEG, ops
from cpvt.ops import reference

GRIDS = [(3, 5), (1, 7), (5, 1), (4, 4)]


def draw(grid, prefix, kernel_size=3, dim=3, batch=2, dtype=torch.float64, seed=0):
    """Tokens, weight and bias, all asking for gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, prefix + grid[0] * grid[1], dim), (dim, 1, kernel_size, kernel_size), (dim,)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def loop_over_neighbours(tokens, weight, bias, grid, prefix):
    """The definition, number by number: what stands beyond the border is zero."""
    h, w = grid
    reach = weight.shape[-1] // 2
    out = tokens.detach().clone()
    for b in range(tokens.shape[0]):
        for y in range(h):
            for x in range(w):
                for channel in range(tokens.shape[2]):
                    total = bias[channel].item()
                    for dy in range(-reach, reach + 1):
                        for dx in range(-reach, reach + 1):
                            if 0 <= y + dy < h and 0 <= x + dx < w:
                                neighbour = tokens[b, prefix + (y + dy) * w + x + dx, channel].item()
                                total += weight[channel, 0, dy + reach, dx + reach].item() * neighbour
                    out[b, prefix + y * w + x, channel] += total
    return out


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_the_reference_is_the_loop_over_neighbours(grid, prefix, kernel_size):
    tokens, weight, bias = draw(grid, prefix, kernel_size, dim=2, batch=1)
    expected = loop_over_neighbours(tokens, weight, bias, grid, prefix)
    torch.testing.assert_close(reference.peg(tokens, weight, bias, grid, prefix), expected)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("residual", [True, False])
def test_outputs_and_all_gradients_equal_the_reference(grid, prefix, kernel_size, residual):
    inputs = draw(grid, prefix, kernel_size)
    outputs = [peg(*inputs, grid, prefix, residual=residual) for peg in (ops.peg, reference.peg)]
    torch.testing.assert_close(*outputs)
    seed = torch.randn_like(outputs[0])
    for ours, truth in zip(*(torch.autograd.grad(output, inputs, seed) for output in outputs)):
        torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("mode", ops.PADDING_MODES)
@pytest.mark.parametrize("prefix", [0, 1])
def test_every_padding_mode_equals_the_reference(mode, prefix):
    inputs = draw((3, 5), prefix, kernel_size=5)
    outputs = [peg(*inputs, (3, 5), prefix, padding_mode=mode) for peg in (ops.peg, reference.peg)]
    torch.testing.assert_close(*outputs)
    for ours, truth in zip(*(torch.autograd.grad(output.square().sum(), inputs) for output in outputs)):
        torch.testing.assert_close(ours, truth)


def test_no_bias_is_a_bias_of_zero():
    tokens, weight, bias = draw((3, 5), 1)
    torch.testing.assert_close(
        ops.peg(tokens, weight, None, (3, 5), 1), ops.peg(tokens, weight, torch.zeros_like(bias), (3, 5), 1)
    )


def test_gradients_of_gradients():
    inputs = draw((2, 3), 1, dim=2, batch=1)
    assert torch.autograd.gradgradcheck(lambda *tensors: ops.peg(*tensors, (2, 3), 1), inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_small_weights(dtype):
    # folding the residual into the kernel would round 1 + 0.001 to 1 here, and the encoding would be lost
    tokens = torch.ones(1, 9, 1, dtype=dtype)
    weight = torch.full((1, 1, 3, 3), 0.001, dtype=dtype)
    encoding = ops.peg(tokens, weight, None, (3, 3), residual=False)
    assert encoding[0, 4, 0].item() == pytest.approx(0.009, rel=0.01)
    torch.testing.assert_close(ops.peg(tokens, weight, None, (3, 3)), tokens + encoding)


def test_autocast_keeps_small_weights():
    tokens, weight = torch.ones(1, 9, 1), torch.full((1, 1, 3, 3), 0.001)
    with torch.autocast("cpu", torch.bfloat16):
        added = ops.peg(tokens, weight, None, (3, 3)) - tokens
    assert added.dtype == torch.float32
    assert added[0, 4, 0].item() == pytest.approx(0.009, rel=0.01)


def copies(function, *inputs):
    """How many tensors of at least the patches' size are copied while the function runs."""
    least = inputs[0].shape[0] * 15 * inputs[0].shape[2]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        function(*inputs)
    return sum(
        event.name == "aten::copy_" and torch.Size(event.input_shapes[0]).numel() >= least for event in profile.events()
    )


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # the profiler's own
def test_layouts_are_copied_only_for_the_prefix():
    inputs = draw((3, 5), 0, dim=8, dtype=torch.float32)
    with torch.no_grad():
        assert copies(lambda *tensors: ops.peg(*tensors, (3, 5)), *inputs) == 0
        inputs = draw((3, 5), 1, dim=8, dtype=torch.float32)
        assert copies(lambda *tensors: ops.peg(*tensors, (3, 5), 1), *inputs) <= 1


@pytest.mark.parametrize(
    ("shape", "prefix"), [((2, 20, 64), 0), ((2, 21, 64), 1), ((2, 22, 64), 0), ((2, 3, 7, 64), 0), ((21, 64), 0)]
)
def test_a_grid_that_does_not_fit_is_an_error_that_names_both(shape, prefix):
    tokens, weight = torch.zeros(shape), torch.zeros(64, 1, 3, 3)
    with pytest.raises(ValueError, match=r"3x7 grid needs tokens of shape \(B, \d+, D\)") as error:
        ops.peg(tokens, weight, None, (3, 7), prefix)
    assert str(shape) in str(error.value)


def test_padding_that_needs_a_larger_grid_says_so():
    tokens, weight, bias = draw((1, 7), 0)
    with pytest.raises(ValueError, match="at least 2 rows and columns; got 1x7"):
        ops.peg(tokens, weight, bias, (1, 7), padding_mode="reflect")


def test_devices_that_hold_no_numbers_take_it():
    peg = PEG(8).to("meta")
    assert peg(torch.zeros(2, 12, 8, device="meta"), (3, 4)).shape == (2, 12, 8)
