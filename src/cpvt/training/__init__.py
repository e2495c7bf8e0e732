"""Training one model, on one device or many; an interrupted training resumes after its last saved step."""

from __future__ import annotations

import logging
from pathlib import Path

from cpvt.config import ProgressCallback, TrainConfig, ignore_progress
from cpvt.data import DataSet, open_data
from cpvt.runtime import distributed
from cpvt.training.backend import Backend
from cpvt.training.build import PUBLISHED, TrainingSetup, build_model, open_teacher, resolved_options, with_model
from cpvt.training.loss import Criterion
from cpvt.training.resume import DivergedError, held, is_finished
from cpvt.training.sampler import own_generators
from cpvt.training.stopping import EXIT_CODE, StoppedError, handle_signals
from cpvt.training.trainer import Trainer
from cpvt.training.validation import check, check_here

__all__ = [
    "EXIT_CODE", "PUBLISHED", "DivergedError", "StoppedError", "TrainingSetup", "build_model", "check",
    "check_here", "is_finished", "resolved_options", "train",
]  # fmt: skip
logger = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    on_progress: ProgressCallback = ignore_progress,
    data: DataSet | None = None,
    setup: TrainingSetup | None = None,
) -> Path:
    """Train a model as configured and return the folder of the run, which `cpvt.load` reads.

    The same configuration resumes an interrupted run after its last saved step, and does nothing where the run is
    finished. Device, number of processes and all of RuntimeConfig may change. On the CPU the same seed, machine and
    thread count give bitwise the same weights, interrupted or not. Several processes (torchrun, accelerate launch)
    train one model.
    data, setup: the data set, if it is already open, and what `check` returned for it.
    Raises ValueError where the folder holds another configuration, DivergedError where the loss is not finite,
    StoppedError after SIGTERM or a first Ctrl-C once all is saved, OSError where saving fails. A header and a line for
    each epoch go to the logger `cpvt`.
    """
    if not isinstance(config, TrainConfig):
        raise ValueError(f"train takes a TrainConfig, as in train(TrainConfig('runs/mine')); got {config!r}")
    distributed.join(config.device)
    config = with_model(config)
    if is_finished(config):
        if distributed.is_main_process():
            logger.info(f"'{config.out}' is finished, after {config.optim.epochs} epochs: nothing is left to train")
        return Path(config.out)
    check_here(config)
    data = data or open_data(config.dataset)
    setup = setup or check(config, data)
    with Backend(config) as backend, own_generators(config.seed, backend.device):
        model, model_config = build_model(config, setup.model, data)
        setup = setup._replace(model=model_config)
        teacher = open_teacher(config, data, setup.preprocessing.transform, str(backend.device))
        criterion = Criterion(config.optim, len(data.class_names), teacher)
        with handle_signals() as stop:
            trainer = Trainer(config, setup, model, data, backend, criterion)
            with held(Path(config.out)):
                if not is_finished(config):  # by another process, for which this one waited
                    trainer.fit(on_progress if distributed.is_main_process() else ignore_progress, stop)
    return Path(config.out)
