"""Shared fixtures: rows, folders of small images, a small run; Triton's interpreter where there is no GPU."""

import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cpvt.results.rows import Row
from tests.children import children

torch.set_num_threads(1)  # more threads slow down models as small as those of the tests
os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
os.environ["CPVT_LINEAR"], os.environ["CPVT_ATTENTION"] = "onednn", "fused"  # bits that no measurement decides
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes that tests interrupt would inherit it
if not torch.cuda.is_available():
    assert "triton" not in sys.modules, "triton was imported before it could be told to interpret"
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

ROW = Row(
    model="cpvt_micro", encoding="peg", pool="cls", seed=0, protocol="canvas", size=32, correct=50, total=100,
    seconds=1.5, parameters=1234, at=(1,), data="digits", train_size=32, crop_ratio=1.0, interpolation="bicubic",
    longest_side=128, fill=0.0, shrunk=0, skipped=0,
)  # fmt: skip


@pytest.fixture
def forked(monkeypatch):
    """Make the package fork its processes from one that has imported everything, so that they start faster."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: children)


@pytest.fixture
def nothing_chosen(monkeypatch, tmp_path):
    """No way to compute is chosen yet, by this process, an earlier one or a training; what is chosen is forgotten."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, empty in {"_chosen": {}, "_adopted": {}, "_stored": set()}.items():
        monkeypatch.setattr(f"cpvt.models.fastest.{name}", empty)


@pytest.fixture
def make_row():
    """Makes a row with the given values and plausible others."""

    def make(**values):
        return Row(**{**vars(ROW), **values})

    return make


@pytest.fixture
def image_folder(tmp_path):
    """Makes class folders with small, different images, such as {"train/cat": 2, "test/cat": 1}."""

    def make(counts, root=tmp_path / "images"):
        draw = np.random.default_rng(0)
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True)
            for number in range(count):
                values = draw.integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
                Image.fromarray(values).save(root / folder / f"{number}.png")
        return root

    return make


@pytest.fixture
def tiny_folder(image_folder):
    """A folder of two classes, with eleven training and six test images."""
    return image_folder({"train/cat": 6, "train/dog": 5, "test/cat": 3, "test/dog": 3})


@pytest.fixture
def tiny_run(tmp_path, tiny_folder):
    """A run trained for one epoch at 8 pixels on the tiny folder."""
    from cpvt.config import DataConfig, OptimConfig, TrainConfig
    from cpvt.training import train

    recipe = OptimConfig(epochs=1, batch_size=4)
    return train(TrainConfig(out=str(tmp_path / "run"), img_size=8, dataset=DataConfig(str(tiny_folder)), optim=recipe))
