"""Test one model at many sizes."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cpvt.adapters import ModelAdapter, UnsupportedSizeError, is_external
from cpvt.adapters.base import kept_modes
from cpvt.adapters.own import OwnAdapter
from cpvt.adapters.precision import in_precision, precision_of
from cpvt.adapters.scale import candidate_scales, least_uncertain, rule_under, total_entropy
from cpvt.config import (
    POOL_NAMES,
    ProgressCallback,
    Size,
    SweepConfig,
    ignore_progress,
    options_from,
    sides,
    size_label,
    takes_options,
)
from cpvt.config.base import some_names
from cpvt.data import Batch, DataSet, Transform, open_data
from cpvt.data.datasets import UnknownDataError
from cpvt.data.protocols import TABLE, check_protocols, check_read, find_protocol
from cpvt.evaluation.accuracy import Score, count_test, load_test, measure
from cpvt.results.checkpoints import Checkpoint, as_adapter, is_run, load
from cpvt.results.identity import Identity, identity_of, own_data
from cpvt.results.rows import Row, pack_hits
from cpvt.runtime import distributed
from cpvt.runtime.hub import is_hub

logger = logging.getLogger(__name__)

AUTO_IMAGES = 64  # of a test, from which 'auto' estimates the scale


@takes_options(SweepConfig, "out")
def sweep(
    model: str | Path | Checkpoint | ModelAdapter | Callable[..., Any],
    data: str | DataSet | None = None,
    sizes: Sequence[Size | str] = (),
    *,
    on_progress: ProgressCallback = ignore_progress,
    **options: Any,
) -> Iterator[Row]:
    """Test a model at sizes it was not trained at; yields a row per protocol and size as it is measured.

    model: a folder that `train` wrote, a name that comes with weights, what `load` returned, "timm:NAME",
    "hf:PATH_OR_NAME" or "torchvision:NAME" (`checkpoint`: a file with its weights), or any module or callable,
    (B, C, H, W) -> (B, classes). data: a data set or its name, by default that of a run on this machine. Classes
    are matched by index where the model does not have their names. sizes: sides or (height, width) in pixels, by
    default from half to three times the training size. Other options are those of `cpvt.config.SweepConfig`.

    Images are normalised, cropped and interpolated as the model's own configuration says, else as fits the data. A size
    that the model refuses gives a row with its message in `refused`; an error that it also raises at its training size
    and the other sizes is its own, and raised. Raises TypeError for an unknown option, ValueError for a size below a
    patch, other classes than the model's, and output that is not (B, classes).
    """
    config = options_from(SweepConfig, options, model=model, data=data, sizes=sizes, out=None)
    return _sweep(config, on_progress)


def _sweep(config: SweepConfig, on_progress: ProgressCallback) -> Iterator[Row]:
    model: Any = config.model
    with kept_modes(model):
        yield from _tests(model, config, on_progress)


def _tests(model: Any, config: SweepConfig, on_progress: ProgressCallback) -> Iterator[Row]:
    if isinstance(model, (str, Path)) and is_run(model) and not is_external(str(model)) and config.checkpoint is None:
        model = load(model, config.device)
    adapter, identity = as_adapter(model, config.checkpoint, config.device), _identity(model)
    adapter = _stated_size(adapter, model, config.img_size)
    _check_protocols(config)
    data = _data_of(model, adapter, config.data, config.data_dir).limited(config.limit)
    for protocol in config.protocols:
        _check_data(data, adapter, protocol)
    sizes = config.sizes or default_sizes(adapter)
    check_sizes(sizes, adapter.patch_size or 1)
    adapter = in_precision(replace(adapter, other_sizes=tuple(sizes)), config.precision, sizes)
    changes: dict[str, Any] = {"mean": config.mean or None, "std": config.std or None, "crop_ratio": config.crop_pct}
    changes |= {"interpolation": config.interpolation, "longest_side": config.longest_side}
    changes |= {"reduced_jpegs": config.reduced_jpegs}
    known = {name: value for name, value in changes.items() if value is not None}
    check_read(known, config.protocols)
    transform = replace(_transform_of(adapter, data, max(max(sides(size)) for size in sizes)), **known)
    for protocol, size in itertools.product(config.protocols, sizes):
        size = max(sides(size)) if TABLE[protocol].size_is_limit else size
        batches = load_test(
            data, find_protocol(protocol)(transform, sides(size)), config.batch_size,
            patch_size=adapter.patch_size or 1,
            token_budget=config.token_budget, on_bad_image=config.on_bad_image, workers=config.workers,
            max_image_pixels=config.max_image_pixels,
        )  # fmt: skip
        rule = rule_under(TABLE[protocol].scale_rule, config.scale, adapter)
        if rule == "auto":
            rule, batches = _estimate(adapter, size, batches)
        ready, score = _measure_at(
            adapter if rule is None else adapter.with_scale(rule), size, protocol, batches, data, on_progress
        )
        row = _row(identity, ready, data, protocol, size, transform, score)
        yield replace(
            row, weights=str(config.checkpoint or ""), scale_rule=str(config.scale) if adapter.takes_scale else ""
        )


def _check_protocols(config: SweepConfig) -> None:
    """Raise ValueError for unknown protocols, and for options that do not go with a protocol."""
    check_protocols(config.protocols)
    for protocol in config.protocols:
        if config.scale == "auto" and not TABLE[protocol].stacks:
            raise ValueError(
                f"'auto' estimates one scale for images of one size; under {protocol} pass fit or a number"
            )
        if not TABLE[protocol].size_is_limit:
            continue
        if not all(isinstance(size, int) for size in config.sizes):
            raise ValueError(f"under {protocol} a size is the longest side allowed, such as 224; got {config.sizes}")
        if config.longest_side is not None or config.crop_pct is not None:
            raise ValueError(
                f"under {protocol} the sizes are the longest sides and nothing is cropped: "
                "leave longest_side and crop_pct out"
            )


def _stated_size(adapter: ModelAdapter, model: Any, img_size: Size | None) -> ModelAdapter:
    """The adapter with the training size that the options state; ValueError where a model of ours states another."""
    if img_size is None:
        return adapter
    known = isinstance(model, Checkpoint) or isinstance(adapter, OwnAdapter)
    if known and adapter.train_size is not None and sides(adapter.train_size) != sides(img_size):
        raise ValueError(
            f"'{adapter.name}' was trained at {size_label(adapter.train_size)} pixels, and img_size says "
            f"{size_label(img_size)}: leave img_size (--img-size) out; sizes (--sizes) are those to test at"
        )
    return replace(adapter, train_size=img_size)


def _identity(model: Any) -> Identity:
    """How rows name a model: a run by its training, a model of another library by its name."""
    if not isinstance(model, Checkpoint):
        return Identity(str(model) if isinstance(model, str) else getattr(model, "name", type(model).__name__))
    if "training" not in model.record:  # of timm's config.json
        own = model.own_model
        return Identity(model.name, own.config.encoding, POOL_NAMES[own.config.global_pool], at=tuple(own.encoding.at))
    return identity_of(model.record, model.config)


def _data_of(model: Any, adapter: ModelAdapter, data: str | DataSet | None, root: str | None) -> DataSet:
    if isinstance(data, DataSet):
        return data
    mode = adapter.transform.mode if adapter.transform else {1: "L", 3: "RGB"}.get(adapter.channels or 0)
    of_hub = isinstance(model, Checkpoint) and is_hub(model.source)  # whose record could name a command as its data
    if of_hub or not isinstance(model, Checkpoint) or "training" not in model.record:
        if data is None:
            why = "is of the hub, whose files do not choose what is read here" if of_hub else "does not say its own"
            raise ValueError(f"data= (--data) is needed to test '{adapter.name}', which {why}")
        found = open_data(data, root, mode)
        return found if of_hub else found.whole()  # of a set without parts all images: none was trained on
    name = own_data(model.record)[0] if data is None else data
    trained_on = model.record["training"]["dataset"]
    own = name == trained_on["data"]
    try:
        found = open_data(name, root or (trained_on["data_dir"] if own else None), mode)
        if found.held_out and not own:
            logger.info(
                f"{found.name} has no test/: the model is tested on {count_test(found):,} images, "
                f"{found.names['test']}; put all of them into {found.name}/test/CLASS to test them all"
            )
        return found
    except ValueError as error:
        if data is not None:
            raise
        unknown = isinstance(error, UnknownDataError)
        where = f"is not there (seen from '{Path.cwd()}')" if unknown else f"does not open here ({error})"
        raise ValueError(
            f"the run was trained on '{trained_on['data']}', which {where}: give the place of its images by --data, "
            "or by --data-dir where the name is that of a set"
        ) from error


def _transform_of(adapter: ModelAdapter, data: DataSet, largest: int) -> Transform:
    """The model's own transform, else one for the data. The longest side is four times the training size."""
    transform = adapter.transform or Transform(data.mean, data.std, data.crop_ratio)
    if transform.longest_side is not None:
        return transform
    return replace(transform, longest_side=4 * (max(sides(adapter.train_size)) if adapter.train_size else largest))


def _estimate(adapter: ModelAdapter, size: Size, batches: Iterator[Batch]) -> tuple[Any, Iterator[Batch]]:
    """The scale of the lowest entropy on the first images, of all processes together; and all batches again."""
    first: list[Batch] = []
    while sum(len(batch.labels) for batch in first) < AUTO_IMAGES and (batch := next(batches, None)) is not None:
        first.append(batch)
    images: Any = [batch.images_on(adapter.device) for batch in first if len(batch.labels)]
    scales = candidate_scales(adapter, sides(size))
    try:
        found = total_entropy(adapter.at_size(sides(size)), images, scales)
    except UnsupportedSizeError:  # which the test then reports
        found = torch.full((len(scales),), math.inf)
    entropies = distributed.all_reduce_sum(found.to(adapter.device))
    rule = least_uncertain(scales, entropies) if bool(entropies.isfinite().all()) else "fit"
    return rule, itertools.chain(first, batches)


def _measure_at(
    adapter: ModelAdapter,
    size: Size,
    protocol: str,
    batches: Iterable[Batch],
    data: DataSet,
    on_progress: ProgressCallback,
) -> tuple[ModelAdapter, Score]:
    """The adapter for this size, and its score, which may be a refusal."""
    ready, count = adapter, count_test(data)
    try:
        ready = adapter if TABLE[protocol].size_is_limit else adapter.at_size(sides(size))
        name, streamed = f"{protocol} {size}", data.test is None
        return ready, measure(ready, batches, count, len(data.class_names), name, on_progress, streamed)
    except UnsupportedSizeError as refusal:
        on_progress(f"{protocol} {size}", count, count, "refused")
        return ready, Score(refused=str(refusal))


def _scale_of(adapter: ModelAdapter, protocol: str, size: Size) -> tuple[float, float] | None:
    """The scale that a model was given at a size; None where it was given none, or where images differ in size."""
    if adapter.scale is None or TABLE[protocol].size_is_limit:
        return None
    return adapter.scale_at(adapter.scale, sides(size))


def check_sizes(wanted: Sequence[Size], patch_size: int) -> None:
    """Raise ValueError for a size with a side below a patch."""
    for size in wanted:
        if min(sides(size)) < patch_size:
            raise ValueError(f"size {size} is smaller than a patch; the smallest side of this model is {patch_size}")


def default_sizes(adapter: ModelAdapter) -> list[Size]:
    """Half, 1, 1.5, 2 and 3 times the training size."""
    if adapter.train_size is None:
        raise ValueError(
            f"'{adapter.name}' does not state its training size: pass sizes= (--sizes), and img_size= if it is known"
        )
    smallest = adapter.patch_size or 1
    found = [tuple(max(smallest, side * half // 2) for side in sides(adapter.train_size)) for half in (1, 2, 3, 4, 6)]
    return [height if isinstance(adapter.train_size, int) else (height, width) for height, width in found]


def _check_data(data: DataSet, adapter: ModelAdapter, protocol: str) -> None:
    """Raise ValueError unless the data has test images, of the model's classes, that the protocol can read."""
    if not data.has_test:
        raise ValueError(data.lacks_test)
    if data.test is None and not TABLE[protocol].streams:
        others = " or ".join(name for name, other in TABLE.items() if other.streams)
        raise ValueError(f"'{data.name}' is read as it comes, which '{protocol}' cannot do; choose {others}")
    if not data.class_names:
        raise ValueError(f"'{data.name}' has no labels, so accuracy cannot be measured")
    names = adapter.class_names
    if names is not None and data.class_names != names:
        raise ValueError(
            f"the classes of '{data.name}' are not the model's: the model has {len(names)} "
            f"({some_names(names)}), the data {len(data.class_names)} ({some_names(data.class_names)})"
        )


def _row(
    identity: Identity, adapter: ModelAdapter, data: DataSet, protocol: str, size: Size, transform: Transform,
    score: Score,
) -> Row:  # fmt: skip
    errors = None
    if score.confusion is not None:
        cells = score.confusion.clone().fill_diagonal_(0)
        errors = tuple((true, answer, int(cells[true, answer])) for true, answer in cells.nonzero().tolist())
    return Row(
        **identity._asdict(),
        protocol=protocol,
        size=size,
        correct=score.correct,
        total=score.total,
        seconds=round(score.seconds, 3),
        parameters=adapter.parameters,
        data=data.name,
        train_size=adapter.train_size,
        scale=None if score.refused else _scale_of(adapter, protocol, size),
        crop_ratio=transform.crop_ratio,
        interpolation=transform.interpolation,
        longest_side=transform.longest_side,
        reduced_jpegs=transform.reduced_jpegs,
        fill=round(score.padding_fraction, 4),
        shrunk=score.shrunk,
        skipped=score.skipped,
        top5=score.top5,
        model_seconds=round(score.model_seconds, 4),
        peak_memory=score.peak_memory,
        takes_sizes=adapter.resize_method,
        refused=score.refused,
        precision=precision_of(adapter),
        mean=transform.mean,
        std=transform.std,
        hits=pack_hits(score.correct_mask) if len(score.correct_mask) == score.total else None,
        class_totals=tuple(score.by_class[0].tolist()),
        class_correct=tuple(score.by_class[1].tolist()),
        confusion=errors,
        class_names=data.class_names if errors is not None else (),
    )
