"""Models on the hub: sent and fetched over HTTP, the same to the bit, with a card, and errors that say what to do."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from huggingface_hub import constants

import cpvt
from cpvt.config import ModelConfig
from cpvt.models import VisionTransformer
from cpvt.results.hub import without_paths
from cpvt.runtime.files import append_rows
from tests.hub import TOKEN, Hub, sha

CACHE = "HF_HUB_CACHE"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, with an empty cache, which is used in place of huggingface.co; nobody is logged in."""
    hub = Hub()
    for name, value in {
        "ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": False, CACHE: str(tmp_path / "cache"),
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_TOKEN_PATH": str(tmp_path / "token"), "HF_HUB_DISABLE_TELEMETRY": True,
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield hub
    hub.shutdown()
    hub.server_close()


@pytest.fixture
def logged_in(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def equal(one, other):
    """Whether two models are the same: configuration, weights to the bit, and what they answer."""
    states = one.state_dict(), other.state_dict()
    assert one.config == other.config
    assert states[0].keys() == states[1].keys()
    images = torch.randn(2, one.config.in_chans, 13, 22, generator=torch.Generator().manual_seed(0))
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0]) and torch.equal(
        one.eval()(images), other.eval()(images)
    )


def test_a_run_that_was_sent_is_the_same_for_everyone_who_fetches_it(hub, logged_in, tiny_run):
    run = cpvt.load(tiny_run, "cpu")
    address = run.push_to_hub("me/pets", license="mit", commit_message="First")
    assert address == f"{hub.endpoint}/me/pets/commit/{sha('me/pets', 1)}"
    assert sorted(hub.files("me/pets")) == ["README.md", "checkpoint.json", "config.json", "model.safetensors"]
    back = cpvt.load("hf-hub:me/pets", "cpu")
    assert equal(run.model, back.model)
    assert (back.transform, back.class_names, back.config) == (run.transform, run.class_names, run.config)
    assert back.adapter.name == back.name == "hf-hub:me/pets"
    assert equal(run.model, VisionTransformer.from_pretrained("me/pets"))
    assert equal(run.model, timm.create_model("hf-hub:me/pets", pretrained=True))
    fetched = [line for line in hub.served if line.startswith("GET") and "resolve" in line]
    assert len(fetched) == 3, "each file is fetched once; the card is not"
