"""Slides: bags of thousands of patches at irregular places, labelled by their arrangement, in a small TransMIL.

python examples/slides.py takes two minutes on a core; --steps 3 --slides 1 shows that it runs.
"""

import argparse
import math
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import cpvt

KINDS = torch.randn(3, 16, generator=torch.Generator().manual_seed(7))  # what an image encoder says of stroma, A and B
SIDES, TESTS = (16, 32), {44: 5, 125: 1}  # of the grid that tissue fills in part; tests with a factor on --slides


def slide(side: int, draw: np.random.Generator) -> tuple[Tensor, Tensor, int]:
    """Features (N, 16) and places (N, 2) of the patches of a slide, and its label: do A and B touch (1), or not (0)?

    The tissue has an outline and holes. Both labels have as many A and B: B next to A, or six patches away from it, to
    the right in one half of the slides and below in the other.
    """
    smooth = gaussian_filter(draw.standard_normal((side, side)), side / 10)
    tissue = (smooth > np.quantile(smooth, 0.3)) & (draw.random((side, side)) > 0.1)
    places, kinds, label = np.argwhere(tissue), np.zeros((side, side), dtype=np.int64), int(draw.integers(2))
    down, right = ((0, 1), (1, 0))[draw.integers(2)]
    pairs = len(places) // 20
    for row, column in draw.permutation(places):
        near, far = (((row + n * down) % side, (column + n * right) % side) for n in (1, 6))
        if pairs and tissue[near] and tissue[far] and not kinds[row, column] + kinds[near] + kinds[far]:
            kinds[row, column], kinds[near if label else far], pairs = 1, 2, pairs - 1
    features = KINDS[torch.from_numpy(kinds[tissue])]
    noise = 0.5 * torch.from_numpy(draw.standard_normal(features.shape)).float()
    return features + noise, torch.from_numpy(places), label


class Classifier(nn.Module):
    """PPEG, attention, mean. places: 'true', 'square' (TransMIL's packing) or 'none'."""

    def __init__(self, places: str, dim: int = 48) -> None:
        super().__init__()
        self.places, self.embed, self.head = places, nn.Linear(16, dim), nn.Linear(dim, 2)
        self.ppeg, self.block = cpvt.PEG(dim, kernel_size=(7, 5, 3)), Block(dim, 4)

    def forward(self, features: Tensor, places: Tensor) -> Tensor:
        x = self.embed(features)[None]  # (1, N, D)
        if self.places == "true":
            x = self.ppeg.forward_at(x[0], places)[None]
        elif self.places == "square":  # row by row into a square, filled up with the first patches
            side = math.ceil(math.sqrt(len(features)))
            x = self.ppeg(torch.cat([x, x[:, : side**2 - len(features)]], 1), (side, side))[:, : len(features)]
        return self.head(self.block(x).mean(1))


def train(places: str, seed: int, steps: int) -> Classifier:
    torch.manual_seed(seed)
    model, draw = Classifier(places), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps + 1)
    for _ in range(steps):
        for _ in range(16):
            features, where, label = slide(int(draw.integers(*SIDES)), draw)
            (F.cross_entropy(model(features, where), torch.tensor([label])) / 16).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: Classifier, side: int, count: int) -> float:
    draw = np.random.default_rng(99)
    slides = (slide(side, draw) for _ in range(count))
    return 100 / count * sum(int(model(features, where).argmax()) == label for features, where, label in slides)


def memory(count: int) -> int:
    """Bytes that forward_at keeps for the backward."""
    side, kept = math.isqrt(4 * count) + 1, {}
    places = torch.randperm(side**2)[:count]  # a quarter of the places of a square
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t.nbytes}) or t, lambda t: t):
        cpvt.PEG(48, (7, 5, 3)).forward_at(torch.randn(count, 48), torch.stack([places // side, places % side], 1))
    return sum(kept.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--slides", type=int, default=10, help="of 10,000 patches, in the test")
    given = parser.parse_args()
    for places in ("true", "square", "none"):
        models = [train(places, seed, given.steps) for seed in range(given.seeds)]
        for side, factor in TESTS.items():
            scores = [accuracy(model, side, factor * given.slides) for model in models]
            spread = f"{statistics.mean(scores):.1f} % ({min(scores):.1f} to {max(scores):.1f})"
            print(f"places {places}, about {round(0.63 * side**2, -2):.0f} patches: {spread}", flush=True)
    print("memory of forward_at:", *(f"{n} patches: {memory(n) / n:.0f} bytes each" for n in (1000, 10_000, 100_000)))
