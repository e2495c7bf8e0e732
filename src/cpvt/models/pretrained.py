"""The pretrained models whose weights come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from cpvt.config import sides
from cpvt.config.legacy import current
from cpvt.runtime.files import read_json

DEFAULT = "cpvt_mini_patch8_64_peg5_gap"  # `cpvt predict` uses it where no model is named
FOLDER = Path(__file__).parent / "weights"  # NAME.safetensors (float16) and NAME.json, written by recipes/ship.py
CARD = FOLDER / "README.md"  # what they are for, and how good they are


class Files(NamedTuple):
    """What a trained model is made of."""

    weights: Path  # .safetensors
    record: Path  # JSON: configurations of model and training, transform, class names, provenance


def shipped_names() -> list[str]:
    """Names of models that `pretrained=True` has weights for."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors") if shipped_files(path.stem).record.is_file())


def shipped_files(name: str) -> Files:
    """Where the weights of a name are, or would be."""
    return Files(FOLDER / f"{name}.safetensors", FOLDER / f"{name}.json")


def introduce(name: str) -> str:
    """One line on a model that comes with the package: its classes, and where to read more."""
    record = read_json(shipped_files(name).record)
    classes, data = record["class_names"], current(record["training"])["dataset"]["data"]
    return (
        f"{name}, which comes with the package, knows the {len(classes)} classes of {data} and no others "
        f"({', '.join(classes)}); its card: {CARD}"
    )


def shipped_scale(name: str) -> Any:
    """The rule for the object scale that shipped weights were trained under; 'paper' before there were scales."""
    return read_json(shipped_files(name).record)["model"].get("scale", "paper")


def describe_shipped(name: str) -> dict[str, Any]:
    """What timm wants to know of pretrained weights: where they are, and how images are read for them."""
    files = shipped_files(name)
    record = read_json(files.record)
    transform = record["transform"]
    rows, columns = sides(transform.get("size") or record["model"]["img_size"])
    return {
        "file": str(files.weights),
        "mean": tuple(transform["mean"]),
        "std": tuple(transform["std"]),
        "crop_pct": transform["crop_ratio"],
        "interpolation": transform["interpolation"],
        "test_input_size": (len(transform["mean"]), rows, columns),
        "label_names": tuple(record["class_names"]),
    }
