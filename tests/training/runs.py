"""The content of a run's folder, for tests."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file


def weights(run):
    return load_file(Path(run) / "model.safetensors")


def history(run):
    """The entries of all epochs."""
    return [json.loads(line) for line in (Path(run) / "history.jsonl").read_text().splitlines()]


def assert_same(first, second):
    """Assert bitwise equal weights."""
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
