"""What a page shows of trained models beside accuracy: their speed, and what each makes of one sample."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
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

ROUNDS, BATCH = 7, 64  # of the speeds


@dataclass(frozen=True)
class ProfiledModel:
    """A trained model to profile."""

    name: str  # of its files
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

    Nothing is done where all are there already. Speeds compare only if taken in turn, so one missing model has all
    re-measured, those of earlier commands too as long as their checkpoints are there.
    """
    profiles = {profile["name"]: profile for profile in read_profile(folder)}
    known = [
        ProfiledModel(profile["name"], profile["encoding"], profile["pool"], profile["run"])
        for profile in profiles.values()
    ]
    wanted = {profiled.name: profiled for profiled in (*known, *models)}
    there = [profiled for profiled in wanted.values() if (Path(profiled.run) / CHECKPOINT).exists()]
    if all(profiled.name in profiles for profiled in there):
        return
    assert data.test is not None
    sample, label = data.test.read(0, np.random.default_rng((0, 0, 0)))
    checkpoints = [load(profiled.run, device) for profiled in there]
    (folder / ARRAYS).mkdir(exist_ok=True)
    for profiled, checkpoint, rates in zip(there, checkpoints, _speeds(checkpoints, on_progress)):
        preprocessing = find_protocol("resize")(checkpoint.transform, sides(checkpoint.config.img_size))
        image = preprocessing(sample, np.random.default_rng(0))
        np.save(folder / ARRAYS / SAMPLE, image.numpy())
        found = _attention(checkpoint, image, folder / ARRAYS / attention_file(profiled.name))
        origin = {"sample_class": data.class_names[label], "images_per_second": [round(rate, 1) for rate in rates]}
        profiles[profiled.name] = {**vars(profiled), **found, **origin}
    write_json(folder / PROFILE, list(profiles.values()))


def _attention(checkpoint: Checkpoint, image: torch.Tensor, path: Path) -> dict[str, Any]:
    """Save the attention of block 2, mean over heads, (N, N); returns what is needed to draw it."""
    model = checkpoint.own_model
    block = min(2, len(model.blocks))
    device = next(model.parameters()).device
    with torch.inference_mode():
        attention = model.attention_map(image[None].to(device), block)[0].mean(0)
    np.save(path, attention.cpu().numpy())
    grid = model.patch_embed.dynamic_feat_size(image.shape[1:])
    return {"block": block, "grid": list(grid)}


def _speeds(checkpoints: list[Checkpoint], on_progress: ProgressCallback) -> list[list[float]]:
    """Images a second of each model's forward at its training size, taken in turn so that all meet the same machine."""
    config = checkpoints[0].config
    device = next(checkpoints[0].model.parameters()).device
    images = torch.randn(BATCH, config.in_chans, *sides(config.img_size), device=device)
    rates: list[list[float]] = [[] for _ in checkpoints]
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):
            for rate, checkpoint in zip(rates, checkpoints):
                start = time.perf_counter()
                checkpoint.model(images).sum().item()
                if turn:  # the first is a warm-up
                    rate.append(BATCH / (time.perf_counter() - start))
            on_progress("speed", turn, ROUNDS, f"{median(rates[0] or [0]):.0f} images/s")
    return rates
