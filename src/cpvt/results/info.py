"""What a trained run is, line by line, from its files."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cpvt.config import POOL_NAMES, ModelConfig, size_label
from cpvt.config.base import some_names
from cpvt.config.scale import scale_label
from cpvt.results.checkpoints import config_from_json, files_of, transform_of
from cpvt.results.folders import HISTORY, ROWS
from cpvt.results.hub import describe_start, describe_training, describe_versions, kind_of_test
from cpvt.results.identity import identity_of, own_rows
from cpvt.runtime.files import read_lines


def describe_run(run: str | Path, record: dict[str, Any]) -> dict[str, str]:
    """Title -> one line: model, parameters, classes, training, tests, how images are read, and where it came from.

    run: a folder that `train` wrote, or a name that comes with weights. record: what `read_record` returns for it.
    """
    config, training, made = config_from_json(record["model"]), record.get("training"), record.get("provenance")
    lines = {
        "model": _model(config, training),
        "parameters": f"{_parameters(files_of(run).weights):,}",
        "classes": f"{config.num_classes}: {some_names(record['class_names']) or 'without names'}",
    }
    if "transform" in record:
        lines["images"] = _images(record)
    if training:
        lines["training"] = describe_training(record)
        lines["data"] = record.get("passed_data") or training["dataset"]["data"]
        if training["initial_checkpoint"]:
            lines["initial checkpoint"] = describe_start(record)
    history = [values for _, values in read_lines(Path(run) / HISTORY)]
    if history:
        lines["last epoch"] = f"loss {history[-1]['loss']:.4f}, training accuracy {history[-1]['accuracy']:.1%}"
    for row in own_rows(Path(run) / ROWS, identity_of(record, config)) if training else ():
        result = f"not supported: {row.refused}" if row.refused else f"{row.accuracy:.1%} of {row.total:,} images"
        kind = kind_of_test(row, record.get("transform", {}))
        lines[f"tested on {row.data}, {kind}, {size_label(row.size)}"] = result
    if made:
        lines["made by"] = f"{describe_versions(made)}; commit {made['commit'] or 'not known'}; {made['machine']}"
        lines["command"] = made["command"]
    return lines


def _model(config: Any, training: dict[str, Any] | None) -> str:
    name = training["model"] if training else ""
    if not isinstance(config, ModelConfig):
        return f"{config.name}, trained at {size_label(config.img_size)} pixels"
    pool = POOL_NAMES[config.global_pool]
    parts = f"encoding {config.encoding}, pool {pool}, width {config.embed_dim}, {config.depth} blocks"
    scale = f"scale {scale_label(config.scale)}" + (", attention temperature" if config.attn_temperature else "")
    return f"{name}: {parts}, {config.num_heads} heads, patch {config.patch_size}, {scale}".removeprefix(": ")


def _parameters(weights: Path) -> int:
    try:
        with safe_open(weights, framework="pt") as file:
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise ValueError(f"'{weights}' is not a whole file of weights ({error})") from error


def _images(record: dict[str, Any]) -> str:
    transform = transform_of(record)
    assert transform.size is not None  # for mypy
    reduced = ", JPEGs decoded at a reduced scale" if transform.reduced_jpegs else ""
    return (
        f"resized to {size_label(transform.size)} pixels (crop ratio {transform.crop_ratio}, "
        f"{transform.interpolation}{reduced}), mean {transform.mean}, std {transform.std}"
    )
