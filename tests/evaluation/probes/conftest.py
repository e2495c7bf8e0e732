"""Tiny models, and encoders with known positions, to probe."""

import pytest
import torch
from torch import nn

from cpvt.config import ModelConfig
from cpvt.data import open_data
from cpvt.evaluation.probes import probe
from cpvt.models import VisionTransformer


@pytest.fixture(scope="session")
def digits():
    return open_data("digits")


@pytest.fixture(scope="session")
def tiny_model():
    """Makes a transformer for 16x16 images with 4x4 patches; its weights are large enough for every part to matter."""

    def make(encoding="none", pool="avg", **options):
        torch.manual_seed(0)
        shape = dict(img_size=16, patch_size=4, in_chans=1, num_classes=10, embed_dim=16, depth=2, num_heads=2)
        model = VisionTransformer(ModelConfig(encoding=encoding, global_pool=pool, **{**shape, **options}))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and "norm" not in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.3)
        return model.eval()

    return make


class Coordinates(nn.Module):
    """An encoder whose tokens hold their coordinates, and one channel of content.

    unit: 'scaled' from 0 to 2 at every size, 'patches' from the top left.
    """

    def __init__(self, form="tokens", unit="scaled", patch=4):
        super().__init__()
        self.form, self.unit, self.patch = form, unit, patch
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        content = nn.functional.avg_pool2d(images[:, :1], self.patch).permute(0, 2, 3, 1)
        h, w = content.shape[1:3]
        rows, columns = torch.arange(h).float(), torch.arange(w).float()
        if self.unit == "scaled":
            rows, columns = (2 * rows + 1) / h, (2 * columns + 1) / w
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).expand(len(content), -1, -1, -1)
        nhwc = torch.cat([places, content], -1) + self.anchor
        tokens = nhwc.flatten(1, 2)
        prefixed = torch.cat([torch.full((len(tokens), 3, 3), 7.0), tokens], 1)
        return {
            "NHWC": nhwc, "NCHW": nhwc.permute(0, 3, 1, 2), "tokens": tokens, "prefix": prefixed,
            "dict": {"cls": prefixed[:, 0], "last_hidden_state": prefixed}, "tuple": (prefixed[:, 0], tokens),
        }[self.form]  # fmt: skip


@pytest.fixture(scope="session")
def coordinates():
    return Coordinates


@pytest.fixture(scope="session")
def measured(digits):
    """Runs probes and returns a function that finds values: find(measure, case=..., baseline=...)."""

    def run(model, *probes, images=16, data=digits, **options):
        probe_results = list(probe(model, data, probes=probes, images=images, **options))

        def find(measure, **wanted):
            wanted = {"baseline": "model", **wanted}
            found = [each for each in probe_results if each.measure == measure]
            found = [each for each in found if all(getattr(each, name) == value for name, value in wanted.items())]
            assert found, (measure, wanted)
            return [each.value for each in found]

        find.probe_results = probe_results
        find.refused = {(each.baseline, each.measure): each.words for each in probe_results if each.value is None}
        return find

    return run
