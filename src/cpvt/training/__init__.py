"""Training one model, on one device or many, from which it can be interrupted and gone on with at any step."""

from __future__ import annotations

from pathlib import Path

import torch

from cpvt import processes
from cpvt.config import Retrofit, TrainConfig, Watch, ignore_progress
from cpvt.data import open_data
from cpvt.models import VisionTransformer
from cpvt.training.checking import check, check_here
from cpvt.training.engine import Machine
from cpvt.training.learning import Lessons
from cpvt.training.run import HISTORY, DivergedError, Run
from cpvt.training.starting import PUBLISHED, is_finished, open_teacher, retrofitted, starting_model
from cpvt.training.stopping import EXIT_CODE, StoppedError, listening

__all__ = [
    "EXIT_CODE", "HISTORY", "PUBLISHED", "DivergedError", "StoppedError", "check", "check_here", "is_finished",
    "starting_model", "train",
]  # fmt: skip


def train(config: TrainConfig, watch: Watch = ignore_progress, retrofit: Retrofit | None = None) -> Path:
    """Train what `config` says and return the folder of the run, which `cpvt.load` reads.

    retrofit: PEGs to put into a model of another library before it is trained on (see `cpvt.retrofit`).

    The same configuration goes on where an interrupted run stopped (after its last saved step) and does nothing where it
    had finished; device, number of processes and all of RuntimeConfig may have changed. Same seed, machine and thread count give
    the same weights to the bit on the CPU, interrupted or not. Started in several processes (torchrun, accelerate launch),
    they train one model together. Raises ValueError where the folder holds another configuration, DivergedError where the
    loss is not a number, StoppedError where SIGTERM came and all is saved, OSError where it can't be saved.
    """
    folder = Path(config.out)
    processes.join(config.device)
    if is_finished(config, retrofit):
        return folder
    check_here(config)
    data = open_data(config.dataset.data, config.dataset.data_dir)
    settings, view = check(config, data, retrofit)
    machine = Machine(config)
    if machine.sharded and retrofit is not None and retrofit.absolute != "keep":
        raise ValueError(
            f"--absolute {retrofit.absolute} changes the table of positions, which --fsdp cuts in parts: leave --fsdp out, "
            "or keep the table"
        )
    torch.manual_seed(config.seed)
    model = starting_model(config, settings, data.class_names, watch if processes.is_first() else ignore_progress)
    if isinstance(model, VisionTransformer):
        settings = model.config  # another training size is written into some encodings
    if retrofit is not None:
        model, settings = retrofitted(model, settings, retrofit)
    teacher = open_teacher(config, data, view.transform, str(machine.device))
    lessons = Lessons(config.optim, len(data.class_names), teacher)
    with listening() as stop:
        run = Run(config, settings, view, model, data, machine, lessons, retrofit)
        run.resume()
        if run.epoch and not run.done:
            run.save()  # an interruption may have fallen between the files of the last save
        run.go(watch if processes.is_first() else ignore_progress, stop)
    return folder
