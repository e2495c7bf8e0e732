"""A masked autoencoder: the encoder sees a quarter of the patches, and PEG gets their true places with forward_at.

python examples/masked_autoencoder.py takes two minutes on a core; --steps 3 shows that it runs.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from timm.models.vision_transformer import Block
from torch import Tensor, nn

import cpvt

SIDE, PATCH, GRID, SEEN = 32, 4, 8, 16  # pixels, pixels, patches along a side, patches that the encoder sees
IMAGES = F.interpolate(torch.tensor(load_digits().images / 8 - 1)[:, None].float(), SIDE, mode="bicubic")
PATCHES = F.pixel_unshuffle(IMAGES, PATCH).flatten(2).transpose(1, 2)  # (1797, 64, 16)
TRAIN, TEST = PATCHES[:1200], PATCHES[1200:]


class MaskedAutoencoder(nn.Module):
    """places: where the encoder's PEG takes patches to be: 'true', 'compact' (closed up to 4x4, a mistake), 'none'."""

    def __init__(self, places: str, dim: int = 64) -> None:
        super().__init__()
        self.places = places
        self.embed, self.reconstruct = nn.Linear(PATCH**2, dim), nn.Linear(dim, PATCH**2)
        self.encoder = nn.ModuleList(Block(dim, 4) for _ in range(3))
        self.decoder = Block(dim, 4)
        self.encoder_peg, self.decoder_peg = cpvt.PEG(dim, kernel_size=7), cpvt.PEG(dim)
        self.masked = nn.Parameter(torch.zeros(dim))

    def forward(self, patches: Tensor, seen: Tensor) -> Tensor:
        """Reconstructed patches (B, 64, 16) of patches (B, 64, 16), of which `seen` (B, 16) numbers those to see."""
        b = torch.arange(len(patches))[:, None]
        x = self.embed(patches[b, seen])  # (B, 16, D)
        for number, block in enumerate(self.encoder):
            x = block(x)
            if number == 0:
                x = self.locate(x, seen)
        grid = self.masked.repeat(*patches.shape[:2], 1).index_put((b, seen), x)  # all 64, in their places
        return self.reconstruct(self.decoder(self.decoder_peg(grid, (GRID, GRID))))

    def locate(self, x: Tensor, seen: Tensor) -> Tensor:
        if self.places == "none":
            return x
        if self.places == "compact":
            return self.encoder_peg(x, (4, 4))
        coordinates = torch.stack([seen // GRID, seen % GRID], dim=-1).flatten(0, 1)  # (B * 16, 2), row and column
        image = torch.arange(len(x)).repeat_interleave(SEEN)  # tokens of different images never meet
        return self.encoder_peg.forward_at(x.flatten(0, 1), coordinates, image).view_as(x)


def step(model: MaskedAutoencoder, patches: Tensor, generator: torch.Generator) -> Tensor:
    """The mean squared error on the patches that the encoder does not see."""
    order = torch.rand(patches.shape[:2], generator=generator).argsort(1)
    seen, unseen = order[:, :SEEN], order[:, SEEN:]
    b = torch.arange(len(patches))[:, None]
    return F.mse_loss(model(patches, seen)[b, unseen], patches[b, unseen])


def train(places: str, seed: int, steps: int) -> tuple[float, float]:
    """The error on test images, before and after training."""
    torch.manual_seed(seed)
    model, generator = MaskedAutoencoder(places), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps + 1)
    before = test(model)
    for _ in range(steps):
        loss = step(model, TRAIN[torch.randint(len(TRAIN), (64,), generator=generator)], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return before, test(model)


@torch.no_grad()
def test(model: MaskedAutoencoder) -> float:
    return float(step(model, TEST, torch.Generator().manual_seed(99)))


def check() -> float:
    """Largest difference of forward_at from a full grid in which what is not seen is zero."""
    peg, seen, x = cpvt.PEG(8, kernel_size=7), torch.randperm(GRID**2)[:SEEN], torch.randn(SEEN, 8)
    grid = torch.zeros(1, GRID**2, 8).index_copy(1, seen, x[None])
    at = peg.forward_at(x, torch.stack([seen // GRID, seen % GRID], dim=-1))
    return float((at - peg(grid, (GRID, GRID))[0, seen]).abs().max().detach())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    print(f"patches that are not seen count as zero: off by {check():.0e} from a grid with zeros in their places")
    for places in ("true", "compact", "none"):
        before, after = zip(*(train(places, seed, given.steps) for seed in range(given.seeds)))
        spread = f"{statistics.mean(after):.4f} ({min(after):.4f} to {max(after):.4f})"
        print(f"places {places}: error on unseen patches {statistics.mean(before):.4f} -> {spread}")
