"""A masked autoencoder: the encoder sees a quarter of the patches, and forward_at tells PEG where they are.

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
        self.places, self.masked = places, nn.Parameter(torch.zeros(dim))
        self.embed, self.reconstruct = nn.Linear(PATCH**2, dim), nn.Linear(dim, PATCH**2)
        self.encoder, self.decoder = nn.ModuleList(Block(dim, 4) for _ in range(3)), Block(dim, 4)
        self.encoder_peg, self.decoder_peg = cpvt.PEG(dim, kernel_size=7), cpvt.PEG(dim)

    def forward(self, patches: Tensor, seen: Tensor) -> Tensor:
        """All patches (B, 64, 16), reconstructed from those seen (B, 16, 16), whose numbers are `seen` (B, 16)."""
        x = self.encoder[0](self.embed(patches))  # (B, 16, D)
        if self.places == "true":
            coordinates = torch.stack([seen // GRID, seen % GRID], dim=-1).flatten(0, 1)  # (B * 16, 2): row, column
            image = torch.arange(len(x)).repeat_interleave(SEEN)  # tokens of different images never meet
            x = self.encoder_peg.forward_at(x.flatten(0, 1), coordinates, image).view_as(x)
        elif self.places == "compact":
            x = self.encoder_peg(x, (4, 4))
        for block in self.encoder[1:]:
            x = block(x)
        every = self.masked.repeat(len(x), GRID**2, 1)
        every = every.scatter(1, seen[..., None].expand_as(x), x)  # (B, 64, D), the seen patches in their places
        return self.reconstruct(self.decoder(self.decoder_peg(every, (GRID, GRID))))


def error(model: MaskedAutoencoder, patches: Tensor, generator: torch.Generator) -> Tensor:
    """The mean squared error on the patches that the encoder does not see."""
    order = torch.rand(patches.shape[:2], generator=generator).argsort(1)
    seen, unseen = order[:, :SEEN].sort(1)[0], order[:, SEEN:]  # (B, 16), (B, 48)
    b = torch.arange(len(patches))[:, None]
    return F.mse_loss(model(patches[b, seen], seen)[b, unseen], patches[b, unseen])


def train(places: str, seed: int, steps: int) -> list[float]:
    """The error on test images, before and after training."""
    torch.manual_seed(seed)
    model, generator = MaskedAutoencoder(places), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps + 1)
    errors = []
    for step in range(steps + 1):
        if step in (0, steps):
            with torch.no_grad():
                errors.append(float(error(model, TEST, torch.Generator().manual_seed(99))))
        optimizer.zero_grad()
        error(model, TRAIN[torch.randint(len(TRAIN), (64,), generator=generator)], generator).backward()
        optimizer.step()
        schedule.step()
    return errors


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()

    peg, seen, x = cpvt.PEG(8), torch.randperm(GRID**2)[:SEEN], torch.randn(SEEN, 8)
    at = peg.forward_at(x, torch.stack([seen // GRID, seen % GRID], dim=-1)).detach()
    full = peg(torch.zeros(1, GRID**2, 8).index_copy(1, seen, x[None]), (GRID, GRID))[0, seen].detach()
    print(f"a neighbour that is not seen counts as zero: off by {(at - full).abs().max():.0e} from a full grid")
    for places in ("true", "compact", "none"):
        before, after = zip(*(train(places, seed, given.steps) for seed in range(given.seeds)))
        spread = f"{statistics.mean(after):.4f} ({min(after):.4f} to {max(after):.4f})"
        print(f"places {places}: error on unseen patches {statistics.mean(before):.4f} before, {spread} after training")
