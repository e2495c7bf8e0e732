"""What a run leaves in its folder, as the tests look at it."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file


def weights(run):
    return load_file(Path(run) / "model.safetensors")


def history(run):
    """What is known of each epoch."""
    return [json.loads(line) for line in (Path(run) / "history.jsonl").read_text().splitlines()]


def assert_same(first, second):
    """The same weights, to the bit."""
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
