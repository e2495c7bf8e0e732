"""How padding a batch changes the predictions of a model with a convolution; packing does not change them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import Figure
from cpvt.config import OptimConfig, TrainConfig
from cpvt.data import open_data
from cpvt.data.protocols import find_protocol
from cpvt.models import VisionTransformer
from cpvt.models.attention import AttentionInputs
from cpvt.results.checkpoints import Checkpoint, load
from cpvt.training import train

SIDES, BATCH = (16, 24), 32  # sides of the canvases in patches of 4 pixels; images in a padded batch
EPOCHS, DIGITS = 20, 597  # of training; test images, which are all there are


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only padding`.

    A model is trained on digits, then tested on canvases of many sizes.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            out=str(Path(folder) / "run"), encoding="peg", pool="gap", optim=OptimConfig(epochs=EPOCHS)
        )
        checkpoint = load(train(config), "cpu")
    images, labels = _draw(checkpoint)
    model = checkpoint.own_model
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    with torch.inference_mode():
        alone = torch.cat([model(image[None]) for image in images])
        found = {
            "padded, attention and head masked": torch.cat([_padded(model, batch, False) for batch in batches]),
            "padded, padding set to zero before the convolution": torch.cat(
                [_padded(model, batch, True) for batch in batches]
            ),
            "packed": torch.cat([model(batch) for batch in batches]),
        }
    what = f"{len(images)} digits on canvases of {SIDES[0] * 4}-{SIDES[1] * 4} pixels, GAP"
    yield Figure(f"{what}: correct, one image at a time", _percent(alone.argmax(1) == labels), "%")
    for name, logits in found.items():
        yield Figure(f"{what}: correct, {name}", _percent(logits.argmax(1) == labels), "%")
        yield Figure(f"{what}: predictions changed, {name}", _percent(logits.argmax(1) != alone.argmax(1)), "%")
        error = (logits - alone).abs().max() / alone.abs().max()
        yield Figure(f"{what}: largest change of a logit over the largest logit, {name}", float(error))


def _draw(checkpoint: Checkpoint) -> tuple[list[Tensor], Tensor]:
    """Test digits, each on a canvas of random sides."""
    test = open_data("digits").test
    assert test is not None
    images, labels = [], []
    for number in range(DIGITS):
        draw = np.random.default_rng((0, 0, number))
        image, label = test.read(number, draw)
        height, width = (4 * int(side) for side in draw.integers(SIDES[0], SIDES[1] + 1, 2))
        images.append(find_protocol("canvas")(checkpoint.transform, (height, width))(image, draw))
        labels.append(label)
    return images, torch.tensor(labels)


def _padded(model: VisionTransformer, images: list[Tensor], zero_before_peg: bool) -> Tensor:
    """Logits of one batch padded to the largest sides, padding masked in attention and in the mean of the head."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    batch = torch.stack([F.pad(each, (0, width - each.shape[2], 0, height - each.shape[1])) for each in images])
    real = torch.stack([_real(each, height, width, model.config.patch_size) for each in images])  # (B, N)
    x, layout, _ = model.embed(batch)
    masked = torch.zeros(real.shape).masked_fill(~real, -torch.inf)[:, None, None, :]
    for depth, block in enumerate(model.blocks, start=1):
        x = block(x, AttentionInputs(bias=masked))
        if zero_before_peg:
            x = x * real[..., None]
        x = model.encoding(x, layout, depth)
    x = model.norm(x) * real[..., None]
    return model.head(x.sum(1) / real.sum(1, keepdim=True))


def _real(image: Tensor, height: int, width: int, patch_size: int) -> Tensor:
    """Which patches of the padded image are its own, (N,)."""
    real = torch.zeros(height // patch_size, width // patch_size, dtype=torch.bool)
    real[: image.shape[1] // patch_size, : image.shape[2] // patch_size] = True
    return real.flatten()


def _percent(mask: Tensor) -> float:
    return round(100 * mask.float().mean().item(), 1)
