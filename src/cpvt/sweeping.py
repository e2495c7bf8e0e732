"""One model, tested at many sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cpvt import processes
from cpvt.checkpoint import Checkpoint, as_subject, is_run, load
from cpvt.config import (
    POOLS,
    SWEEP_PROTOCOLS,
    TOKEN_BUDGET,
    ModelConfig,
    Size,
    Watch,
    ignore_progress,
    parse_size,
    sides,
)
from cpvt.data import Batch, DataSet, Split, Transform, View, load_packs, open_data
from cpvt.results import Row, pack_hits
from cpvt.retrofitting import describe_retrofit
from cpvt.scoring import Score, count_test, load_test, measure
from cpvt.subjects import RefusedError, Subject, is_foreign

POOL_NAMES = {timm_name: name for name, timm_name in POOLS.items()}


class Identity(NamedTuple):
    """How rows call the model."""

    model: str
    encoding: str = ""
    pool: str = ""
    seed: int = 0
    at: tuple[int, ...] = ()


def sweep(
    model: str | Path | Checkpoint | Subject | Callable[..., Any],
    data: str | DataSet | None = None,
    sizes: Sequence[Size | str] = (),
    *,
    protocol: str = "resize",
    checkpoint: str | Path | None = None,
    data_dir: str | None = None,
    train_size: Size | None = None,
    crop_ratio: float | None = None,
    interpolation: str | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    longest_side: int | None = None,
    on_bad_image: str = "error",
    batch_size: int = 64,
    token_budget: int = TOKEN_BUDGET,
    workers: int = 0,
    device: str = "auto",
    watch: Watch = ignore_progress,
) -> Iterator[Row]:
    """Test a model at sizes it was not trained at; yields a row per size as it is measured.

    model: a folder that `train` wrote or a name that comes with weights, what `load` returned, "timm:NAME", "hf:PATH_OR_NAME" or "torchvision:NAME"
    (`checkpoint`: a file with its weights), or any module or callable, (B, C, H, W) -> (B, classes). data: a data set or
    its name, by default the run's own; classes are matched by number where the model does not know their names.
    sizes: sides or (height, width) in pixels, by default from half to three times the training size.
    protocol: 'resize', 'canvas' or 'native' (see `cpvt.data.views`); under 'native' a size is the longest side allowed, a
    larger one than any picture's shows all at their own sizes, and `token_budget` patches go through the model at a time.
    Pictures are normalised, cropped and interpolated as the model's own configuration says, else as fits the data.
    longest_side: larger pictures are shrunk to it before they are laid on a canvas, by default four times the training
    size; how many were is in the row. workers: processes that read beside this one. A size that the model refuses gives a row with its words in `refused`.
    Raises ValueError for a size below a patch, classes that are not the model's, and output that is not (B, classes).
    """
    if isinstance(model, (str, Path)) and is_run(model) and not is_foreign(str(model)) and checkpoint is None:
        model = load(model, device)
    subject, identity = as_subject(model, checkpoint, device), _identity(model)
    if train_size is not None:
        subject = replace(subject, train_size=train_size)
    if protocol not in SWEEP_PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(SWEEP_PROTOCOLS)}; got '{protocol}'")
    data = _data_of(model, subject, data, data_dir)
    split = _test_split(data, subject, protocol)
    wanted = [parse_size(size) if isinstance(size, str) else size for size in sizes] or default_sizes(subject)
    check_sizes(wanted, subject.patch_size or 1)
    if protocol == "native" and not all(isinstance(size, int) for size in wanted):
        raise ValueError(f"under native a size is the longest side allowed, such as 224; got {wanted}")
    if protocol == "native" and (longest_side is not None or crop_ratio is not None):
        raise ValueError(
            "under native the sizes are the longest sides and nothing is cropped: leave longest_side and crop_ratio out"
        )
    changes: dict[str, Any] = {"mean": tuple(mean) or None, "std": tuple(std) or None}
    changes |= {"crop_ratio": crop_ratio, "interpolation": interpolation, "longest_side": longest_side}
    known = {name: value for name, value in changes.items() if value is not None}
    transform = replace(_transform_of(subject, data, max(max(sides(size)) for size in wanted)), **known)
    for size in wanted:
        view = View(transform, protocol, sides(size))
        if view.stacks:
            batches = load_test(data, view, batch_size, on_bad_image=on_bad_image, workers=workers)
        else:
            assert split is not None  # _test_split refuses a stream
            order = processes.share(range(len(split)))
            batches = load_packs(
                split, view, subject.patch_size or 1, token_budget, order=order, on_bad_image=on_bad_image,
                workers=workers,
            )  # fmt: skip
        ready, score = _measure_at(subject, size, protocol, batches, data, watch)
        yield replace(_row(identity, ready, data.name, protocol, size, transform, score), weights=str(checkpoint or ""))


def _identity(model: Any) -> Identity:
    """What rows call a model: for a run what it was trained as, for a model of another library its name."""
    if not isinstance(model, Checkpoint):
        return Identity(str(model) if isinstance(model, str) else getattr(model, "name", type(model).__name__))
    training, config = model.record["training"], model.config
    if not isinstance(config, ModelConfig):
        return Identity(
            config.name,
            seed=training["seed"],
            encoding=describe_retrofit(config.retrofit) if config.retrofit else "",
            at=tuple(model.record["at"]),
        )
    return Identity(
        training["model"], config.encoding, POOL_NAMES[config.global_pool], training["seed"], tuple(model.record["at"])
    )


def _data_of(model: Any, subject: Subject, data: str | DataSet | None, root: str | None) -> DataSet:
    if isinstance(data, DataSet):
        return data
    mode = subject.transform.mode if subject.transform else {1: "L", 3: "RGB"}.get(subject.channels or 0)
    if not isinstance(model, Checkpoint):
        if data is None:
            raise ValueError(f"say on which pictures '{subject.name}' is to be tested: data= (--data)")
        return open_data(data, root, mode)
    source = model.record["training"]["source"]
    own = data is None or data == source["data"]
    return open_data(data or source["data"], root or (source["data_dir"] if own else None), mode)


def _transform_of(subject: Subject, data: DataSet, largest: int) -> Transform:
    """How pictures are read: the model's own way, else as fits the data; canvases take four times the training size."""
    transform = subject.transform or Transform(data.mean, data.std, data.crop_ratio)
    if transform.longest_side is not None:
        return transform
    return replace(transform, longest_side=4 * (max(sides(subject.train_size)) if subject.train_size else largest))


def _measure_at(
    subject: Subject, size: Size, protocol: str, batches: Iterable[Batch], data: DataSet, watch: Watch
) -> tuple[Subject, Score]:
    """The subject as it was made ready for the size, and its score; a refusal is a score too."""
    ready, count = subject, count_test(data)
    try:
        ready = subject if protocol == "native" else subject.at_size(sides(size))
        return ready, measure(ready, batches, count, len(data.class_names), f"{protocol} {size}", watch)
    except RefusedError as refusal:
        watch(f"{protocol} {size}", count, count, "refused")
        return ready, Score(refused=str(refusal))


def check_sizes(wanted: Sequence[Size], patch_size: int) -> None:
    """Raise ValueError for a size with a side below a patch."""
    for size in wanted:
        if min(sides(size)) < patch_size:
            raise ValueError(f"size {size} is smaller than a patch; the smallest side of this model is {patch_size}")


def default_sizes(subject: Subject) -> list[Size]:
    """Half, once, one and a half, twice and three times the training size."""
    if subject.train_size is None:
        raise ValueError(
            f"'{subject.name}' does not say its training size: say sizes= (--sizes), and train_size= if known"
        )
    side = max(sides(subject.train_size))
    return [max(subject.patch_size or 1, side * half // 2) for half in (1, 2, 3, 4, 6)]


def _test_split(data: DataSet, subject: Subject, protocol: str) -> Split | None:
    """The pictures to test on, checked against the model's classes; None for a stream."""
    if data.test is None and data.test_stream is None:
        raise ValueError(f"'{data.name}' has no test/ (or val/) to test on")
    if data.test is None and protocol == "native":
        raise ValueError(f"'{data.name}' is read as it comes, which 'native' cannot do; choose resize or canvas")
    if not data.class_names:
        raise ValueError(f"'{data.name}' has no labels, so nothing can be counted as right")
    names = subject.class_names
    if names is not None and data.class_names != names:
        raise ValueError(
            f"the classes of '{data.name}' are not the model's: the model has {len(names)} "
            f"({_some(names)}), the data {len(data.class_names)} ({_some(data.class_names)})"
        )
    return data.test


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _row(
    identity: Identity, subject: Subject, data: str, protocol: str, size: Size, transform: Transform, score: Score
) -> Row:
    return Row(
        **identity._asdict(),
        protocol=protocol,
        size=size,
        correct=score.correct,
        total=score.total,
        seconds=round(score.seconds, 3),
        parameters=subject.parameters,
        data=data,
        train_size=subject.train_size,
        crop_ratio=transform.crop_ratio,
        interpolation=transform.interpolation,
        longest_side=transform.longest_side,
        fill=round(score.fill, 4),
        shrunk=score.shrunk,
        skipped=score.skipped,
        top5=score.top5,
        model_seconds=round(score.model_seconds, 4),
        peak_memory=score.peak_memory,
        takes_sizes=subject.way,
        refused=score.refused,
        mean=transform.mean,
        std=transform.std,
        hits=pack_hits(score.hits) if len(score.hits) == score.total else None,
    )
