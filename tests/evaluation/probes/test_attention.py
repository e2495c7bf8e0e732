"""Attention: distances by hand, and the maps that are saved."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cpvt.adapters import ModelAdapter, adapter_of
from cpvt.evaluation.probes.attention import distances
from cpvt.results.folders import ARRAYS, probe_attention_file


def test_distances_by_hand():
    assert distances((1, 3)).tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    assert float(distances((4, 5))[0, 19]) == 5  # 3 rows down, 4 columns on


def test_uniform_attention_has_the_uniform_distance(tiny_model, measured):
    model = tiny_model("learned")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.zero_()
    find = measured(model, "attention")
    uniform = float(distances((4, 4)).mean())
    assert find("distance", case="uniform") == [pytest.approx(uniform, rel=1e-4)] * 2
    for head in ("head 1", "head 2"):
        assert find("distance", case=head) == [pytest.approx(uniform, rel=1e-4)] * 2
    assert find("relative distance") == [pytest.approx(1, rel=1e-4)] * 2


@dataclass(frozen=True)
class Neighbour(ModelAdapter):
    """Each token attends to its right neighbour (in the last column to itself); half goes to the prefix."""

    def token_maps(self, images):
        return dict.fromkeys((0, 1, 2), torch.zeros(len(images), 3, 4, 2))

    def attention(self, images, block):
        weights = torch.zeros(len(images), 2, 12, 12)
        for token in range(12):
            weights[:, :, token, token + (token % 4 < 3)] = 0.5
        return weights


def test_the_prefix_is_left_out_and_maps_are_saved(measured, tmp_path):
    adapter = Neighbour(torch.nn.Conv2d(1, 4, 4, 4), "a/neighbour", train_size=(12, 16), patch_size=4)
    find = measured(adapter, "attention", out=tmp_path)
    assert find("distance", case="head 1") == [0.75, 0.75]
    maps = np.load(tmp_path / ARRAYS / probe_attention_file("a/neighbour", "model"))
    assert maps.shape == (3, 4, 3, 4)
    assert maps[1, 1, 1, 2] == 1
    assert maps.sum() == 12


def test_unknown_attention_is_reported(coordinates, measured):
    find = measured(adapter_of(coordinates()), "attention", img_size=16)
    assert "how to look at the attention of 'Coordinates'" in find.refused["model", "distance"]
