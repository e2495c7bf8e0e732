"""Export one file for all sizes, ONNX or torch.export, checked against the model before it is kept."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cpvt.config import ExportConfig, options_from, sides, takes_options
from cpvt.models import VisionTransformer
from cpvt.results.checkpoints import Checkpoint, load

FORMATS = {".onnx": "onnx", ".pt2": "torch-export"}
TOLERANCE = 1e-4  # relative to the largest logit, or to 1 where logits are smaller
EXAMPLE = (2, 6, 8)  # batch and grid of the traced example
CHECKS = ((1, 2, 2), (3, 5, 4), (2, 9, 3), (4, 3, 11), (1, 13, 7))  # batch and grid of the checks


class Exported(NamedTuple):
    """The file, and how well it agrees with the model."""

    path: Path
    error: float  # largest difference from eager, relative to the largest logit
    checked: list[tuple[int, int, int]]  # batch, height, width of every check


@takes_options(ExportConfig)
def export(model: VisionTransformer | Checkpoint | str | Path, out: str | Path = "", **options: Any) -> Exported:
    """Write a model as one file for any batch, height and width; its suffix decides the format, .onnx or .pt2.

    model: a model, or what `load` returned or takes: the folder of a run, or a name that comes with weights.

    The file is compared with the model at five sizes other than the traced one, some not divisible by the patch. Raises
    ValueError, and keeps no file, where they differ by more than 1e-4. Metadata hold smallest_side and training_size in
    pixels, and of a run class_names, mean and std: metadata_props in .onnx, the extra file metadata.json in .pt2.
    """
    path = _path_of(options_from(ExportConfig, options, model=model, out=out))
    checkpoint = load(model, "cpu") if isinstance(model, (str, Path)) else model
    eager = (checkpoint.own_model if isinstance(checkpoint, Checkpoint) else checkpoint).eval()
    metadata = _metadata(checkpoint, eager, path.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the exporters
        written = Path(folder) / path.name
        (_write_onnx if path.suffix == ".onnx" else _write_pt2)(eager, written, metadata)
        run = _onnx_runner(written) if path.suffix == ".onnx" else _pt2_runner(written)
        error, checked = _check(eager, run)
        if not error <= TOLERANCE:
            raise ValueError(
                f"the exported model differs from eager by {error:.1e}, more than {TOLERANCE}; no file was kept"
            )
        written.replace(path)
    return Exported(path, error, checked)


def _path_of(config: ExportConfig) -> Path:
    """The file to write: `out`, else in the run's folder, or in the working folder for a model by name."""
    named: Any = config.model
    if not config.out and not isinstance(named, (str, Path)):
        raise ValueError("out is needed for a model without a folder, as in export(model, 'model.onnx')")
    suffix = ".pt2" if config.format == "torch-export" else ".onnx"
    default = Path(named) / f"model{suffix}" if not config.out and Path(named).is_dir() else f"{named}{suffix}"
    path = Path(config.out or default)
    if path.suffix not in FORMATS:
        raise ValueError(f"the suffix decides the format: {', '.join(FORMATS)}; got '{path.name}'")
    if config.format not in (None, FORMATS[path.suffix]):
        raise ValueError(f"--format {config.format} does not go with '{path}'; suffixes: {FORMATS}")
    return path


def _metadata(checkpoint: VisionTransformer | Checkpoint, eager: VisionTransformer, suffix: str) -> dict[str, Any]:
    known: dict[str, Any] = {}
    if isinstance(checkpoint, Checkpoint):
        transform = checkpoint.transform
        known = {"class_names": list(checkpoint.class_names), "mean": list(transform.mean), "std": list(transform.std)}
    patches = 1 if suffix == ".onnx" else 2  # torch.export treats one token per side as a constant
    smallest = patches * eager.config.patch_size
    return {**known, "smallest_side": smallest, "training_size": list(sides(eager.config.img_size))}


def _example(model: VisionTransformer, shape: tuple[int, int, int], less: int = 0) -> Tensor:
    """Images of a batch and grid, `less` pixels smaller than the patches cover."""
    batch, h, w = shape
    config, generator = model.config, torch.Generator().manual_seed(0)
    size = (h * config.patch_size - less, w * config.patch_size - less)
    weight = next(model.parameters())
    return torch.randn(batch, config.in_chans, *size, generator=generator).to(weight)


def _write_pt2(model: VisionTransformer, path: Path, metadata: dict[str, Any]) -> None:
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(model, (_example(model, EXAMPLE),), dynamic_shapes={"images": free})
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(metadata)})


def _write_onnx(model: VisionTransformer, path: Path, metadata: dict[str, Any]) -> None:
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"writing .onnx needs a package that is not installed ({error}): pip install 'cpvt[onnx]'"
        ) from error
    free = {axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}
    program = torch.onnx.export(
        model, (_example(model, EXAMPLE),), dynamo=True, dynamic_shapes={"images": free}, verbose=False,
        input_names=["images"], output_names=["logits"],
    )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
        dimension = proto.graph.input[0].type.tensor_type.shape.dim[axis]
        if not dimension.HasField("dim_param"):
            raise ValueError(f"the exporter fixed the {name} to {dimension.dim_value}; no file was kept")
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.save(proto, path)  # all in one file


def _onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(np.asarray(session.run(None, {"images": images.cpu().numpy()})[0]))


def _pt2_runner(path: Path) -> Callable[[Tensor], Tensor]:
    module = torch.export.load(path).module()
    return lambda images: module(images)


def _check(model: VisionTransformer, run: Callable[[Tensor], Tensor]) -> tuple[float, list[tuple[int, int, int]]]:
    """Largest difference from eager over the checks, relative to the largest logit (or 1), and their sizes."""
    worst, checked = 0.0, []
    for number, shape in enumerate(CHECKS):
        images = _example(model, shape, less=number % 3 % model.config.patch_size)
        with torch.no_grad():
            expected, got = model(images).cpu().float(), run(images).cpu().float()
        if got.shape != expected.shape:
            raise ValueError(f"the exported model gives {tuple(got.shape)} for {tuple(images.shape)}; no file was kept")
        worst = max(worst, float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0)))
        checked.append((images.shape[0], images.shape[2], images.shape[3]))
    return worst, checked
