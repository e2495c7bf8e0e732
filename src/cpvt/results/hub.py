"""Trained runs on Hugging Face's hub: their files and card without the folders of a machine, and records of timm's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from cpvt.config import sides, size_label
from cpvt.config.base import some_names
from cpvt.data import Transform
from cpvt.data.protocols import TABLE as PROTOCOLS
from cpvt.models import VisionTransformer
from cpvt.models.hub import (
    config_from_timm,
    count_parameters,
    describe,
    fact_table,
    front_matter,
    loading,
    write_model,
    write_weights,
)
from cpvt.models.sizes import tidy_size
from cpvt.results.folders import CHECKPOINT
from cpvt.results.rows import Row
from cpvt.runtime.files import write_bytes, write_json
from cpvt.runtime.hub import CARD, PREFIX

PLACE = (  # how the path of a folder begins; an address goes on with //
    r"(?:~(?:[A-Za-z_][\w.-]*)?|[A-Za-z]:|(?i:file)://[^/\s]*|(?:[\w.-]+[/\\])*\.\.)?[/\\](?!/)"
)
BEFORE = r"((?:--[\w-]+=|[\w-]{2,}:|[\w-]+/)*)"  # an option, a library or a kind of data, as in hf:/data, wds//data
WHOLE = re.compile(rf"^{BEFORE}{PLACE}(?:.*[/\\])?")  # a path
INSIDE = re.compile(rf"(?<![^\s='\"`(\[{{,:;|<>]){BEFORE}{PLACE}(?:[^\s'\"/\\]+[/\\])*")  # one in a longer text
LIMITS = """\
It gives one of its classes for any image, also for an image of something else. The figures above are those of the
images named there, and of no others. Test it on your own before you rely on it.
"""


def without_paths(value: Any, key: str = "") -> Any:
    """A record without the folders of a machine: "/data/runs/peg" becomes "peg". Names of classes stay as they are."""
    if isinstance(value, dict):
        return {name: without_paths(each, name) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return value if key == "class_names" else [without_paths(each) for each in value]
    if not isinstance(value, str):
        return value
    if key == "command":
        return shlex.join(without_paths(each) for each in shlex.split(value))
    return INSIDE.sub(r"\1", WHOLE.sub(r"\1", value))


def record_from_timm(values: dict[str, Any], name: str) -> dict[str, Any]:
    """The record of one of our models that has timm's config.json alone: the model, its classes, how images are read.

    name: where it is from. Classes that were not named have no names. Raises ValueError for a model of another library.
    """
    config, known = config_from_timm(values, name), values.get("pretrained_cfg") or values
    names: Any = values.get("label_names") or known.get("label_names") or ()
    mean, std = known.get("mean", IMAGENET_DEFAULT_MEAN), known.get("std", IMAGENET_DEFAULT_STD)
    if config.in_chans == 1:
        mean, std = ([sum(each) / len(each)] for each in (mean, std))
    size = known.get("test_input_size")
    transform = Transform(
        tuple(mean), tuple(std), known.get("crop_pct", 0.875), known.get("interpolation", "bicubic"),
        crop_mode=known.get("crop_mode") or "center", size=tidy_size(size[1:]) if size else config.img_size,
    )  # fmt: skip
    return {
        "model": asdict(config), "transform": asdict(transform),
        "class_names": [str(each) for each in (names.values() if isinstance(names, dict) else names)],
    }  # fmt: skip


def write_run(
    folder: Path,
    repo_id: str,
    model: nn.Module,
    record: dict[str, Any],
    rows: Sequence[Row],
    license: str | None = None,
) -> None:
    """Write a trained run as it goes to the hub: its weights, its record without paths, and a card.

    One of our own models gets timm's config.json as well. An older card in the folder is replaced. Raises ValueError
    for a model that is built from a folder of this machine, which others do not have.
    """
    name = record["model"].get("name", "")
    if name.startswith(("hf:", "timm:local-dir:")) and Path(name.partition("(")[0].rpartition(":")[2]).is_dir():
        raise ValueError(f"'{name}' is built from a folder of this machine, which others lack, so it is not shared")
    shared = without_paths(record)
    if "training" in shared:
        shared["training"]["out"] = repo_id.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, VisionTransformer):
        shared["model"] = asdict(model.config)  # as the model is now
        write_model(folder, model, _read_by_timm(record))
    else:
        write_weights(folder, model.state_dict())
    write_json(folder / CHECKPOINT, shared)
    write_bytes(folder / CARD, _card(repo_id, model, shared, rows, license).encode(errors="replace"))


def _read_by_timm(record: dict[str, Any]) -> dict[str, Any]:
    """How a run reads images and what its classes are called, in timm's words."""
    transform = record["transform"]
    size = sides(transform.get("size") or record["model"]["img_size"])
    return {
        "mean": transform["mean"], "std": transform["std"], "crop_pct": transform["crop_ratio"],
        "interpolation": transform["interpolation"], "crop_mode": transform.get("crop_mode", "center"),
        "test_input_size": (len(transform["mean"]), *size), "label_names": record["class_names"],
    }  # fmt: skip


def _card(repo_id: str, model: nn.Module, record: dict[str, Any], rows: Sequence[Row], license: str | None) -> str:
    """The card of a run, in Markdown."""
    own = isinstance(model, VisionTransformer)
    classes, place = record["class_names"], f"{PREFIX}{repo_id}"
    page = [*front_matter(license, own), f"# {repo_id.rpartition('/')[2]}", ""]
    named = f": {some_names(classes)}" if classes else ""
    page += [f"An image classifier of {record['model']['num_classes']} classes{named}.", ""]
    page += [*fact_table(_facts(model, record)), "## Use it", "", "```"]
    page += [f"cpvt predict {place} photo.jpg", f"cpvt sweep {place} --data FOLDER", "```", ""]
    page += ["```python", "import cpvt", "", f'run = cpvt.load("{place}")', 'print(run("photo.jpg"))', "```", ""]
    page += ["The model alone:", "", *loading(repo_id)] if own else []
    page += _results(rows, record["transform"])
    return "\n".join([*page, "## Limits", "", LIMITS])


def _facts(model: nn.Module, record: dict[str, Any]) -> dict[str, str]:
    """What the card's table says of model, images and training."""
    config, training, made, transform = (record.get(each) for each in ("model", "training", "provenance", "transform"))
    assert config is not None  # for mypy
    assert transform is not None
    size = size_label(transform.get("size") or config["img_size"])
    facts = {
        "model": describe(model.config) if isinstance(model, VisionTransformer) else f"{config['name']}",
        "parameters": count_parameters(model),
        "images": f"resized to {size} pixels, the recommended size (crop ratio {transform['crop_ratio']}, "
        f"{transform['interpolation']})",
    }
    if config.get("scale") is not None:
        facts["object scale"] = f"`{config['scale']}`"
    if training:
        facts["training data"] = record.get("passed_data") or training["dataset"]["data"]
        facts["training"] = describe_training(record)
        if training["initial_checkpoint"]:
            facts["started from"] = describe_start(record)
    if made:
        facts["command"] = f"`{made['command']}`"
        facts["made by"] = describe_versions(made)
    return facts


def describe_training(record: dict[str, Any]) -> str:
    """One line on how a run was trained."""
    training, optim = record["training"], record["training"]["optim"]
    sizes = training["train_sizes"] or [record["model"]["img_size"]]
    return (
        f"{record.get('epoch', '?')} of {optim['epochs']} epochs, batches of {optim['batch_size']}, {optim['opt']}, "
        f"lr {optim['lr']}, at {', '.join(map(size_label, sizes))} pixels, seed {training['seed']}"
    )


def describe_versions(made: dict[str, Any]) -> str:
    """The versions with which something was made, such as "torch 2.14.1, timm 1.0.31"; made: its provenance."""
    return ", ".join(f"{name} {version}" for name, version in made["versions"].items())


def describe_start(record: dict[str, Any]) -> str:
    """What a training started from and how that was trained, back to the first training, as far as it is known."""
    start, earlier = record["training"]["initial_checkpoint"], record.get("started_from") or {}
    if not earlier.get("training"):
        return str(start)
    words = f"{start} ({describe_training(earlier)})"
    return f"{words}, from {describe_start(earlier)}" if earlier["training"]["initial_checkpoint"] else words


def _results(rows: Sequence[Row], transform: dict[str, Any]) -> list[str]:
    """Accuracy by data, protocol and size, as tables in Markdown."""
    lines = []
    for data in dict.fromkeys(row.data for row in rows):
        own = [row for row in rows if row.data == data]
        sizes = sorted(dict.fromkeys(row.size for row in own), key=lambda size: sides(size))
        total = max(row.total for row in own)
        header = f"of {total:,} test images of {without_paths(data)}, percent"
        lines += [f"| {header} | {' | '.join(map(size_label, sizes))} |", "|---" + "|---:" * len(sizes) + "|"]
        by_kind: dict[str, dict[Any, str]] = {}
        for row in own:
            percent = "refused" if row.refused else f"{100 * row.accuracy:.1f}"
            by_kind.setdefault(kind_of_test(row, transform), {})[row.size] = percent
        lines += [
            f"| {kind} | {' | '.join(at.get(size, '–') for size in sizes)} |" for kind, at in sorted(by_kind.items())
        ]
        lines.append("")
    words = "*resize*: the same image in more pixels. *canvas*: objects keep their pixels, the field of view grows."
    return ["## Accuracy", "", *lines, words, ""] if lines else []


def _scale_words(row: Row) -> str:
    """Whether the model was given the object scale; a model whose own rule is 'paper' is given none by 'protocol'."""
    if row.scale_rule == "protocol":
        known = row.protocol in PROTOCOLS and not PROTOCOLS[row.protocol].size_is_limit and row.train_size is not None
        return "no scale" if known and row.scale is None and not row.refused else "with scale"
    return "no scale" if row.scale_rule in ("", "paper") else f"scale {row.scale_rule}"


def kind_of_test(row: Row, transform: dict[str, Any]) -> str:
    """What distinguishes the tests of a run at one size: protocol, scale, precision, and other ways to read images."""
    words = [row.protocol, _scale_words(row), *([] if row.precision == "fp32" else [row.precision])]
    labels = {"crop_ratio": "crop ratio", "interpolation": "interpolation", "longest_side": "longest side"}
    for name, label in {**labels, "mean": "mean", "std": "std", "reduced_jpegs": "reduced JPEGs"}.items():
        tested, own = (
            " ".join(map(str, each)) if isinstance(each, (list, tuple)) else str(each)  # JSON makes lists of tuples
            for each in (getattr(row, name), transform.get(name))
        )
        if tested and transform.get(name) is not None and tested != own:  # early rows and records lack some
            words.append(f"{label} {tested}")
    return ", ".join(words)
