"""The layer `cpvt.PEG`: layouts, the encoding alone, errors."""

import pytest
import torch

import cpvt

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
        ({"padding_mode": "valid"}, "zeros, reflect, replicate, circular; got 'valid'"),
        ({"layout": "NLP"}, "NLC, NHWC, NCHW; got 'NLP'"),
    ],
)
def test_options_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        cpvt.PEG(4, **options)


def test_calls_that_make_no_sense():
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
