"""Export one file for all sizes, ONNX or torch.export, checked against the model before it is kept."""

from __future__ import annotations

import inspect
import itertools
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cpvt.adapters import ModelAdapter, adapter_of, is_external, logits_of
from cpvt.adapters.base import kept_modes
from cpvt.adapters.hugging_face import INTERPOLATE
from cpvt.config import ExportConfig, ExternalConfig, options_from, sides, takes_options
from cpvt.config.scale import ScaleRule
from cpvt.evaluation.quantise import AGREEMENT, Quantised, compare_answers, quantise
from cpvt.grids import Grid
from cpvt.models import VisionTransformer
from cpvt.results.checkpoints import Checkpoint, as_adapter, build_model, load
from cpvt.runtime.errors import error_line
from cpvt.runtime.files import check_new
from cpvt.runtime.hub import is_hub

AXES = {0: "batch", 2: "height", 3: "width"}
FORMATS = {".onnx": "onnx", ".pt2": "torch-export"}
TOLERANCE = 1e-4  # relative to the largest logit, or to 1 where logits are smaller
EXAMPLE = (2, 6, 8)  # batch and grid of the traced example
CHECKS = ((1, 2, 2), (3, 5, 4), (2, 9, 3), (4, 3, 11), (1, 13, 7))  # batch and grid of the checks
IMAGES = 8  # in each check of a quantised file
LARGER = ((2.0, 1.0), (1.2, 1.7))  # of a model with a scale rule: times its training grid, in place of the last


class Exported(NamedTuple):
    """The file, and how well it agrees with the model."""

    path: Path
    error: float  # largest difference from eager, relative to the largest logit
    checked: list[tuple[int, int, int]]  # batch, height, width of every check
    fixed_size: tuple[int, int] | None = None  # the one size (height, width) that the file takes; None: any
    scale: ScaleRule | None = None  # the scale rule in the file; None: the model has none
    int8: Quantised | None = None  # of a quantised file; error and checked are then those before it was quantised

    def record(self) -> dict[str, Any]:
        """The same as JSON holds it."""
        fields = {"file": str(self.path), **self._asdict(), "int8": None if self.int8 is None else self.int8._asdict()}
        del fields["path"]
        return fields


class Target(NamedTuple):
    """What is exported: images to logits."""

    model: nn.Module
    channels: int
    unit: int  # sides are multiples of it, pixels
    pads: bool = True  # or any other number from the unit on
    fixed_size: tuple[int, int] | None = None
    scale: ScaleRule | None = None  # the rule of a model that can be given the scale
    training_grid: Grid | None = None

    @property
    def least(self) -> int:
        """The fewest tokens along a side: a fixed scale needs as many."""
        numbers = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        return max([1, *(math.ceil(each) for each in numbers if isinstance(each, float))])

    @property
    def checks(self) -> list[tuple[int, int, int]]:
        """Batch and grid of each check, smaller and larger than in training where the scale depends on it."""
        shapes = list(CHECKS)
        if self.training_grid is not None:
            h, w = self.training_grid
            shapes[-len(LARGER) :] = [
                (number, round(h * tall), round(w * wide)) for number, (tall, wide) in enumerate(LARGER, 1)
            ]
        return [(batch, max(self.least, h), max(self.least, w)) for batch, h, w in shapes]

    def example(self, shape: tuple[int, int, int], less: int = 0) -> Tensor:
        """Images of a batch and grid, `less` pixels smaller than the patches cover, or of the fixed size."""
        batch, h, w = shape
        h, w = max(h, self.least), max(w, self.least)
        less = less if self.pads else 0
        size = self.fixed_size or (h * self.unit - less, w * self.unit - less)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, self.channels, *size, generator=generator).to(next(self.model.parameters()))

    @property
    def free(self) -> tuple[int, ...]:
        """The axes of images that any length may have."""
        return (0,) if self.fixed_size else (0, 2, 3)


class Classifier(nn.Module):
    """A model of another library as a function of images alone, with its logits as the one output."""

    def __init__(self, model: nn.Module, options: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.options = model, options

    def forward(self, images: Tensor) -> Any:
        """Logits (B, classes) of images (B, C, H, W)."""
        return logits_of(self.model(images, **self.options))


@takes_options(ExportConfig)
def export(model: nn.Module | Checkpoint | str | Path, out: str | Path = "", **options: Any) -> Exported:
    """Write a model as one file for any batch, height and width; its suffix decides the format, .onnx or .pt2.

    model: a model, or what `load` returned or takes: the folder of a run, or a name that comes with weights; also
    "timm:NAME", "hf:PATH_OR_NAME" or "torchvision:NAME". A model of another library, retrofitted or not, is exported
    for all sizes where that is possible, else at its training size: `fixed_size` says so, in the metadata too. Its
    training mode is restored, whatever happens.
    scale: the scale rule of objects, by default the model's. Under 'fit' the file divides its own height and
    width by the training size; a number is fixed in it.
    int8: quantise the checked .onnx file (see `cpvt.evaluation.quantise`), and compare its answers with the model's.

    The file is compared with the model at five sizes other than the traced one, some not divisible by the patch. Raises
    ValueError, and keeps no file, where they differ by more than 1e-4, or where int8 changes more than half of the
    answers to random images; and for int8 where the file exists. Metadata hold smallest_side and training_size in
    pixels, scale of a model that takes one, precision ("int8") of a quantised file, and of a run class_names,
    mean, std, crop_ratio, interpolation and size: metadata_props in .onnx, the extra file metadata.json in .pt2.
    """
    config = options_from(ExportConfig, options, model=model, out=out)
    path = _path_of(config)
    checkpoint: Any = model
    if isinstance(model, (str, Path)):
        checkpoint = as_adapter(str(model), device="cpu") if is_external(str(model)) else load(model, "cpu")
    module = checkpoint.model if isinstance(checkpoint, (Checkpoint, ModelAdapter)) else checkpoint
    if not isinstance(module, nn.Module):
        raise ValueError(f"export takes a model (torch.nn.Module), a run or a name; got {type(module).__name__}")
    dtypes = {each.dtype for each in module.parameters() if each.is_floating_point()} - {torch.float32}
    if dtypes:
        raise ValueError(
            f"export writes float32 weights, and the model has {', '.join(sorted(map(str, dtypes)))}: "
            "export model.float(), or a copy: copy.deepcopy(model).float()"
        )
    if path.suffix == ".onnx":
        _check_onnx()
    if config.int8:
        check_new(path, "--out")
    with kept_modes(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the exporters
        adapter = checkpoint.adapter if isinstance(checkpoint, Checkpoint) else checkpoint
        adapter = (adapter if isinstance(adapter, ModelAdapter) else adapter_of(module)).with_scale(config.scale)
        path.parent.mkdir(parents=True, exist_ok=True)
        with adapter.applying_scale():
            if isinstance(module, VisionTransformer):
                return _export(
                    _target(module, module.config.in_chans, module.config.patch_size), adapter, path, config.int8
                )
            return _export_external(checkpoint, adapter, path, config.int8)


def _target(model: nn.Module, channels: int, unit: int, **options: Any) -> Target:
    """What is exported of a model, with its scale rule, if it has any."""
    inner: Any = model.model if isinstance(model, Classifier) else model
    if hasattr(inner, "scale_grid"):
        options |= {"scale": inner.scale, "training_grid": inner.scale_grid}
    return Target(model, channels, unit, **options)


def _export_external(checkpoint: Any, adapter: ModelAdapter, path: Path, int8: bool) -> Exported:
    """Export another library's model for all sizes, or else at its training size."""
    module: Any = adapter.model
    dynamic, fixed = _dynamic_timm(checkpoint) if isinstance(checkpoint, Checkpoint) else None, adapter.train_size
    options = {INTERPOLATE: True} if INTERPOLATE in inspect.signature(module.forward).parameters else {}
    channels = adapter.channels or 3
    targets = [_target(Classifier(dynamic or module, options), channels, adapter.patch_size or 32, pads=False)]
    if fixed is not None:
        targets.append(_target(Classifier(module, {}), channels, 1, fixed_size=sides(fixed)))
    for target in targets:
        try:
            return _export(target._replace(model=target.model.eval()), adapter, path, int8)
        except Exception as error:  # of whatever torch or the model make of it
            last = error
    at = f"at any size or at {adapter.train_size} pixels" if fixed is not None else "at any size; no other is known"
    raise ValueError(f"'{adapter.name}' cannot be exported as {path.suffix}, {at}: {error_line(last)[:300]}") from last


def _dynamic_timm(checkpoint: Checkpoint) -> nn.Module | None:
    """A model of timm built again to take any size, with the same weights; None where timm has no such option."""
    config = checkpoint.config
    if not isinstance(config, ExternalConfig) or not config.name.startswith("timm:"):
        return None
    given = f"{config.name[:-1]}, " if config.name.endswith(")") else f"{config.name}("
    try:
        fresh = build_model(replace(config, name=f"{given}dynamic_img_size=True)"))
        fresh.load_state_dict(checkpoint.model.state_dict())
        if config.retrofit is not None:
            fresh.scale = checkpoint.model.scale
    except (ValueError, RuntimeError):
        return None
    return fresh.to(next(checkpoint.model.parameters()).device)


def _export(target: Target, adapter: ModelAdapter, path: Path, int8: bool) -> Exported:
    """Write the file next to its place, check it, and put it there."""
    metadata = _metadata(target, adapter, path.suffix) | ({"precision": "int8"} if int8 else {})
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        (_write_onnx if path.suffix == ".onnx" else _write_pt2)(target, written, metadata)
        run = _onnx_runner(written) if path.suffix == ".onnx" else _pt2_runner(written)
        error, checked = _check(target, run)
        if not error <= TOLERANCE:
            raise ValueError(
                f"the exported model differs from eager by {error:.1e}, more than {TOLERANCE}; no file was kept"
            )
        quantised = _quantise(target, written) if int8 else None
        written.replace(path)
    return Exported(path, error, checked, target.fixed_size, target.scale, quantised)


def _quantise(target: Target, path: Path) -> Quantised:
    """Quantise the file in its place; ValueError where it then answers most images otherwise."""
    before = path.stat().st_size
    quantise(path)
    outputs = itertools.islice(_outputs(target, _onnx_runner(path), IMAGES), 1 if target.fixed_size else None)
    agreement, error, images = compare_answers((expected, found) for _, expected, found in outputs)
    if not agreement >= AGREEMENT:
        raise ValueError(
            f"quantised to int8, the file answers {agreement:.0%} of {images} images as the model does, less than "
            f"{AGREEMENT:.0%}; no file was kept. Export without --int8"
        )
    return Quantised(agreement, error, images, before, path.stat().st_size)


def _path_of(config: ExportConfig) -> Path:
    """The file to write: `out`, else in the run's folder, or in the working folder for a model by name."""
    named: Any = config.model
    if not config.out and (not isinstance(named, (str, Path)) or is_external(str(named))):
        raise ValueError("out is needed for a model without a folder, as in export(model, 'model.onnx')")
    suffix = ".pt2" if config.format == "torch-export" else "-int8.onnx" if config.int8 else ".onnx"
    stem = str(named).rpartition("/")[2].partition("@")[0] if is_hub(named) else named
    default = Path(named) / f"model{suffix}" if not config.out and Path(named).is_dir() else f"{stem}{suffix}"
    path = Path(config.out or default)
    if path.suffix not in FORMATS:
        raise ValueError(f"the suffix decides the format: {', '.join(FORMATS)}; got '{path.name}'")
    if config.format not in (None, FORMATS[path.suffix]):
        raise ValueError(f"--format {config.format} does not go with '{path}'; suffixes: {FORMATS}")
    if config.int8 and path.suffix != ".onnx":
        raise ValueError(f"ONNX Runtime quantises .onnx files, and '{path.name}' is none: leave --int8 out")
    return path


def _metadata(target: Target, adapter: ModelAdapter, suffix: str) -> dict[str, Any]:
    known: dict[str, Any] = {}
    if adapter.class_names is not None:
        known["class_names"] = list(adapter.class_names)
    if adapter.transform is not None:
        known |= {"mean": list(adapter.transform.mean), "std": list(adapter.transform.std)}
        known |= {"crop_ratio": adapter.transform.crop_ratio, "interpolation": adapter.transform.interpolation}
        known |= {"size": list(sides(adapter.transform.size))} if adapter.transform.size is not None else {}
        known |= {} if adapter.transform.crop_mode == "center" else {"crop_mode": adapter.transform.crop_mode}
        known |= {"channel_order": "BGR"} if adapter.transform.channel_order == "BGR" else {}
    if adapter.train_size is not None:
        known["training_size"] = list(sides(adapter.train_size))
    if target.scale is not None:
        known["scale"] = target.scale
    if target.fixed_size is not None:
        return {**known, "fixed_size": list(target.fixed_size)}
    patches = 1 if suffix == ".onnx" else 2  # torch.export treats one token per side as a constant
    known |= {} if target.pads else {"multiple_of": target.unit}
    return {**known, "smallest_side": max(patches, target.least) * target.unit}


def _write_pt2(target: Target, path: Path, metadata: dict[str, Any]) -> None:
    free = {axis: torch.export.Dim("batch") if axis == 0 else torch.export.Dim.DYNAMIC for axis in target.free}
    with torch.no_grad():
        program = torch.export.export(target.model, (target.example(EXAMPLE),), dynamic_shapes={"images": free})
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(metadata)})


def _check_onnx() -> None:
    """Raise ValueError where a package that writes or checks .onnx is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"writing .onnx needs a package that is not installed ({error}): pip install 'cpvt[onnx]'"
        ) from error


@contextmanager
def _warnings_alone(name: str) -> Iterator[None]:
    """Nothing below a warning from this logger, which says a hundred lines of each file at INFO."""
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


def _write_onnx(target: Target, path: Path, metadata: dict[str, Any]) -> None:
    import onnx

    free = {axis: torch.export.Dim.DYNAMIC for axis in target.free}
    with _warnings_alone("onnxscript"):
        program = torch.onnx.export(
            target.model, (target.example(EXAMPLE),), dynamo=True, dynamic_shapes={"images": free}, verbose=False,
            input_names=["images"], output_names=["logits"],
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    for axis in target.free:
        dimension = proto.graph.input[0].type.tensor_type.shape.dim[axis]
        if not dimension.HasField("dim_param"):
            raise ValueError(f"the exporter fixed the {AXES[axis]} to {dimension.dim_value}; no file was kept")
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


def _outputs(
    target: Target, run: Callable[[Tensor], Tensor], batch: int | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Images of each check, by default as many as it names, and their logits in eager mode and from a file."""
    for number, (own, h, w) in enumerate(target.checks):
        images = target.example((batch or own, h, w), less=number % 3 % target.unit)
        with torch.no_grad():
            expected, got = target.model(images).cpu().float(), run(images).cpu().float()
        if got.shape != expected.shape:
            raise ValueError(f"the exported model gives {tuple(got.shape)} for {tuple(images.shape)}; no file was kept")
        yield images, expected, got


def _check(target: Target, run: Callable[[Tensor], Tensor]) -> tuple[float, list[tuple[int, int, int]]]:
    """Largest difference from eager over the checks, relative to the largest logit (or 1), and their sizes."""
    worst, checked = 0.0, []
    for images, expected, got in _outputs(target, run):
        worst = max(worst, float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0)))
        checked.append((images.shape[0], images.shape[2], images.shape[3]))
    return worst, checked
