"""Translation: it finds what moves with the image, and nothing else."""

import pytest
import torch

from cpvt.adapters import adapter_of
from cpvt.evaluation.probes.context import Change
from cpvt.evaluation.probes.translation import overlap, shift


@pytest.mark.parametrize("method", ["circular", "canvas", "crop"])
def test_the_overlap_shows_the_same_pixels(method):
    images = torch.randn(2, 1, 32, 40)
    for pixels in (1, 4, 8):
        before, after = shift(images, method, 0, 4), shift(images, method, pixels, 4)
        assert (
            before.shape == after.shape == (2, 1, *{"circular": (32, 40), "canvas": (48, 56), "crop": (24, 32)}[method])
        )
        maps = [each.permute(0, 2, 3, 1) for each in (before, after)]
        torch.testing.assert_close(*overlap(*maps, method, pixels, pixels))
        assert not torch.equal(before, after)


def test_a_canvas_always_holds_the_whole_image():
    images = torch.rand(1, 1, 16, 16) + 1
    for pixels in (0, 1, 8):
        assert shift(images, "canvas", pixels, 4).sum() == pytest.approx(float(images.sum()))


def test_a_change_is_in_units_of_the_spread_of_tokens():
    maps = torch.randn(400, 4, 4, 8) + 100
    unrelated, equal = Change(), Change()
    unrelated.add(torch.randn(400, 4, 4, 8) + 100, maps)
    equal.add(maps, maps)
    assert unrelated.numbers[0] == pytest.approx(2**0.5, rel=0.03)
    assert equal.numbers == (0, 0, 400)


@pytest.mark.parametrize("encoding", ["none", "peg(padding_mode='circular')"])
def test_what_is_equivariant_moves_with_circular_shifts(tiny_model, measured, encoding):
    find = measured(tiny_model(encoding), "translation")
    for name in ("1 patch", "2 patches"):
        assert max(find("token error", case=f"circular, {name}")) < 1e-5
        assert find("same prediction", case=f"circular, {name}") == [1]
    assert max(find("token error", case="circular, 1 patch", depth=0)) < 1e-5


@pytest.mark.parametrize("encoding", ["learned", "peg", "rope"])
def test_encodings_of_borders_or_positions_do_not(tiny_model, measured, encoding):
    find = measured(tiny_model(encoding), "translation")
    assert min(find("token error", case="circular, 1 patch", depth=2)) > 0.02
    assert max(find("token error", case="circular, 1 patch", depth=2, baseline="none")) < 1e-5


def test_on_a_canvas_a_model_without_encoding_moves_exactly(tiny_model, measured):
    find = measured(tiny_model("none"), "translation")
    assert max(find("token error", case="canvas, 1 patch")) < 1e-5
    assert find("same prediction", case="canvas, 2 patches") == [1]
    assert {each.size for each in find.probe_results if each.case.startswith("canvas")} == {32}


def test_accuracy_counts_correct_predictions(measured, digits):
    class KnowsTheFirst(torch.nn.Module):
        """Predicts class 0 where the top left corner is dark, else class 1."""

        def forward(self, images):
            return torch.nn.functional.one_hot((images[:, 0, 0, 0] > 5).long(), 10).float()

    adapter = adapter_of(KnowsTheFirst(), train_size=32, patch_size=4)
    find = measured(adapter, "translation", images=597)
    fraction = sum(digits.test.labels == 0) / 597
    assert find("accuracy", case="circular, not shifted") == [pytest.approx(fraction, abs=1e-4)]
    assert find("same prediction", case="circular, 1 pixel") == [1]


def test_a_refused_canvas_is_reported_and_the_rest_runs(tiny_model, measured):
    model = tiny_model("learned")

    class OneSize(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images):
            if images.shape[-1] != 16:
                raise AssertionError(f"16 pixels wanted, {images.shape[-1]} given")
            return self.inner(images)

    find = measured(OneSize(), "translation", img_size=16)
    assert "16 pixels wanted, 24 given" in find.refused["model", "predictions, canvas"]
    assert find("same prediction", case="circular, 1 pixel")
    assert find("accuracy", case="crop, 1 pixel")


@pytest.mark.parametrize("scale", ["pixels", "2.0", "1x2"])
def test_at_every_scale_the_interior_moves_with_whole_tokens(tiny_model, scale):
    """A PEG without attention: what no border reaches moves exactly."""
    model = tiny_model("peg(padding_mode='zeros')", img_size=48)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attn.proj.weight)
    adapter = adapter_of(model).with_scale(scale)
    images = torch.randn(2, 1, 48, 48)
    before, after = (adapter.token_maps(shift(images, "circular", pixels, 4))[2] for pixels in (0, 4))
    border = 3  # tokens: the neighbours at distance 2, and the shift
    moved = after.roll((-1, -1), (1, 2))[:, border:-border, border:-border]
    torch.testing.assert_close(moved, before[:, border:-border, border:-border], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(after.roll((-1, -1), (1, 2)), before, atol=0.01)  # the border is seen
    other = adapter_of(model).with_scale("1.5").token_maps(images)[2]
    assert (other - before)[:, border:-border, border:-border].abs().max() > 0.1  # and so is the scale


def test_probes_are_measured_at_a_scale_and_say_so(tiny_model, measured):
    model = tiny_model("peg(padding_mode='circular')")
    plain, told = (measured(model, "translation", "position", "longer", scale=scale) for scale in (None, "2.0"))
    assert {each.scale for each in plain.probe_results} == {"fit"}
    assert {(each.scale, each.model) for each in told.probe_results} == {("2", "VisionTransformer at scale 2")}
    assert model.scale == "fit"
    assert max(told("token error", case="circular, 1 patch")) < 1e-5
    border = tiny_model("peg")
    at_one, at_two = (measured(border, "position", "translation", scale=scale) for scale in ("pixels", "2.0"))
    for measure, case in (("r2", ""), ("token error", "circular, 1 patch")):
        assert at_one(measure, case=case, depth=2) != at_two(measure, case=case, depth=2)
        assert at_one(measure, case=case, depth=0) == at_two(measure, case=case, depth=0)


def test_a_scale_needs_a_model_that_can_be_told(measured, coordinates):
    with pytest.raises(ValueError, match="'Coordinates' has no PEG, so it takes no scale"):
        measured(coordinates(), "position", scale="2.0")
    with pytest.raises(ValueError, match=r"scale must be 1 or more.*; got '0.5'"):
        measured(coordinates(), "position", scale="0.5")
    assert {each.scale for each in measured(coordinates(), "position", img_size=16).probe_results} == {""}
