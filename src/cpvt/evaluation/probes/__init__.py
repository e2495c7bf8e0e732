"""THE TABLE of probes: what a model knows of positions. A new one is one file with PARTS here and one line below."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from cpvt.adapters import ModelAdapter, UnsupportedError, UnsupportedSizeError
from cpvt.adapters.base import kept_modes
from cpvt.config import ProbeConfig, ProgressCallback, Size, ignore_progress, options_from, sides, takes_options
from cpvt.config.scale import parse_scale, scale_label
from cpvt.data import DataSet, open_data
from cpvt.evaluation.probes.context import ProbeContext, Sides
from cpvt.evaluation.probes.images import ProbeDataset
from cpvt.evaluation.probes.inspection import check_labels, fit_transform, patch_of, read_grids, training_sides
from cpvt.results.checkpoints import Checkpoint, as_adapter, read_record
from cpvt.results.folders import ARRAYS, CHECKPOINT, PROBE_RESULTS
from cpvt.results.identity import own_data
from cpvt.results.probe_results import BASELINES, ProbeResult
from cpvt.runtime.files import append_rows

__all__ = ["TABLE", "ProbeContext", "ProbeDataset", "ProbeResult", "probe"]

TABLE = {  # name of the module -> what it measures; its PARTS are functions of a ProbeContext that yield results
    "order": "how far the output changes when patches are permuted",
    "translation": "whether tokens and predictions follow shifts of the image",
    "position": "how well row and column can be read from each token",
    "longer": "whether that readout holds at larger sizes",
    "islam": "how well maps unrelated to the image can be read (Islam et al., 2020)",
    "attention": "how far each head attends",
}


@takes_options(ProbeConfig)
def probe(
    model: str | Path | Checkpoint | ModelAdapter | Callable[..., Any],
    data: str | DataSet | None = None,
    *,
    out: str | Path | None = None,
    on_progress: ProgressCallback = ignore_progress,
    **options: Any,
) -> Iterator[ProbeResult]:
    """Measure what a model knows of positions; yields each result of the model and of its baselines.

    The baselines are the null of every probe. `untrained` has the same architecture with random weights; `none` has
    the same weights with the positional encoding off.

    model: a folder that `train` wrote, "timm:NAME", "hf:PATH_OR_NAME", "torchvision:NAME" (`checkpoint`: a file with
    its weights), or any module or callable from images (B, C, H, W) to logits, or to tokens as a tensor, dict or tuple.
    data: a data set or its name, by default a run's own, else digits; only accuracy needs labels. out: a folder to
    whose findings.jsonl results are added.
    Other options are those of `cpvt.config.ProbeConfig`: `probes` are names of TABLE, by default all; `sizes` of
    `longer` are rounded up to whole patches; `scale` is a scale rule of objects (its results are those of
    "MODEL at scale RULE"), by default the model's own.

    A part that the model does not support gives a result without a value that says why; the rest runs. Raises
    TypeError for an unknown option, ValueError for an unknown probe, data set or size.
    """
    return _probe(options_from(ProbeConfig, options, model=model, data=data, out=out), on_progress)


def _probe(config: ProbeConfig, on_progress: ProgressCallback) -> Iterator[ProbeResult]:
    with kept_modes(config.model):
        yield from _measurements(config, on_progress)


def _measurements(config: ProbeConfig, on_progress: ProgressCallback) -> Iterator[ProbeResult]:
    if any(name not in TABLE for name in config.probes):
        raise ValueError(f"probes must be among {', '.join(TABLE)}; got {', '.join(config.probes)}")
    adapter = as_adapter(config.model, config.checkpoint, config.device).with_scale(config.scale)
    data: Any = config.data
    if data is None or isinstance(data, str):
        name, root = (data, None) if data is not None else _own_data(config.model)
        data = open_data(name, config.data_dir or root, adapter.transform.mode if adapter.transform else None)
    transform = fit_transform(adapter, data)
    training = training_sides(adapter, data, config.img_size)
    adapter = replace(adapter, other_sizes=(training,))
    grids, missing = read_grids(adapter, training, transform)
    patch = patch_of(adapter, training, grids)
    dataset = ProbeDataset(
        data, transform, adapter.device, config.images, patch or 16, config.seed, config.on_bad_image,
        config.token_budget, config.max_image_pixels,
    )  # fmt: skip
    larger = _larger(config.sizes, training, patch or 1)
    # a model at a scale is a line of its own
    words = "" if config.scale is None else f" at scale {scale_label(parse_scale(config.scale))}"
    context = ProbeContext(
        adapter, adapter.name + words, BASELINES[0], dataset, training, larger, grids,
        missing, patch, has_labels=False, arrays=None if config.out is None else Path(config.out) / ARRAYS,
    )  # fmt: skip
    for result in _results(context, config.probes or tuple(TABLE), on_progress):
        if config.out is not None:
            append_rows(Path(config.out) / PROBE_RESULTS, [result.as_json()])
        yield result


def _own_data(model: Any) -> tuple[str, str | None]:
    """The data set that a run on this machine was trained on, and where its files are; digits for other models."""
    folder = model.folder if isinstance(model, Checkpoint) else model
    if not isinstance(folder, (str, Path)) or not (Path(folder) / CHECKPOINT).is_file():
        return "digits", None
    record = read_record(folder)
    return own_data(record) if "training" in record else ("digits", None)


def _results(context: ProbeContext, probes: Sequence[str], on_progress: ProgressCallback) -> Iterator[ProbeResult]:
    without_labels = check_labels(context)
    if without_labels is not None:
        yield replace(context, probe="translation").cannot("accuracy", UnsupportedError(without_labels))
    modules = {name: import_module(f"{__name__}.{name}") for name in probes}
    parts = [(name, label, part) for name, module in modules.items() for label, part in module.PARTS.items()]
    done, steps = 0, len(BASELINES) * len(parts)
    for baseline in BASELINES:
        try:
            adapter = _baseline(context, baseline)
        except UnsupportedError as error:
            yield replace(context, probe="baselines", baseline=baseline).cannot(baseline, error)
            done += len(parts)
            continue
        for name, label, part in parts:
            own = replace(context, adapter=adapter, baseline=baseline, probe=name, has_labels=without_labels is None)
            try:
                yield from part(own)
            except (UnsupportedError, UnsupportedSizeError) as error:
                yield own.cannot(label, error)
            done += 1
            on_progress("probes", done, steps, f"{baseline}: {name}, {label}")


def _baseline(context: ProbeContext, baseline: str) -> ModelAdapter:
    if baseline == "untrained":
        return context.adapter.untrained(context.dataset.seed)
    return context.adapter.without_positions() if baseline == "none" else context.adapter


def _larger(sizes: Sequence[Size], training: Sides, patch: int) -> list[Sides]:
    """Test sizes of `longer` in whole patches, by default 1.5, 2 and 3 times the training size."""
    wanted = [sides(size) for size in sizes]
    wanted = wanted or [(training[0] * half // 2, training[1] * half // 2) for half in (3, 4, 6)]
    return list(dict.fromkeys((-(-height // patch) * patch, -(-width // patch) * patch) for height, width in wanted))
