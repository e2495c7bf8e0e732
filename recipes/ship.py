"""Put the weights of a trained run into the package: python recipes/ship.py RUN [SIZE]

SIZE is the recommended inference size, a side in pixels; by default the training size.

Writes NAME.safetensors (float16) and NAME.json to src/cpvt/models/weights, where NAME is the model of the run. Then
cpvt.load("NAME"), cpvt.create_model("NAME", pretrained=True) and the commands find them. Older files are replaced only
if the predictions of the rounded model agree with those of the run.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cpvt.models.pretrained import FOLDER
from cpvt.models.sizes import MODELS
from cpvt.results.checkpoints import config_from_json, load, read_record, save_checkpoint
from cpvt.results.folders import WEIGHTS
from cpvt.results.hub import without_paths
from cpvt.runtime.files import write_json

LARGEST = 5_000_000  # bytes of a weights file
TOLERANCE = 0.01  # largest change of a probability
SIZES = ((32, 32), (24, 40), (61, 35))  # height and width of the random images
COUNT = 64  # of each size and kind


class Rounding(NamedTuple):
    """The largest changes by float16 over random images."""

    logit: float
    probability: float
    classes: int  # images whose top class changes
    images: int

    def __str__(self) -> str:
        return (
            f"float16 moves logits by up to {self.logit:.1e} and probabilities by up to {self.probability:.1e}, "
            f"and the first class of {self.classes} of {self.images} random images"
        )


def ship(run: Path, folder: Path = FOLDER, size: int | None = None) -> Rounding:
    """Write the rounded weights of a run and its record, checked before they replace older files.

    size: the recommended inference size, pixels; by default the training size. Raises ValueError where the model has
    other options than its name says, the file is too large, or predictions change.
    """
    record = read_record(run)
    if size is not None:
        record["transform"]["size"] = size
    name, epochs = record["training"]["model"], record["training"]["optim"]["epochs"]
    record["model"]["drop_path_rate"] = 0.0  # of the training, which has it too; whoever trains on chooses anew
    held: Any = config_from_json(record["model"])
    if name not in MODELS or replace(held, scale=MODELS[name][0].scale) != MODELS[name][0]:
        raise ValueError(
            f"'{run}' trained '{name}' with options of its own; only the model as its name says can be shipped"
        )
    if record["epoch"] != epochs:
        print(f"'{run}' has {record['epoch']} of {epochs} epochs: ship it again when it is done", file=sys.stderr)
    checkpoint = load(run, "cpu")
    weights = {
        key: each.half() if each.is_floating_point() else each for key, each in checkpoint.model.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as temporary:
        save_checkpoint(Path(temporary), weights, record)
        size = (Path(temporary) / WEIGHTS).stat().st_size
        if size > LARGEST:
            raise ValueError(f"the weights of '{run}' take {size:,} bytes, and at most {LARGEST:,} go into the package")
        rounding = compare(checkpoint.model, load(temporary, "cpu").model, checkpoint.config.in_chans)
        if not rounding.probability <= TOLERANCE:
            raise ValueError(f"'{run}' cannot be shipped: {rounding}; at most {TOLERANCE} of a probability is allowed")
        (Path(temporary) / WEIGHTS).replace(folder / f"{name}.safetensors")
    published = {**record, "training": {**record["training"], "out": name}, "rounding": rounding._asdict()}
    write_json(folder / f"{name}.json", without_paths(published))
    print(f"{name}: {size:,} bytes; {rounding}")
    return rounding


def compare(model: nn.Module, rounded: nn.Module, channels: int) -> Rounding:
    """How far two models differ over random images."""
    with torch.inference_mode():
        logits = [torch.cat([each(images) for images in random_images(channels)]) for each in (model, rounded)]
    before, after = (each.softmax(1) for each in logits)
    return Rounding(
        logit=float((logits[0] - logits[1]).abs().max()),
        probability=float((before - after).abs().max()),
        classes=int((before.argmax(1) != after.argmax(1)).sum()),
        images=len(before),
    )


def random_images(channels: int) -> Iterator[Tensor]:
    """Batches (B, C, H, W) of noise, and of blurred noise, which is closer to natural images."""
    draw = torch.Generator().manual_seed(0)
    for sides in SIZES:
        yield torch.randn(COUNT, channels, *sides, generator=draw)
        coarse = 2 * torch.randn(COUNT, channels, 5, 5, generator=draw)
        yield nn.functional.interpolate(coarse, sides, mode="bicubic")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not all(each.isdecimal() for each in sys.argv[2:]):
        raise SystemExit("usage: python recipes/ship.py RUN [SIZE]")
    try:
        ship(Path(sys.argv[1]), size=int(sys.argv[2]) if len(sys.argv) == 3 else None)
    except ValueError as error:
        raise SystemExit(str(error)) from error
