"""Coordinates that are jittered in training."""

import inspect
import math

import pytest
import torch

from cpvt.encodings import TABLE, create_encoding, find_builder
from cpvt.encodings.coordinates import JITTERS, Jitter
from cpvt.grids import Layout
from cpvt.models.attention import AttentionInputs
from tests.encodings.slow import SHAPE, tokens
from tests.encodings.test_factorized import read
from tests.encodings.test_truth import cubic

TAKE_IT = [name for name in TABLE if "jitter" in inspect.signature(find_builder(name)).parameters]


def outputs(encoding, depth=1):
    """What an encoding gives for tokens of zeros, and for attention."""
    layout, x = Layout(((4, 6),)), torch.zeros(1, 24, 16)
    inputs = AttentionInputs.build(encoding, layout, x).at_block(encoding, layout, depth, x)
    return torch.cat([each.flatten() for each in (encoding(x, layout, 0), inputs.cos, inputs.sin) if each is not None])


def test_all_with_coordinates_take_it():
    coordinates = [name for name in TABLE if "coordinates" in inspect.signature(find_builder(name)).parameters]
    assert coordinates == TAKE_IT
    assert {"learned", "factorized", "rope_mixed"} <= set(TAKE_IT)


@pytest.mark.parametrize("jitter", [repr(name) for name in JITTERS])
@pytest.mark.parametrize("name", TAKE_IT)
def test_it_acts_in_training_alone(name, jitter):
    torch.manual_seed(0)
    encoding = create_encoding(f"{name}(jitter={jitter})", SHAPE)
    plain = create_encoding(f"{name}(jitter=None)", SHAPE)
    plain.load_state_dict(encoding.state_dict())
    trained = [outputs(encoding.train()) for _ in range(2)]
    assert (trained[0] - trained[1]).abs().max() > 1e-5
    assert torch.equal(outputs(encoding.eval()), outputs(plain.eval()))
    assert torch.equal(outputs(plain.train()), outputs(plain.eval()))


@pytest.mark.parametrize("name", TAKE_IT)
def test_another_training_size_is_set_without_it_in_training_too(name):
    torch.manual_seed(0)
    encodings = [create_encoding(f"{name}(jitter={jitter})", SHAPE) for jitter in ("None", "'fpe'")]
    encodings[1].load_state_dict(encodings[0].state_dict())
    for encoding in encodings:
        encoding.train().set_grid((5, 9))
    plain, jittered = (encoding.state_dict() for encoding in encodings)
    for key, value in plain.items():
        assert torch.equal(jittered[key], value), key
    assert torch.equal(*(outputs(encoding.eval()) for encoding in encodings))


def moved(jitter, count=300):
    """How far the rows and columns of a grid of 4 x 6 tokens are from the centre, (draws, 2, 24)."""
    torch.manual_seed(0)
    axes = torch.tensor([place[1:] for place in tokens((4, 6))]).float().t()
    centre = torch.tensor([[1.5], [2.5]])
    drawn = torch.stack([torch.stack([*jitter.apply(axes.unbind(), (4, 6))]) for _ in range(count)])
    return drawn - centre, axes - centre


def test_noise_is_of_each_token():
    drawn, rest = moved(Jitter(noise=0.5))
    off = drawn - rest
    assert -0.5 <= off.min() < -0.49
    assert 0.49 < off.max() <= 0.5
    assert off.std(dim=2).min() > 0.1  # tokens of an image differ
    assert torch.corrcoef(off.permute(1, 2, 0).flatten(0, 1)).fill_diagonal_(0).abs().max() < 0.3


def test_shift_is_of_an_axis_in_sides():
    drawn, rest = moved(Jitter(shift=0.25))
    off = drawn - rest
    torch.testing.assert_close(off, off[:, :, :1].expand(-1, -1, 24), atol=1e-5, rtol=0)
    assert 0.95 < off[:, 0].abs().max() <= 1.0 + 1e-6  # a quarter of 4
    assert 1.4 < off[:, 1].abs().max() <= 1.5 + 1e-6
    assert (off[:, 0, 0] - off[:, 1, 0]).abs().max() > 0.5


def test_stretch_is_of_each_axis_and_rescale_of_both():
    for jitter, alike in ((Jitter(stretch=2.0), False), (Jitter(rescale=2.0), True)):
        drawn, rest = moved(jitter)
        ratio = drawn / rest
        torch.testing.assert_close(ratio, ratio[:, :, :1].expand(-1, -1, 24))
        assert 0.5 <= ratio.min() < 0.52
        assert 1.9 < ratio.max() <= 2.0
        assert ratio[:, :, 0].log().mean().abs() < 0.05  # log-uniform: as often larger as smaller
        assert torch.allclose(ratio[:, 0], ratio[:, 1]) == alike


def test_shift_and_noise_come_before_the_scale():
    drawn, _ = moved(Jitter(noise=0.5, shift=0.25, rescale=1.4))
    assert 3.3 < drawn[:, 0].abs().max() <= 1.4 * (1.5 + 1.0 + 0.5)


def test_tables_are_read_where_the_tokens_then_stand():
    for name in ("learned", "factorized"):
        encoding = create_encoding(f"{name}(jitter='fpe')", SHAPE).train()
        torch.manual_seed(3)
        rows, columns = encoding.coordinates.places((3, 5), torch.device("cpu"), None, training=True)
        torch.manual_seed(3)
        got = encoding.resized((3, 5))[0].detach()
        for number in range(15):
            y, x = float(rows[number]), float(columns[number])
            if name == "factorized":
                expected = read(encoding.rows, y) + read(encoding.columns, x)
            else:
                table, expected = encoding.table.view(4, 6, 16), torch.zeros(16)
                for i in range(math.floor(y) - 1, math.floor(y) + 3):
                    for j in range(math.floor(x) - 1, math.floor(x) + 3):
                        expected = expected + cubic(y - i) * cubic(x - j) * table[min(max(i, 0), 3), min(max(j, 0), 5)]
            torch.testing.assert_close(got[number], expected.detach(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("jitter", "words"),
    [
        ("'capes'", "one of fpe, cape, dino, the noise in tokens .* got 'capes'"),
        ("{'nose': 1}", "fields such as .* got {'nose': 1}"),
        ("True", "got True"),
        ("-0.5", "0 or more"),
        ("1e999", "got inf"),
        ("{'rescale': 0.5}", "1 or more"),
    ],
)
def test_wrong_jitter(jitter, words):
    with pytest.raises(ValueError, match=words):
        create_encoding(f"sincos(jitter={jitter})", SHAPE)
    assert create_encoding("sincos(jitter=0.5)", SHAPE).coordinates.jitter == Jitter(noise=0.5)
