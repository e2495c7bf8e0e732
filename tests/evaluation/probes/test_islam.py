"""Islam et al.'s maps: tokens that are coordinates predict them, tokens without positions do not."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from cpvt.evaluation.probes.islam import correlation, neighbourhoods, target_maps


def test_the_maps_match_their_names():
    maps = target_maps(26)
    assert all(each.shape == (26, 26) and each.min() == 0 and each.max() == 1 for each in maps.values())
    assert torch.equal(maps["H"][0], maps["H"][-1])
    assert (maps["H"].diff(dim=1) > 0).all()
    torch.testing.assert_close(maps["V"], maps["H"].T)
    assert maps["G"].argmax() in (12 * 26 + 12, 12 * 26 + 13, 13 * 26 + 12, 13 * 26 + 13)
    assert (maps["HS"][0].diff() < 0).sum() == 3
    torch.testing.assert_close(maps["VS"], maps["HS"].T)


def test_the_readout_is_one_convolution_without_padding():
    tokens, kernel = torch.randn(2, 28, 28, 3), torch.randn(1, 3, 3, 3)
    expected = torch.nn.functional.conv2d(tokens.permute(0, 3, 1, 2), kernel)
    assert expected.shape[2:] == (26, 26)
    torch.testing.assert_close(neighbourhoods(tokens) @ kernel.flatten(), expected.flatten(1), atol=1e-4, rtol=1e-4)


def test_correlation_is_spearmans():
    found, truth = torch.randn(3, 50, 2, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64).round(decimals=1)
    found = found.round(decimals=1)
    for image in range(3):
        for number in range(2):
            expected = spearmanr(found[image, :, number], truth[:, number]).statistic
            assert float(correlation(found, truth)[image, number]) == pytest.approx(expected)
    assert correlation(torch.full((1, 50, 2), 0.5) + 1e-7 * found[:1], truth).tolist() == [[0, 0]]


def test_coordinates_predict_the_gradients_on_every_kind_of_image(coordinates, measured):
    find = measured(coordinates(), "islam", img_size=32)
    for name in ("H", "V"):
        assert min(find("spearman", case=name)) > 0.95
        assert max(find("mae", case=name)) < 0.05
    assert len(find("spearman", case="H")) == 4


def test_a_model_without_encoding_predicts_nothing(tiny_model, measured):
    find = measured(tiny_model("none"), "islam", images=64)
    assert find("spearman", images="black") == [0] * 5
    assert find("spearman", images="white") == [0] * 5
    assert np.abs(find("spearman", images="noise", case="H, fitted on noise")) < 0.15
    assert find("mae", images="noise", case="H, fitted on noise")[0] == pytest.approx(0.25, abs=0.05)
