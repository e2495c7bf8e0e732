"""The layer `cpvt.PEG`: layouts, the encoding alone, errors."""

import pytest
import torch

import cpvt
from cpvt.ops import reference

LAYOUT_AXES = {"NHWC": (0, 1, 2, 3), "NCHW": (0, 3, 1, 2)}


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = cpvt.PEG(4).double()
    torch.nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("layout", LAYOUT_AXES)
def test_all_layouts_give_the_same_numbers(layer, layout):
    tokens = torch.randn(2, 15, 4, dtype=torch.float64)
    other = cpvt.PEG(4, layout=layout).double()
    other.load_state_dict(layer.state_dict())
    image = tokens.unflatten(1, (3, 5)).permute(LAYOUT_AXES[layout])
    expected = layer(tokens, (3, 5)).unflatten(1, (3, 5)).permute(LAYOUT_AXES[layout])
    torch.testing.assert_close(other(image), expected)
    torch.testing.assert_close(image + other.encoding(image), expected)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_plus_the_encoding_alone_are_the_layer(layer, prefix):
    tokens = torch.randn(2, prefix + 15, 4, dtype=torch.float64)
    out = layer(tokens, (3, 5), prefix_tokens=prefix)
    torch.testing.assert_close(tokens + layer.encoding(tokens, (3, 5), prefix), out)
    assert torch.equal(out[:, :prefix], tokens[:, :prefix])
    assert not torch.equal(out[:, prefix:], tokens[:, prefix:])


def test_the_start_is_that_of_the_authors_code():
    layer = cpvt.PEG(4096)
    assert layer.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.02)
    assert not layer.bias.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel_size": 4}, "odd and 1 or more.*got 4"),
        ({"kernel_size": -1}, "odd and 1 or more.*got -1"),
        ({"kernel_size": 3.0}, "odd and 1 or more.*got 3.0"),
        ({"kernel_size": "3"}, "odd and 1 or more.*got '3'"),
        ({"padding_mode": "valid"}, "zeros, reflect, replicate, circular; got 'valid'"),
        ({"layout": "NLP"}, "NLC, NHWC, NCHW; got 'NLP'"),
    ],
)
def test_options_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        cpvt.PEG(4, **options)


@pytest.mark.parametrize("dim", [0, -3, 8.0])
def test_widths_that_make_no_sense(dim):
    with pytest.raises(ValueError, match=f"width of a token, must be 1 or more; got {dim}"):
        cpvt.PEG(dim)


CALLS = {  # a PEG -> a call of it with tokens (1 or 2, 12, D); each wants the width 8
    "layer": lambda peg, x: peg(x, (3, 4)),
    "encoding": lambda peg, x: peg.encoding(x, (3, 4)),
    "fold": lambda peg, x: peg.fold()(x, (3, 4)),
    "packed": lambda peg, x: peg.forward_packed(x[:1], [(2, 4), (4, 1)]),
    "folded pack": lambda peg, x: peg.fold().forward_packed(x[:1], [(2, 2), (6, 1)], 1),
    "at": lambda peg, x: peg.forward_at(x[0], torch.arange(24).view(12, 2)),
    "function": lambda peg, x: cpvt.ops.peg(x, peg.weight, peg.bias, (3, 4)),
    "reference": lambda peg, x: reference.peg(x, peg.weight, peg.bias, (3, 4)),
}


@pytest.mark.parametrize("width", [1, 4, 16])
@pytest.mark.parametrize("call", CALLS)
def test_tokens_of_another_width_are_refused_by_both_widths(call, width):
    assert CALLS[call](cpvt.PEG(8), torch.randn(2, 12, 8)).shape[-1] == 8
    with pytest.raises(ValueError, match=f"tokens of width 8; got tokens .* of width {width}"):
        CALLS[call](cpvt.PEG(8), torch.randn(2, 12, width))


@pytest.mark.parametrize("grid", [(12,), (3, 2, 2)])
def test_sequences_and_videos_of_another_width_are_refused_too(grid):
    with pytest.raises(ValueError, match="tokens of width 8; got tokens .* of width 4"):
        cpvt.PEG(8, dims=len(grid))(torch.randn(2, 12, 4), grid)


@pytest.mark.parametrize(
    ("weight", "bias", "words"),
    [
        ((4, 1, 2, 2), None, r"with odd k; got \(4, 1, 2, 2\)"),
        ((4, 4, 3, 3), None, r"\(D, 1, k, k\) with odd k; got \(4, 4, 3, 3\)"),
        ((4, 1, 3, 3), (1,), r"4 channels needs a bias of as many; got \(1,\)"),
    ],
)
def test_weights_of_no_peg_are_refused(weight, bias, words):
    weight, bias = torch.zeros(weight), None if bias is None else torch.zeros(bias)
    calls = [
        lambda: cpvt.ops.peg(torch.zeros(1, 12, 4), weight, bias, (3, 4), residual=False),
        lambda: cpvt.ops.peg_packed(torch.zeros(1, 12, 4), weight, bias, [(2, 4), (4, 1)]),
        lambda: cpvt.ops.peg_at(torch.zeros(1, 4), weight, bias, torch.zeros(1, 2, dtype=torch.int64)),
        lambda: cpvt.ops.convolve(torch.zeros(1, 4, 3, 4), weight, bias),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=words):
            call()


def test_the_functions_refuse_channels_and_borders_that_do_not_fit():
    with pytest.raises(ValueError, match="a weight for 8 channels takes no image of 4"):
        cpvt.ops.convolve(torch.zeros(1, 4, 3, 4), torch.zeros(8, 1, 3, 3), None)
    tokens, weight = torch.zeros(1, 12, 4), torch.zeros(4, 1, 3, 3)
    with pytest.raises(ValueError, match="one of zeros, reflect, replicate, circular; got 'valid'"):
        cpvt.ops.peg(tokens, weight, None, (3, 4), padding_mode="valid")
    with pytest.raises(ValueError, match="must be 'zeros' for a causal kernel; got 'reflect'"):
        cpvt.ops.peg(tokens, weight, None, (3, 4), padding_mode="reflect", causal=True)


@pytest.mark.parametrize("grid", [(-3, -4), (3.0, 4.0), (0, 4)])
def test_grids_that_make_no_sense(grid):
    with pytest.raises(ValueError, match="a grid is the number of tokens along each axis, as in grid=.14, 14.; got"):
        cpvt.PEG(4)(torch.zeros(1, 12, 4), grid)
    with pytest.raises(ValueError, match="a grid is the number of tokens along each axis"):
        cpvt.PEG(4).forward_packed(torch.zeros(1, 12, 4), [grid])


def test_calls_that_make_no_sense():
    with pytest.raises(ValueError, match="needs grid= with 2 sides.*got 12"):
        cpvt.PEG(4)(torch.zeros(1, 12, 4), 12)
    with pytest.raises(ValueError, match=r"grids of 2 sides; got 'NLC' and \[12\]"):
        cpvt.PEG(4).forward_packed(torch.zeros(1, 12, 4), [12])
    with pytest.raises(ValueError, match="prefix_tokens .* 0 or more; got -1"):
        cpvt.PEG(4)(torch.zeros(1, 11, 4), (3, 4), prefix_tokens=-1)
    with pytest.raises(ValueError, match="needs grid="):
        cpvt.PEG(4)(torch.zeros(1, 15, 4))
    with pytest.raises(ValueError, match="pass the tensor alone"):
        cpvt.PEG(4, layout="NHWC")(torch.zeros(1, 3, 5, 4), grid=(3, 5))
    with pytest.raises(ValueError, match=r"4 axes and 4 channels; got \(1, 3, 5, 4\)"):
        cpvt.PEG(4, layout="NCHW")(torch.zeros(1, 3, 5, 4))


def test_a_kernel_of_one_place_gives_no_positions():
    layer = cpvt.PEG(4, kernel_size=1, padding_mode="zeros").double()
    torch.nn.init.normal_(layer.bias)
    tokens = torch.randn(2, 1 + 15, 4, dtype=torch.float64)
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(15)])
    out = layer(tokens, (3, 5), prefix_tokens=1)
    torch.testing.assert_close(layer(tokens[:, order], (3, 5), prefix_tokens=1), out[:, order])
    torch.testing.assert_close(layer(tokens, (5, 3), prefix_tokens=1), out)


@pytest.mark.parametrize("name", ["peg(frozen=True)", "learned+peg5(frozen=True)"])
def test_a_frozen_peg_encodes_as_drawn_and_never_learns(name):
    torch.manual_seed(0)
    model = cpvt.create_model("cpvt_micro", encoding=name, num_classes=3, img_size=16)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    model(torch.randn(2, 3, 16, 16)).square().sum().backward()
    optimizer.step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    pegs = {key for key in before if "peg." in key}
    assert pegs
    assert not changed & pegs
    assert {key for key, _ in model.named_parameters()} - pegs - changed == set()
    assert all(before[key].any() for key in pegs if key.endswith("weight"))


SCALES = [1, 1.25, 1.5, 2, 2.7, 3, (1, 2)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_scale_reads_neighbours_that_much_further_away(layer, scale, prefix):
    tokens = torch.randn(2, prefix + 20, 4, dtype=torch.float64)
    truth = reference.peg(tokens, layer.weight, layer.bias, (4, 5), prefix, dilation=scale)
    torch.testing.assert_close(layer(tokens, (4, 5), prefix, scale=scale), truth)
    torch.testing.assert_close(tokens + layer.encoding(tokens, (4, 5), prefix, scale=scale), truth)
    torch.testing.assert_close(layer.fold()(tokens, (4, 5), prefix, scale=scale), truth)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("layout", LAYOUT_AXES)
def test_all_layouts_give_the_same_numbers_at_a_scale(layer, layout, scale):
    tokens = torch.randn(2, 15, 4, dtype=torch.float64)
    other = cpvt.PEG(4, layout=layout).double()
    other.load_state_dict(layer.state_dict())
    image = tokens.unflatten(1, (3, 5)).permute(LAYOUT_AXES[layout])
    expected = layer(tokens, (3, 5), scale=scale).unflatten(1, (3, 5)).permute(LAYOUT_AXES[layout])
    torch.testing.assert_close(other(image, scale=scale), expected)
    torch.testing.assert_close(image + other.encoding(image, scale=scale), expected)


def test_a_scale_multiplies_the_dilation_of_the_layer():
    layer = cpvt.PEG(4, (5, 3), dilation=2).double()
    tokens = torch.randn(2, 63, 4, dtype=torch.float64)
    truth = reference.peg(tokens, layer.kernel(), layer.bias, (7, 9), dilation=(2.5, 6))
    torch.testing.assert_close(layer(tokens, (7, 9), scale=(1.25, 3)), truth)


@pytest.mark.parametrize("mode", ["zeros", "replicate", "circular"])
@pytest.mark.parametrize("scale", [2, 3, (2, 3)])
@pytest.mark.parametrize("kernel_size", [3, (5, 3)])
def test_copies_of_tokens_get_at_a_scale_what_the_tokens_get(mode, scale, kernel_size):
    layer = cpvt.PEG(4, kernel_size, padding_mode=mode).double()
    torch.nn.init.normal_(layer.bias)
    down, across = scale if isinstance(scale, tuple) else (scale, scale)

    def repeat(x):
        return x.unflatten(1, (4, 5)).repeat_interleave(down, 1).repeat_interleave(across, 2).flatten(1, 2)

    tokens = torch.randn(2, 20, 4, dtype=torch.float64)
    found = layer(repeat(tokens), (4 * down, 5 * across), scale=scale)
    assert (found - repeat(layer(tokens, (4, 5)))).abs().max() < 1e-12


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("scales", [None, [1, 2, 1.5, (1, 2.5)], [2, 2, 2, (1, 2)]])
def test_each_image_of_a_pack_has_its_own_scale(layer, scales, prefix, folded):
    layer = layer.fold() if folded else layer
    grids = [(3, 5), (3, 5), (4, 2), (1, 7)]
    tokens = torch.randn(1, sum(prefix + h * w for h, w in grids), 4, dtype=torch.float64)
    parts = tokens.split([prefix + h * w for h, w in grids], dim=1)
    alone = [layer(part, grid, prefix, scale) for part, grid, scale in zip(parts, grids, scales or [1] * 4)]
    torch.testing.assert_close(layer.forward_packed(tokens, grids, prefix, scales), torch.cat(alone, dim=1))


@pytest.mark.parametrize("scale", SCALES)
def test_a_full_grid_at_coordinates_at_a_scale(layer, scale):
    tokens = torch.randn(1, 15, 4, dtype=torch.float64)
    places = torch.cartesian_prod(torch.arange(3), torch.arange(5))
    torch.testing.assert_close(layer.forward_at(tokens[0], places, scale=scale), layer(tokens, (3, 5), scale=scale)[0])


@pytest.mark.parametrize("scale", [0, 0.5, -1, float("nan"), float("inf"), (1, 2, 3), [2], "2", None, torch.zeros(2)])
def test_scales_that_make_no_sense(scale):
    layer, tokens = cpvt.PEG(4), torch.zeros(1, 15, 4)
    calls = [
        lambda: layer(tokens, (3, 5), scale=scale),
        lambda: layer.encoding(tokens, (3, 5), scale=scale),
        lambda: cpvt.PEG(4, layout="NHWC")(torch.zeros(1, 3, 5, 4), scale=scale),
        lambda: layer.forward_packed(tokens, [(3, 5)], scales=[scale]),
        lambda: layer.forward_at(tokens[0], torch.arange(30).view(15, 2), scale=scale),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"scale must be 1 or more, one number or one for each of 2 axes; got"):
            call()


@pytest.mark.parametrize("scales", [[], [1], [1, 2, 3], 2.0])
def test_a_list_of_scales_of_another_length_than_the_images(scales):
    with pytest.raises(ValueError, match="scale must be 1 or more for each of the 2 images; got"):
        cpvt.PEG(4).forward_packed(torch.zeros(1, 12, 4), [(2, 4), (2, 2)], scales=scales)


def test_a_scale_above_the_grid_names_the_axis():
    layer = cpvt.PEG(4)
    with pytest.raises(ValueError, match=r"along the rows a 1x7 grid has 1 tokens; got 2. .* as \(1, 2\) for a grid"):
        layer(torch.zeros(1, 7, 4), (1, 7), scale=2)
    with pytest.raises(ValueError, match="along the columns a 3x5 grid has 5 tokens; got 5.5"):
        layer.forward_packed(torch.zeros(1, 15, 4), [(3, 5)], scales=[(1, 5.5)])
    assert layer(torch.zeros(1, 7, 4), (1, 7), scale=(1, 7)).shape == (1, 7, 4)


def test_numbers_of_numpy_and_tensors_are_scales_too(layer):
    tokens = torch.randn(1, 15, 4, dtype=torch.float64)
    expected = layer(tokens, (3, 5), scale=(1.5, 2))
    both = torch.tensor([1.5, 2])
    for scale in (both, both.unbind(), tuple(both.numpy()), [1.5, 2]):
        assert torch.equal(layer(tokens, (3, 5), scale=scale), expected)
