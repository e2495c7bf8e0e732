"""Retrofit a trained model with PEG, fine-tune it, and test it before and after."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from cpvt.adapters import ModelAdapter, adapter_of, is_external, prefixes
from cpvt.adapters.retrofit import describe_retrofit, retrofit
from cpvt.config import (
    ExternalConfig,
    ProgressCallback,
    RetrofitConfig,
    Size,
    TrainConfig,
    ignore_progress,
    parse_size,
    refuse_other,
)
from cpvt.data import open_data
from cpvt.evaluation.sweep import default_sizes, sweep
from cpvt.results.checkpoints import load, pick_device, read_record
from cpvt.results.folders import CONTROL_RUN, RETROFIT, ROWS
from cpvt.results.provenance import provenance
from cpvt.results.rows import Row, read_rows
from cpvt.runtime.files import append_rows, read_json, write_json
from cpvt.training import PUBLISHED, build_model, check, check_here, train

GROWS = (  # options that may change on resuming
    "out", "sizes", "protocols", "control", "device", "workers", "on_bad_image", "max_image_pixels",
)  # fmt: skip
BEFORE, CONTROL = "as it came", "trained on, no PEG"
SCALE = "protocol"  # the object scale that models are given in tests: what is true under each protocol


def retrofit_and_test(
    config: RetrofitConfig,
    on_progress: ProgressCallback = ignore_progress,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Path:
    """Test a model, fine-tune it with and without PEG (the control), and test both; returns the run's folder.

    All three are tested on the same images under the same transform, so `cpvt.report` can pair them. The same call
    resumes an interrupted retrofit. Raises ValueError for cpvt's own models, which take PEG by name, and where the
    folder holds another retrofit.
    """
    folder, training = Path(config.out), _training(config)
    data = open_data(config.dataset)
    check_here(training)
    setup, untouched = check(training, data), replace(training, retrofit=None)
    assert isinstance(setup.model, ExternalConfig)  # _training takes no other
    name = training.model  # of several sizes the setup's name has an option more
    if (folder / RETROFIT).exists():
        refuse_other(folder, "another retrofit", read_json(folder / RETROFIT)["config"], config, GROWS)
    how = setup.preprocessing.transform
    own = ("fp32", config.dataset.reduced_jpegs, data.name, how.crop_ratio, how.interpolation)  # a sweep may add others
    rows = [
        row
        for row in read_rows(folder / ROWS)
        if (row.precision, row.reduced_jpegs, row.data, row.crop_ratio, row.interpolation) == own
    ]
    done = {(row.encoding, row.protocol, row.size, row.scale_rule) for row in rows}
    torch.manual_seed(config.seed)
    model, _ = build_model(untouched, setup.model, data)
    wanted = config.retrofit
    retrofit(model, wanted.at, wanted.absolute, wanted.kernel_size)  # raises for invalid options before training
    before = replace(
        adapter_of(model.eval().to(pick_device(config.device))),
        name=name, transform=setup.preprocessing.transform, train_size=setup.model.img_size,
    )  # fmt: skip
    sizes = config.sizes or default_sizes(before)

    def test(adapter: ModelAdapter, label: str, train_sizes: tuple[Size, ...]) -> None:
        rule = SCALE if adapter.takes_scale else ""  # rows of earlier versions, without scale, are not these tests
        for protocol, size in itertools.product(config.protocols, sizes):
            if (label, protocol, size, rule) in done:
                continue
            options = {"protocols": (protocol,), "scale": SCALE, **config.dataset.test_options}
            for row in sweep(adapter, data, [size], on_progress=on_progress, **options):
                row = replace(row, model=name, encoding=label, seed=config.seed, train_sizes=train_sizes)
                append_rows(folder / ROWS, [row])
                on_row(row)

    write_json(folder / RETROFIT, {"config": asdict(config), "provenance": provenance()})
    test(before, BEFORE, _sizes_of(config.model))
    if config.control and wanted.train_only == "all":  # otherwise the model as it came is the control
        control = replace(untouched, out=str(folder / CONTROL_RUN))
        test(load(train(control, on_progress, data, setup), config.device).adapter, CONTROL, config.train_sizes)
    fine_tuned = load(train(training, on_progress, data, setup), config.device).adapter
    test(fine_tuned, describe_retrofit(asdict(wanted)), config.train_sizes)
    return folder


def _sizes_of(model: str) -> tuple[Size, ...]:
    """The further sizes at which a run was trained; none are known of a model of another library."""
    sizes = () if is_external(model) else read_record(model)["training"].get("train_sizes", ())
    return tuple(map(parse_size, sizes))


def _training(config: RetrofitConfig) -> TrainConfig:
    """The fine-tuning of the retrofitted model."""
    name, start, size = config.model, config.checkpoint or PUBLISHED, config.img_size
    if not is_external(name):
        record = read_record(name)
        if "name" not in record["model"]:
            own = record["model"]["encoding"]
            more = "peg" if own == "none" else f"{own}+peg"
            raise ValueError(
                f"'{name}' holds one of cpvt's own models, which take PEG by name: "
                f'train with --initial-checkpoint {name} --encoding "{more}", whose PEG starts at zero'
            )
        if config.checkpoint is not None:
            raise ValueError(f"--checkpoint goes with {prefixes()} names; '{name}' has its own weights")
        start, name = name, record["model"]["name"]
        size = size or record["model"]["img_size"]
    return TrainConfig(
        out=config.out, model=name, initial_checkpoint=str(start), img_size=size, seed=config.seed,
        device=config.device, dataset=config.dataset, optim=config.optim, retrofit=config.retrofit,
        train_sizes=config.train_sizes,
    )  # fmt: skip
