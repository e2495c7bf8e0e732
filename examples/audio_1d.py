"""One dimension: does a chirp in a noisy recording rise or fall? Lengths differ, and padding changes no answer.

python examples/audio_1d.py takes a minute on a core; --steps 3 shows that it runs.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cpvt

FRAME, CHIRP, LONGEST = 8, 256, 1024  # samples of a token, of a chirp, and of the longest recording in training
VARIANTS = {  # a kernel of 1 encodes no positions; a causal PEG reads only what came before, as streams need
    "PEG": dict(kernel_size=9),
    "causal PEG": dict(kernel_size=9, causal=True),
    "no positions": dict(kernel_size=1),
}


def record(count: int, longer: int, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """Recordings of noise with one chirp somewhere, and whether it rises (1) or falls (0)."""
    time, frames = torch.linspace(0, 1, CHIRP), torch.arange(longer * CHIRP, longer * LONGEST + 1, FRAME)
    cycles = CHIRP * (0.05 * time + 0.05 * time**2)  # the frequency goes from 0.05 to 0.15 cycles a sample
    rises, sounds = torch.randint(2, (count,), generator=generator), []
    for rise in rises.tolist():
        sound = 0.5 * torch.randn(int(frames[torch.randint(len(frames), (), generator=generator)]), generator=generator)
        start = int(torch.randint(len(sound) - CHIRP + 1, (), generator=generator))
        chirp = (2 * torch.pi * (cycles + torch.rand((), generator=generator))).sin()
        sound[start : start + CHIRP] += chirp if rise else chirp.flip(0)
        sounds.append(sound)
    return sounds, rises


class Listener(nn.Module):
    """Two transformer blocks over frames of 8 samples, with a one-dimensional PEG after the first."""

    def __init__(self, dim: int = 48, **options: int) -> None:
        super().__init__()
        self.frames = nn.Linear(FRAME, dim)
        make = nn.TransformerEncoderLayer
        self.blocks = nn.ModuleList(make(dim, 4, 2 * dim, 0.0, batch_first=True, norm_first=True) for _ in range(2))
        self.peg = cpvt.PEG(dim, dims=1, **options)
        self.head = nn.Linear(dim, 2)

    def forward(self, sounds: list[Tensor], clear: bool = True) -> Tensor:
        """Logits (B, 2). clear=False leaves what the first block wrote into the padding: a mistake to see."""
        tokens = [sound.unflatten(0, (-1, FRAME)) for sound in sounds]  # (n_i, 8) each
        x = self.frames(nn.utils.rnn.pad_sequence(tokens, batch_first=True))  # (B, n, D), n of the longest
        real = torch.arange(x.shape[1]) < torch.tensor([[len(each)] for each in tokens])  # (B, n), False: padding
        x = self.blocks[0](x, src_key_padding_mask=~real)
        x = self.peg(x * real[..., None] if clear else x, grid=(x.shape[1],))  # beyond its end each must find zeros
        x = self.blocks[1](x, src_key_padding_mask=~real)
        return self.head((x * real[..., None]).sum(1) / real.sum(1, keepdim=True))


def train(variant: str, seed: int, steps: int) -> Listener:
    torch.manual_seed(seed)
    model, generator = Listener(**VARIANTS[variant]), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps + 1)
    for _ in range(steps):
        sounds, rises = record(32, 1, generator)
        loss = F.cross_entropy(model(sounds), rises)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=250)
parser.add_argument("--seeds", type=int, default=1)
given = parser.parse_args()
sounds, rises = record(200, 1, torch.Generator().manual_seed(99))
longer, longer_rises = record(200, 3, torch.Generator().manual_seed(99))
trained = {name: [train(name, seed, given.steps) for seed in range(given.seeds)] for name in VARIANTS}
with torch.no_grad():
    for name, models in trained.items():
        for length, heard, truth in (
            ("as long as in training", sounds, rises),
            ("3 times as long", longer, longer_rises),
        ):
            scores = [100 * float((model(heard).argmax(1) == truth).float().mean()) for model in models]
            print(f"{name}, {length}: {statistics.mean(scores):.1f} % ({min(scores):.1f} to {max(scores):.1f})")
    model = trained["PEG"][0]
    alone = torch.cat([model([sound]) for sound in sounds])
    off, mistake = ((model(sounds, clear) - alone).abs().max() for clear in (True, False))
    print(f"padded batch against one by one: logits differ by {off:.0e}; by {mistake:.0e} if padding is not cleared")
    assert off < 1e-4
