"""Dense prediction at any size: the digit of every pixel of noisy canvases, trained at 64 pixels.

python examples/dense_prediction.py peg5 takes two minutes on a core; or learned, rope, none, ...
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import cpvt

CLASSES, CELL, DIGIT, PATCH, TRAIN_SIZE = 11, 32, 16, 4, 64  # background and ten digits; then sides in pixels
INK = F.interpolate(torch.tensor(load_digits().images / 16)[:, None].float(), DIGIT, mode="bicubic")[:, 0]
LABELS = torch.tensor(load_digits().target) + 1
TRAIN, TEST = torch.arange(1200), torch.arange(1200, 1797)
WEIGHTS = torch.tensor([0.2] + 10 * [1.0])  # nine of ten pixels are background


def draw(count: int, side: int, digits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Canvases (B, 1, side, side) with a digit somewhere in every 32x32 pixels, and their classes (B, side, side)."""
    images, classes = torch.zeros(count, 1, side, side), torch.zeros(count, side, side, dtype=torch.int64)
    for cell in range(count * (side // CELL) ** 2):
        canvas, row, column = cell % count, cell // count // (side // CELL), cell // count % (side // CELL)
        number = digits[torch.randint(len(digits), (), generator=generator)]
        down, right = torch.randint(CELL - DIGIT + 1, (2,), generator=generator).tolist()
        top, left = CELL * row + down, CELL * column + right
        images[canvas, 0, top : top + DIGIT, left : left + DIGIT] = INK[number]
        classes[canvas, top : top + DIGIT, left : left + DIGIT] = (INK[number] > 0.5) * LABELS[number]
    return images + 0.3 * torch.randn(images.shape, generator=generator), classes


class Segmenter(nn.Module):
    """A vision transformer, then a linear layer from each token to the classes of the 4x4 pixels of its patch."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        size = dict(img_size=TRAIN_SIZE, in_chans=1, num_classes=0)
        self.vit = cpvt.create_model("cpvt_micro_gap", encoding=encoding, **size)  # patches of 4x4 pixels
        self.head = nn.Linear(self.vit.embed_dim, CLASSES * PATCH**2)

    def forward(self, images: Tensor, scale: float | str = "pixels") -> Tensor:
        """Logits (B, classes, H, W). scale: how much larger digits are than in training; 'pixels': as large."""
        tokens = self.head(self.vit.forward_features(images, scale))  # (B, h * w, classes * 16)
        grid = tokens.transpose(1, 2).unflatten(2, (images.shape[2] // PATCH, images.shape[3] // PATCH))
        return F.pixel_shuffle(grid, PATCH)


def train(encoding: str, seed: int = 0, steps: int = 900) -> Segmenter:
    torch.manual_seed(seed)
    model, generator = Segmenter(encoding), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps + 1, pct_start=0.1)
    for _ in range(steps):
        images, classes = draw(16, TRAIN_SIZE, TRAIN, generator)
        loss = F.cross_entropy(model(images), classes, WEIGHTS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.inference_mode()
def mean_iou(model: Segmenter, side: int, zoom: int = 1, scale: float | str = "pixels", digits: int = 1152) -> float:
    """Mean over classes of intersection / union, on unseen digits; zoom: the canvas is shown in more pixels."""
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(CLASSES**2, dtype=torch.int64)
    for _ in range(max(1, digits // (side // CELL) ** 2 // 4)):
        images, classes = draw(4, side, TEST, generator)
        found = model(F.interpolate(images, scale_factor=zoom, mode="bicubic"), scale).argmax(1)
        truth = classes.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
        counts += torch.bincount((truth * CLASSES + found).flatten(), minlength=CLASSES**2)
    table = counts.view(CLASSES, CLASSES)  # pixels by class and predicted class
    return float((table.diag() / (table.sum(0) + table.sum(1) - table.diag()).clamp(min=1)).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("encoding", nargs="?", default="peg")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--digits", type=int, default=1152, help="in each test")
    given = parser.parse_args()
    model = train(given.encoding, steps=given.steps)
    for side in (64, 96, 128, 192):
        print(f"canvas of {side} pixels: mean IoU {mean_iou(model, side, digits=given.digits):.3f}")
    for scale in ("pixels", 2.0):
        print(f"64 shown in 128 pixels, given scale={scale}: {mean_iou(model, 64, 2, scale, given.digits):.3f}")
