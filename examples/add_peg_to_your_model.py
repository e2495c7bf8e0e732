"""Add PEG to your own transformer: tokens in, tokens with positions out."""

import torch
from torch import nn

import cpvt


class Encoder(nn.Module):
    """Six standard blocks with one PEG after the first, the paper's default."""

    def __init__(self, dim: int = 96, depth: int = 6) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, kernel_size=8, stride=8)
        self.peg = cpvt.PEG(dim)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, 4, 4 * dim, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(depth)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch(images)  # (B, D, h, w)
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)  # (B, h * w, D)
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number == 0:
                x = self.peg(x, grid)
        return x.mean(dim=1)


encoder = Encoder().eval()
for size in ((64, 64), (64, 160), (200, 96)):
    print(size, "->", tuple(encoder(torch.randn(1, 3, *size)).shape))
