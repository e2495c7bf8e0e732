"""Profile trained models: their speed, and their attention on a sample image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from cpvt.config import ProgressCallback, ignore_progress, sides
from cpvt.data import DataSet
from cpvt.data.protocols import find_protocol
from cpvt.results.checkpoints import Checkpoint, load
from cpvt.results.folders import ARRAYS, CHECKPOINT, PROFILE, SAMPLE, attention_file, read_profile
from cpvt.runtime.files import write_json

ROUNDS, BATCH = 7, 64  # of the speed measurement


@dataclass(frozen=True)
class ProfiledModel:
    """A trained model to profile."""

    name: str  # in file names
    encoding: str
    pool: str
    run: str  # folder of its checkpoint


def profile_models(
    folder: Path,
    models: Sequence[ProfiledModel],
    data: DataSet,
    device: str,
    on_progress: ProgressCallback = ignore_progress,
) -> None:
    """Measure speed and attention of every model and write profile.json and arrays/ into the folder.

    Does nothing where all models are profiled already. Speeds are comparable only if measured in turn, so a new model
    has all models with a checkpoint re-measured, those of earlier commands too.
    """
    profiles = {profile["name"]: profile for profile in read_profile(folder)}
    earlier = [ProfiledModel(*(each[field.name] for field in fields(ProfiledModel))) for each in profiles.values()]
    wanted = {model.name: model for model in (*earlier, *models)}
    available = [model for model in wanted.values() if (Path(model.run) / CHECKPOINT).exists()]
    if all(model.name in profiles for model in available):
        return
    assert data.test is not None
    sample, label = data.test.read(0, np.random.default_rng((0, 0, 0)))
    checkpoints = [load(model.run, device) for model in available]
    (folder / ARRAYS).mkdir(exist_ok=True)
    for model, checkpoint, rates in zip(available, checkpoints, _speeds(checkpoints, on_progress)):
        preprocessing = find_protocol("resize")(checkpoint.transform, sides(checkpoint.config.img_size))
        image = preprocessing(sample, np.random.default_rng(0))
        np.save(folder / ARRAYS / SAMPLE, image.numpy())
        attention = _attention(checkpoint, image, folder / ARRAYS / attention_file(model.name))
        measured = {"sample_class": data.class_names[label], "images_per_second": [round(rate, 1) for rate in rates]}
        profiles[model.name] = {**vars(model), **attention, **measured}
    write_json(folder / PROFILE, list(profiles.values()))


def _attention(checkpoint: Checkpoint, image: torch.Tensor, path: Path) -> dict[str, Any]:
    """Save the attention of block 2, averaged over heads, (N, N); returns its block and grid."""
    model = checkpoint.own_model
    block = min(2, len(model.blocks))
    device = next(model.parameters()).device
    with torch.inference_mode():
        attention = model.attention_map(image[None].to(device), block)[0].mean(0)
    np.save(path, attention.cpu().numpy())
    grid = model.patch_embed.dynamic_feat_size(image.shape[1:])
    return {"block": block, "grid": list(grid)}


def _speeds(checkpoints: list[Checkpoint], on_progress: ProgressCallback) -> list[list[float]]:
    """Images per second of each model's forward at its training size, the models in turn in every round."""
    config = checkpoints[0].config
    device = next(checkpoints[0].model.parameters()).device
    images = torch.randn(BATCH, config.in_chans, *sides(config.img_size), device=device)
    rates: list[list[float]] = [[] for _ in checkpoints]
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):
            for rate, checkpoint in zip(rates, checkpoints):
                start = time.perf_counter()
                checkpoint.model(images).sum().item()
                if turn:  # the first round is a warm-up
                    rate.append(BATCH / (time.perf_counter() - start))
            on_progress("speed", turn, ROUNDS, f"{median(rates[0] or [0]):.0f} images/s")
    return rates
