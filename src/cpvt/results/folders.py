"""Every file name in the folders that cpvt writes. Standard library only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cpvt.runtime.files import read_json
from cpvt.runtime.hub import WEIGHTS as WEIGHTS

# A run: one training; its weights are in WEIGHTS
CHECKPOINT = "checkpoint.json"
HISTORY = "history.jsonl"  # loss and accuracy of each epoch
STATE, PREVIOUS_STATE = "training.pt", "training.previous.pt"  # what a training resumes from

# Measurements
ROWS = "rows.jsonl"
COMPARISON, RETROFIT = "compare.json", "retrofit.json"  # configuration and provenance of the rows
RUNS, CONTROL_RUN = "runs", "control"  # folders of the trainings
PROFILE, OLD_PROFILE = "profile.json", "looks.json"  # parameters, speed and attention of each model
PROBE_RESULTS = "findings.jsonl"
ARRAYS = "arrays"  # folder of .npy files
SAMPLE = "sample.npy"  # the image that attention maps belong to

# Reports
REPORT, PROBE_REPORT = "report.html", "probes.html"
SUMMARY, CURVES = "summary.csv", "curves.jsonl"
ACCURACY_SVG, ACCURACY_PNG, ATTENTION_PNG, CURVES_SVG = "accuracy.svg", "accuracy.png", "attention.png", "curves.svg"
MULTIPLES_SVG = "multiples.svg"


def read_profile(folder: Path) -> list[dict[str, Any]]:
    """Parameters, speed and attention of each model of a comparison, from profile.json or the older looks.json."""
    path = next((folder / name for name in (PROFILE, OLD_PROFILE) if (folder / name).exists()), None)
    old = {"pictures_per_second": "images_per_second"}
    return [{old.get(name, name): value for name, value in each.items()} for each in (read_json(path) if path else [])]


def attention_file(name: str) -> str:
    """File in arrays/ with the attention of a model of a comparison, (N, N)."""
    return f"attention-{name}.npy"


def probe_attention_file(model: str, baseline: str) -> str:
    """File in arrays/ with the mean attention of a probed model, (h, w, h, w)."""
    return f"probe-attention-{re.sub(r'[^A-Za-z0-9.=_-]+', '-', model).strip('-')}-{baseline}.npy"


def is_results(folder: Path) -> bool:
    """Whether a folder is one that cpvt writes: a run, perhaps unfinished, a comparison, or other measurements."""
    return any((folder / name).exists() for name in (CHECKPOINT, STATE, COMPARISON, RETROFIT, ROWS, PROBE_RESULTS))


def runs_below(folder: Path) -> list[Path]:
    """The runs directly below a folder, or below its folder of trainings, as a comparison has it."""
    return sorted(each.parent for root in (folder, folder / RUNS) for each in root.glob(f"*/{CHECKPOINT}"))


def has_state(folder: Path) -> bool:
    """Whether an unfinished training left a state."""
    return (folder / STATE).exists() or (folder / PREVIOUS_STATE).exists()
