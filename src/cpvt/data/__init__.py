"""Data sets by name or folder, readable at any height and width."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cpvt.data.base import DataSet, Encoded, Split, Stream, data_set
from cpvt.data.loading import Batch, Draw, check_on_bad_picture, load_batches, load_packs, load_plan, load_stream
from cpvt.data.pictures import BadPictureError, check_usable, decode
from cpvt.data.variations import Variation
from cpvt.data.views import NATIVE_VIEWS, VIEWS, Transform, View

__all__ = [
    "NATIVE_VIEWS", "VIEWS", "BadPictureError", "Batch", "DataSet", "Draw", "Encoded", "Split", "Stream", "Transform", "Variation", "View",
    "check_on_bad_picture", "check_usable", "decode", "load_batches", "load_packs", "load_plan", "load_stream", "open_data", "open_stream",
]  # fmt: skip

KNOWN = {
    "digits": "scikit-learn's handwritten digits on a 32x32 canvas, 1,200 to train and 597 to test; embedded, no download",
    "PATH": "a folder with train/CLASS/picture.jpg and test/CLASS/picture.jpg (or val/), or with tar archives of such",
    "torch/NAME": "a torchvision set, such as torch/cifar10; --data-dir says where its files are",
    "hfds/NAME": "a Hugging Face set (needs the package datasets); hfids/NAME streams it",
    "tfds/NAME": "a TensorFlow set (needs tensorflow-datasets)",
    "wds/PATH": "shards of WebDataset: a folder, or a pattern such as wds//data/{train,val}-{000..146}.tar; URLs too",
}


def open_data(data: str, root: str | None = None, mode: str | None = None) -> DataSet:
    """Open a data set: 'digits', a folder, or a name that timm's dataset factory takes.

    root: where the files of a named set are. mode: 'RGB' or 'L'; by default grey for digits, RGB for the rest.
    Raises ValueError for a name that means nothing, listing what is known.
    """
    if data == "digits":
        from cpvt.data.digits import open_digits

        return open_digits(mode or "L")
    from cpvt.data.folders import open_folder
    from cpvt.data.shards import holds_shards, open_shards
    from cpvt.data.timm_sets import PREFIXES, is_remote, open_named

    if Path(data).is_dir() and not holds_shards(Path(data)):
        return replace(open_folder(Path(data), mode or "RGB"), name=data)
    if Path(data).is_dir():
        return replace(open_shards(data, mode or "RGB"), name=data)
    if data.startswith("wds/") and not is_remote(data):
        return replace(open_shards(str(Path(root or "", data.removeprefix("wds/"))), mode or "RGB"), name=data)
    if data.startswith("hfids/"):
        return _open_streams(data, root, mode or "RGB")
    if data.partition("/")[0] in PREFIXES:
        return replace(open_named(data, root, mode or "RGB"), name=data)
    known = "\n".join(f"  {name}: {words}" for name, words in KNOWN.items())
    raise ValueError(f"unknown data set '{data}': no such folder and no such name. Known:\n{known}")


def _open_streams(name: str, root: str | None, mode: str) -> DataSet:
    """Both parts of a set that is read as it comes; one to test on may be absent."""
    train = open_stream(name, "train", root)
    try:
        test = open_stream(name, "test", root)
    except ValueError:
        test = None
    return replace(data_set(name, train.class_names, None, None, mode), train_stream=train, test_stream=test)


def open_stream(name: str, part: str = "train", root: str | None = None) -> Stream:
    """Open one part, 'train' or 'test', of a set that is read as it comes; see `cpvt.data.streams`."""
    from cpvt.data import streams

    return streams.open_stream(name, part, root)
