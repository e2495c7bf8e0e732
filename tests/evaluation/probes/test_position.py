"""Absolute position: tokens that are coordinates score 1, tokens without positions score 0."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from cpvt.evaluation.probes.position import coordinates as true_coordinates
from cpvt.evaluation.probes.position import explained, in_patches
from cpvt.evaluation.probes.readout import RIDGE, Sums


def test_the_readout_is_ridge_regression():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=generator, dtype=torch.float64) * torch.tensor([1, 5, 0.1, 1, 2, 1]) + 1000
    y = x @ torch.randn(6, 2, generator=generator, dtype=torch.float64) + torch.randn(500, 2, generator=generator)
    sums = Sums()
    for part in (slice(0, 100), slice(100, 500)):
        sums.add(x[part], y[part])
    solved, scale = sums.solve(), x.std(0, correction=0)
    expected = Ridge(RIDGE * 500).fit(((x - x.mean(0)) / scale).numpy(), y.numpy())
    np.testing.assert_allclose(solved.weight.numpy(), expected.coef_.T / scale.numpy()[:, None], rtol=1e-6)
    np.testing.assert_allclose(solved(x[:9]).mean(0), expected.predict(((x[:9] - x.mean(0)) / scale).numpy()).mean(0))


def test_tokens_that_are_all_the_same_read_as_the_mean():
    sums = Sums()
    sums.add(torch.ones(8, 3), torch.arange(8.0)[:, None])
    assert float(sums.solve()(torch.ones(1, 3))) == pytest.approx(3.5)


def test_coordinates_by_hand():
    assert true_coordinates((2, 4))[:, 0, 0].tolist() == [-0.5, 0.5]
    assert true_coordinates((2, 4))[0, :, 1].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert in_patches(true_coordinates((2, 4)), (2, 4))[1, 3].tolist() == [1, 3]
    expected = true_coordinates((2, 4))
    assert explained(expected[None], expected).tolist() == [[1, 1]]
    assert explained(torch.zeros(1, 2, 4, 2), expected).tolist() == [[0, 0]]


@pytest.mark.parametrize("form", ["tokens", "prefix", "dict", "tuple", "NCHW", "NHWC"])
def test_a_table_that_is_the_coordinates_scores_one_however_it_is_returned(coordinates, measured, form):
    find = measured(coordinates(form), "position", img_size=(16, 24))
    assert min(find("r2")) > 0.999
    assert max(find("border error")) < 0.01


def test_a_model_without_encoding_scores_nothing_on_noise(tiny_model, measured):
    find = measured(tiny_model("none"), "position", images=64)
    for value in find("r2", images="noise", case=""):
        assert -0.1 < value < 0.05


def test_memorised_positions_score_nothing_on_other_images(tiny_model, measured):
    """With more channels than tokens a readout fits any images exactly: the images of the fit would give 1."""
    find = measured(tiny_model("none", embed_dim=64), "position", images=2)
    assert max(find("r2", images="noise", case="")) < 0.5


@pytest.mark.parametrize(
    ("encoding", "low", "high"),
    [("learned", 0.5, 1), ("peg", 0.1, 1), ("peg(padding_mode='circular')", -0.1, 0.05)],
)
def test_encodings_score_where_they_write_positions(tiny_model, measured, encoding, low, high):
    model = tiny_model(encoding)
    with torch.no_grad():  # so that positions stand out from content
        for parameter in model.encoding.parameters():
            parameter.mul_(5)
    find = measured(model, "position", images=64)
    depth = 0 if encoding == "learned" else 1
    assert low < find("r2", images="noise", case="", depth=depth)[0] < high
    assert -0.1 < find("r2", images="noise", case="", depth=2, baseline="none")[0] < 0.05


def test_rows_and_columns_are_distinguished(measured, coordinates):
    class RowsAlone(coordinates):
        def forward(self, images):
            return super().forward(images)[:, :, [0, 2]]

    find = measured(RowsAlone(), "position", images=64, img_size=(16, 24))
    assert find("r2", case="row", images="noise")[0] > 0.999
    assert abs(find("r2", case="column", images="noise")[0]) < 0.05


def test_the_border_error_of_a_model_that_only_knows_the_border(measured, coordinates):
    class OuterRing(coordinates):
        """Only tokens of the outermost ring hold their position."""

        def forward(self, images):
            tokens = super().forward(images).unflatten(1, (6, 6)).clone()
            tokens[:, 1:-1, 1:-1, :2] = 1.0
            return tokens.flatten(1, 2)

    find = measured(OuterRing(), "position", img_size=24)
    for kind in ("noise", "natural"):
        errors, guesses = find("border error", images=kind), find("border guess", images=kind)
        assert len(errors) == 3
        assert errors[0] < 0.1 < guesses[0]
        np.testing.assert_allclose(errors[1:], guesses[1:], rtol=0.02)
        # by hand: of the 12 tokens of a 4 x 4 ring, 8 have rows 1.5 from the centre and 4 have rows 0.5 from it
        assert guesses[1] == pytest.approx((8 * 1.5 + 4 * 0.5) / 12, rel=1e-4)
        assert guesses[2] == pytest.approx(0.5)


def test_longer_sequences_distinguish_scaled_from_absolute(measured, coordinates):
    for unit, holds, fails in (("scaled", "scaled", "absolute"), ("patches", "absolute", "scaled")):
        find = measured(coordinates(unit=unit), "longer", img_size=16)
        assert {each.size for each in find.probe_results if each.value is not None} == {16, 24, 32, 48}
        assert min(find("r2", case=holds)) > 0.999
        assert max(find("error", case=holds)) < 0.01
        assert max(value for value, each in zip(find("r2", case=fails), _of(find, fails)) if each.size != 16) < 0.9
        assert min(find("r2", case=fails, size=16)) > 0.999


def _of(find, case):
    return [
        each for each in find.probe_results if each.measure == "r2" and each.case == case and each.baseline == "model"
    ]


def test_sizes_can_be_chosen_and_become_whole_patches(measured, tiny_model):
    find = measured(tiny_model("peg"), "longer", sizes=("18x33", 24))
    assert {each.size for each in find.probe_results} == {16, (20, 36), 24}
