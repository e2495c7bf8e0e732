"""The paper's ablation of zero padding: a PEG without padding, whose residual is cropped to what the convolution leaves.

python docs/results/positions/valid.py RUNS: trains three seeds as `cpvt compare` trains the others of this page, adds
their rows to rows.jsonl beside this file, and probes them as run.sh probes the others. The border's tokens go after block 1.

A convolution without padding gives, on the tokens inside, just what one with zero padding gives there; so this is the
zero-padded PEG less the border's tokens, and that is how it is computed.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import cpvt.results.checkpoints
import cpvt.training
from cpvt.config import TrainConfig
from cpvt.grids import Layout
from cpvt.models import VisionTransformer
from cpvt.runtime.files import append_rows

HERE, NAME = Path(__file__).parent, "peg, valid"
SIZES = {"canvas": (32, 48, 64, 96), "resize": (16, 24, 32, 48, 64)}


def crop(x: Tensor, layout: Layout) -> tuple[Tensor, Layout]:
    """Tokens without those of the border."""
    (h, w), prefix = layout.grid, layout.prefix_tokens
    inside = x[:, prefix:].unflatten(1, (h, w))[:, 1:-1, 1:-1].flatten(1, 2)
    return torch.cat([x[:, :prefix], inside], dim=1), Layout(((h - 2, w - 2),), prefix)


class Cropped(VisionTransformer):
    """Loses the border's tokens after block 1 and its PEG."""

    def run_blocks(
        self, x: Tensor, layout: Layout, positions: Any, count: int | None = None, taken: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        found = []
        for depth in range(1, 1 + (len(self.blocks) if count is None else count)):
            x = self._run_block(depth, x, layout, positions)
            if depth == 1:
                x, layout = crop(x, layout)
            found.append(x)
        return x, found

    def forward_intermediates(self, images: Tensor, **options: Any) -> list[Tensor]:
        x, layout, positions = self.embed(images)
        h, w = layout.grid
        _, steps = self.run_blocks(x, layout, positions)
        return [
            tokens[:, self.num_prefix_tokens :].unflatten(1, (h - 2, w - 2)).permute(0, 3, 1, 2) for tokens in steps
        ]


def main(runs: Path) -> None:
    cpvt.results.checkpoints.VisionTransformer = Cropped
    for seed in range(3):
        folder = cpvt.train(TrainConfig(str(runs / f"valid-seed{seed}"), encoding="peg", seed=seed))
        for protocol, sizes in SIZES.items():
            for row in cpvt.sweep(folder, None, sizes, protocols=(protocol,)):
                append_rows(HERE / "rows.jsonl", [replace(row, encoding=NAME)])
                print(row.protocol, row.size, f"{row.accuracy:.1%}", flush=True)
        adapter = replace(cpvt.load(folder).adapter, name=f"valid-seed{seed}")
        for probe_result in cpvt.probe(
            adapter,
            "digits",
            probes=("order", "translation", "position"),
            out=runs.parent / "probes" / f"valid-seed{seed}",
        ):
            if probe_result.measure == "r2" and not probe_result.case:
                print(probe_result.baseline, probe_result.images, probe_result.depth, probe_result.value, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
