"""What a model knows of positions, measured from outside: one small file for each probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cpvt.adapters import ModelAdapter, UnsupportedError, UnsupportedSizeError
from cpvt.config import ProbeConfig, ProgressCallback, Size, ignore_progress, options_from, sides, takes_options
from cpvt.data import DataSet, open_data
from cpvt.evaluation.probes import attention, islam, order, position, translation
from cpvt.evaluation.probes.adapter import check_labels, fit_transform, patch_of, read_grids, training_sides
from cpvt.evaluation.probes.context import ProbeContext, Sides
from cpvt.evaluation.probes.images import ProbeDataset
from cpvt.results.checkpoints import Checkpoint, as_adapter
from cpvt.results.folders import ARRAYS, PROBE_RESULTS
from cpvt.results.probe_results import BASELINES, ProbeResult
from cpvt.runtime.files import append_rows

__all__ = ["PROBES", "ProbeContext", "ProbeDataset", "ProbeResult", "probe"]

Part = Callable[[ProbeContext], Iterator[ProbeResult]]
PROBES: dict[str, dict[str, Part]] = {  # name -> its parts, each of which may fail alone
    "order": {"tokens": order.tokens, "predictions": order.predictions},
    "translation": {
        f"{name}, {way}": partial(part, way=way)
        for way in translation.WAYS
        for name, part in (("tokens", translation.maps), ("predictions", translation.predictions))
    },
    "position": {"readout": position.readout},
    "longer": {"readout": position.longer},
    "islam": {"maps": islam.maps},
    "attention": {"distance": attention.distance},
}


@takes_options(ProbeConfig)
def probe(
    model: str | Path | Checkpoint | ModelAdapter | Callable[..., Any],
    data: str | DataSet = "digits",
    *,
    out: str | Path | None = None,
    on_progress: ProgressCallback = ignore_progress,
    **options: Any,
) -> Iterator[ProbeResult]:
    """Measure what a model knows of positions; yields each probe_result as it is made, of the model and of its baselines.

    The baselines are the null of every probe: `untrained` has the same architecture with fresh random weights, `none` the same
    weights with its positional encoding off. model: a folder that `train` wrote, "timm:NAME", "hf:PATH_OR_NAME",
    "torchvision:NAME" (`checkpoint`: a file with its weights), or any module or callable from images (B, C, H, W) to
    logits, or to tokens as a tensor, dict or tuple. data: a data set or its name; labels are needed for accuracy alone.
    out: a folder to whose findings.jsonl everything is added. Options are those of `cpvt.config.ProbeConfig`; `probes` are
    names of PROBES, by default all, and `sizes` for `longer` are brought to the next multiple of the patch. What a model
    has not, or refuses, gives probe_results without a value that say why; the rest runs. Raises TypeError for an option that
    does not exist, ValueError for names that mean nothing.
    """
    return _probe(options_from(ProbeConfig, options, model=model, data=data, out=out), on_progress)


def _probe(config: ProbeConfig, on_progress: ProgressCallback) -> Iterator[ProbeResult]:
    unknown = [name for name in config.probes if name not in PROBES]
    if unknown:
        raise ValueError(f"probes must be among {', '.join(PROBES)}; got {', '.join(config.probes)}")
    adapter = as_adapter(config.model, config.checkpoint, config.device)
    data: Any = config.data
    if isinstance(data, str):
        data = open_data(data, config.data_dir, adapter.transform.mode if adapter.transform else None)
    transform = fit_transform(adapter, data)
    wanted = training_sides(adapter, data, config.img_size)
    grids, missing = read_grids(adapter, wanted, transform)
    patch = patch_of(adapter, wanted, grids)
    dataset = ProbeDataset(
        data,
        transform,
        adapter.device,
        config.images,
        patch or 16,
        config.seed,
        config.on_bad_image,
        config.token_budget,
    )
    context = ProbeContext(
        adapter, adapter.name, BASELINES[0], dataset, wanted, _larger(config.sizes, wanted, patch or 1), grids, missing, patch,
        has_labels=False, arrays=None if config.out is None else Path(config.out) / ARRAYS,
    )  # fmt: skip
    for probe_result in _findings(context, config.probes or tuple(PROBES), on_progress):
        if config.out is not None:
            append_rows(Path(config.out) / PROBE_RESULTS, [probe_result.as_json()])
        yield probe_result


def _findings(context: ProbeContext, probes: Sequence[str], on_progress: ProgressCallback) -> Iterator[ProbeResult]:
    complaint = check_labels(context)
    if complaint is not None:
        yield replace(context, probe="translation").cannot("accuracy", UnsupportedError(complaint))
    parts = [(name, label, part) for name in probes for label, part in PROBES[name].items()]
    done, steps = 0, len(BASELINES) * len(parts)
    for baseline in BASELINES:
        try:
            adapter = _twin(context, baseline)
        except UnsupportedError as error:
            yield replace(context, probe="baselines", baseline=baseline).cannot(baseline, error)
            done += len(parts)
            continue
        for name, label, part in parts:
            mine = replace(context, adapter=adapter, baseline=baseline, probe=name, has_labels=complaint is None)
            try:
                yield from part(mine)
            except (UnsupportedError, UnsupportedSizeError) as error:
                yield mine.cannot(label, error)
            done += 1
            on_progress("probes", done, steps, f"{baseline}: {name}, {label}")


def _twin(context: ProbeContext, baseline: str) -> ModelAdapter:
    if baseline == "untrained":
        return context.adapter.untrained(context.dataset.seed)
    return context.adapter.without_positions() if baseline == "none" else context.adapter


def _larger(larger: Sequence[Size], training: Sides, patch: int) -> list[Sides]:
    """Sizes above the training size, in whole patches."""
    wanted = [sides(size) for size in larger]
    wanted = wanted or [(training[0] * half // 2, training[1] * half // 2) for half in (3, 4, 6)]
    return list(dict.fromkeys((-(-height // patch) * patch, -(-width // patch) * patch) for height, width in wanted))
