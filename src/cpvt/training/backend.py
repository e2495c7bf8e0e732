"""Where training runs: device, processes, precision, sharding and trackers, by accelerate and torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cpvt.adapters import is_external
from cpvt.config import TrainConfig
from cpvt.data.protocols import keeps_sizes
from cpvt.results.checkpoints import pick_device
from cpvt.runtime import distributed

FSDP = "ACCELERATE_USE_FSDP"
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # our words -> accelerate's


class Backend:
    """Runs a model in training: in one process, or in several that each hold a copy (DDP) or a part (FSDP2) of it."""

    def __init__(self, config: TrainConfig) -> None:
        # `accelerate launch` configured for FSDP: by torch's fully_shard, on CPUs too, which its plugin passes over
        asked = os.environ.pop(FSDP, None)
        self.config, self.sharded = config, config.runtime.fsdp or (asked or "").lower() == "true"
        wanted = pick_device(config.device) if not distributed.launched() else None
        self.accelerator = _accelerator(config, wanted)
        if asked is not None:
            os.environ[FSDP] = asked  # for the next training of this process
        self.device: torch.device = wanted or self.accelerator.device
        if self.sharded and not distributed.is_distributed():
            raise ValueError(
                "--fsdp spreads a model over several processes, and there is one; start more with "
                "`accelerate launch --num_processes N -m cpvt train ...`, or leave --fsdp out"
            )
        if self.sharded and keeps_sizes(config.optim.augment) and self.device.type == "cpu":
            raise ValueError(
                f"--fsdp with --augment {config.optim.augment} is for GPUs, where the images of a step go through the model in one "
                "pack; on the CPU they make several, in each process another number: leave --fsdp out"
            )
        if self.sharded and config.retrofit is not None and config.retrofit.absolute != "keep":
            raise ValueError(
                f"--absolute {config.retrofit.absolute} changes the table of positions, which --fsdp cuts in parts: "
                "leave --fsdp out, or keep the table"
            )

    def place(self, model: nn.Module) -> nn.Module:
        """The model on its device, spread over the processes where asked; in place, so names of parameters stay."""
        model.to(self.device)
        return shard(model, self.device) if self.sharded else model

    def wrap(self, model: nn.Module) -> nn.Module:
        """What to call in training: the model compiled, in its precision, its gradients added up over processes."""
        if self.config.runtime.grad_checkpointing:
            if not hasattr(model, "set_grad_checkpointing"):
                raise ValueError(f"--grad-checkpointing is for models that know how; {type(model).__name__} does not")
            model.set_grad_checkpointing(True)  # type: ignore[operator]
        if self.config.runtime.compile:
            model.compile()
        if self.sharded:
            return model
        wrapped: nn.Module = self.accelerator.prepare_model(model, device_placement=False)
        return wrapped

    @contextmanager
    def computing(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Around forward and backward of one part of a step; only the last part adds gradients up over processes."""
        apart: AbstractContextManager[Any] = nullcontext()
        if self.sharded:
            model.set_requires_gradient_sync(last)  # type: ignore[operator]
        elif not last:
            apart = self.accelerator.no_sync(model)
        with apart:
            yield

    def forward(self, model: nn.Module, images: Any) -> Any:
        """The model's output in float32, computed in its precision."""
        with self.accelerator.autocast():
            output = model(images)
        return _in_float(output)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled under fp16."""
        self.accelerator.backward(loss)

    def step(self, optimizer: Any, parameters: list[nn.Parameter], clip: float | None) -> None:
        """One update; under fp16 it is left out where a gradient is no number, and the scale lowered."""
        if clip is not None:
            self.accelerator.unscale_gradients(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad()

    def log(self, values: dict[str, float], step: int) -> None:
        """Send values to the trackers that were asked for."""
        if self.config.runtime.report_to:
            self.accelerator.log(values, step=step)

    def finish(self) -> None:
        """Close the trackers."""
        if self.config.runtime.report_to:
            self.accelerator.end_training()


def _accelerator(config: TrainConfig, device: torch.device | None) -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    # a process may train several models, each in a precision of its own, and alone on a device of its own
    AcceleratorState._reset_state(reset_partial_state=device is not None)
    whole = DistributedDataParallelKwargs(find_unused_parameters=is_external(config.model))  # ours use all they have
    on_cpu = device.type == "cpu" if device is not None else config.device == "cpu" or not torch.cuda.is_available()
    accelerator = Accelerator(
        mixed_precision=PRECISIONS[config.optim.precision], cpu=on_cpu, log_with=_trackers(config.runtime.report_to),
        project_dir=config.out, kwargs_handlers=[whole],
    )  # fmt: skip
    if config.runtime.report_to:
        accelerator.init_trackers("logs", config={"command": str(config)})
    return accelerator


def _trackers(names: tuple[str, ...]) -> list[str] | None:
    """The trackers asked for; ValueError for one that is unknown or not installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = [str(getattr(each, "value", each)) for each in LOGGER_TYPE_TO_CLASS]
    installed = [str(getattr(each, "value", each)) for each in get_available_trackers()]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown tracker '{name}'; known: {', '.join(known)}")
        if name not in installed:
            raise ValueError(f"tracker '{name}' needs a package that is not installed: pip install {name}")
    return list(names) or None


def shard(model: nn.Module, device: torch.device) -> nn.Module:
    """Spread a model's parameters over all processes, block by block (FSDP2); the very model, changed in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The members of every list of like modules, such as a transformer's blocks."""
    lists = [each for each in model.modules() if isinstance(each, (nn.ModuleList, nn.Sequential)) and len(each) > 1]
    alike = [each for each in lists if len({type(member) for member in each}) == 1]
    return [block for each in alike for block in each if next(block.parameters(), None) is not None]


def _in_float(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    return tuple(_in_float(each) for each in output) if isinstance(output, tuple) else output
