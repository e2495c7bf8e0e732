"""Put the weights of a trained run into the package: python recipes/ship.py RUN

Writes NAME.safetensors (float16) and NAME.json to src/cpvt/models/weights, NAME being the model that the run trained. Then
cpvt.load("NAME"), cpvt.create_model("NAME", pretrained=True) and the commands find them. Both files take the place of older
ones only if the rounded model still answers as the run does.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cpvt.models.pretrained import FOLDER
from cpvt.models.sizes import MODELS
from cpvt.results.checkpoints import config_from_json, load, read_record, save_checkpoint
from cpvt.results.folders import WEIGHTS
from cpvt.runtime.files import write_json

LARGEST = 5_000_000  # bytes that a file of weights may have
TOLERANCE = 0.01  # by which the probability of a class may change
SIZES = ((32, 32), (24, 40), (61, 35))  # height and width of the random images
COUNT = 64  # of each size and kind


class Rounding(NamedTuple):
    """What float16 changes, at most, over random images."""

    logit: float
    probability: float
    classes: int  # images whose first class changes
    images: int

    def __str__(self) -> str:
        return (
            f"float16 moves logits by up to {self.logit:.1e} and probabilities by up to {self.probability:.1e}, "
            f"and the first class of {self.classes} of {self.images} random images"
        )


def ship(run: Path, folder: Path = FOLDER) -> Rounding:
    """Write the weights of a run, rounded, and its record; both are checked before they replace what is there.

    Raises ValueError where the model is not as its name says, and where the file would be too large or would answer
    otherwise than the run.
    """
    record = read_record(run)
    name, epochs = record["training"]["model"], record["training"]["optim"]["epochs"]
    if name not in MODELS or config_from_json(record["model"]) != MODELS[name][0]:
        raise ValueError(
            f"'{run}' trained '{name}' with options of its own; train the model as its name says to ship it"
        )
    if record["epoch"] != epochs:
        print(f"'{run}' has {record['epoch']} of {epochs} epochs: ship it again when it is done", file=sys.stderr)
    checkpoint = load(run, "cpu")
    weights = {
        key: each.half() if each.is_floating_point() else each for key, each in checkpoint.model.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as aside:
        save_checkpoint(Path(aside), weights, record)
        size = (Path(aside) / WEIGHTS).stat().st_size
        if size > LARGEST:
            raise ValueError(f"the weights of '{run}' take {size:,} bytes, and at most {LARGEST:,} go into the package")
        rounding = compare(checkpoint.model, load(aside, "cpu").model, checkpoint.config.in_chans)
        if not rounding.probability <= TOLERANCE:
            raise ValueError(f"'{run}' cannot be shipped: {rounding}; at most {TOLERANCE} of a probability is allowed")
        (Path(aside) / WEIGHTS).replace(folder / f"{name}.safetensors")
    told = {**record, "training": {**record["training"], "out": name}, "rounding": rounding._asdict()}
    write_json(folder / f"{name}.json", without_places(told))
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
    """Batches (B, C, H, W) of noise, and of clouds: noise seen through a blur, which is nearer to images."""
    draw = torch.Generator().manual_seed(0)
    for sides in SIZES:
        yield torch.randn(COUNT, channels, *sides, generator=draw)
        seeds = 2 * torch.randn(COUNT, channels, 5, 5, generator=draw)
        yield nn.functional.interpolate(seeds, sides, mode="bicubic")


def without_places(value: Any) -> Any:
    """A record without the folders of the machine that made it: of "/data/runs/peg" the last name is left."""
    if isinstance(value, dict):
        return {key: without_places(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_places(each) for each in value]
    return re.sub(r"(?<![^\s='\"])/(?:[^\s'\"/]+/)*", "", value) if isinstance(value, str) else value


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("the run to ship, and nothing else: python recipes/ship.py RUN")
    try:
        ship(Path(sys.argv[1]))
    except ValueError as error:
        raise SystemExit(str(error)) from error
