"""Dense prediction with timm's features_only: segment digits in noise, train at 32 pixels, test at larger sizes."""

import timm
import torch
from sklearn.datasets import load_digits
from torch import nn

import cpvt  # noqa: F401  # registers the models with timm

INK = torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None]  # (1797, 1, 8, 8), from 0 to 1
INK = nn.functional.interpolate(INK, 16, mode="bicubic").clamp(0, 1)


def draw(count: int, side: int, digits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, 1, side, side), a digit for every 32x32 pixels, in noise, and their masks of strokes."""
    clean = torch.zeros(count, 1, side, side)
    for image in clean:
        for _ in range((side // 32) ** 2):
            top, left = torch.randint(side - 15, (2,))
            image[:, top : top + 16, left : left + 16] += digits[torch.randint(len(digits), (1,)).item()]
    return clean.clamp(max=1) + 0.5 * torch.randn_like(clean), clean > 0.5


torch.manual_seed(0)
features = timm.create_model("cpvt_micro_gap", features_only=True, out_indices=(1, 3), in_chans=1)
patch = features.feature_info.reduction()[0]
head = nn.Sequential(nn.Conv2d(sum(features.feature_info.channels()), patch**2, 1), nn.PixelShuffle(patch))
optimizer = torch.optim.AdamW([*features.parameters(), *head.parameters()], lr=2e-3)
for _ in range(120):
    images, masks = draw(32, 32, INK[:1200])
    loss = nn.functional.binary_cross_entropy_with_logits(head(torch.cat(features(images), 1)), masks.float())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

for side in (32, 64, 96):
    images, masks = draw(64, side, INK[1200:])
    guesses = {"found": head(torch.cat(features.eval()(images), 1)) > 0, "by a threshold": images > 0.5}
    scores = [f"{(guess & masks).sum() / (guess | masks).sum():.2f} {how}" for how, guess in guesses.items()]
    print(f"{side} pixels: IoU of strokes {', '.join(scores)}")
