"""The backend of a training: device, processes, precision, sharding and trackers, from accelerate and torch."""

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
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # our names -> those of accelerate


class Backend:
    """Runs a model in one process, or in several that each hold a copy (DDP) or a shard (FSDP2) of it."""

    def __init__(self, config: TrainConfig) -> None:
        # of `accelerate launch`; torch's fully_shard replaces accelerate's plugin, which skips CPUs
        asked = os.environ.pop(FSDP, None)
        self.config, self.sharded = config, config.runtime.fsdp or (asked or "").lower() == "true"
        wanted = pick_device(config.device) if not distributed.launched() else None
        self.accelerator = _accelerator(config, wanted)
        if asked is not None:
            os.environ[FSDP] = asked  # for the next training of this process
        self.device: torch.device = wanted or self.accelerator.device
        if self.sharded and not distributed.is_distributed():
            raise ValueError(
                "--fsdp shards a model over several processes, and there is one; start more with "
                "`accelerate launch --num_processes N -m cpvt train ...`, or leave --fsdp out"
            )
        if self.sharded and keeps_sizes(config.optim.augment) and self.device.type == "cpu":
            raise ValueError(
                f"--fsdp with --augment {config.optim.augment} needs GPUs, where the images of a step form one "
                "pack. On the CPU they form several, a different number in each process: leave --fsdp out"
            )
        if self.sharded and config.retrofit is not None and config.retrofit.absolute != "keep":
            raise ValueError(
                f"--absolute {config.retrofit.absolute} changes the position table, which --fsdp shards: "
                "leave --fsdp out, or keep the table"
            )

    def place(self, model: nn.Module) -> nn.Module:
        """The model on its device, sharded where asked; in place, so the names of parameters stay."""
        model.to(self.device)
        return shard(model, self.device) if self.sharded else model

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in training: checkpointed, compiled and under DDP, as configured."""
        if self.config.runtime.grad_checkpointing:
            if not hasattr(model, "set_grad_checkpointing"):
                raise ValueError(
                    f"--grad-checkpointing needs a model that supports it; {type(model).__name__} does not"
                )
            model.set_grad_checkpointing(True)  # type: ignore[operator]
        if self.config.runtime.compile:
            model.compile()
        if self.sharded:
            return model
        wrapped: nn.Module = self.accelerator.prepare_model(model, device_placement=False)
        return wrapped

    @contextmanager
    def computing(self, model: nn.Module, last: bool) -> Iterator[None]:
        """Context of one micro-batch; only the last one of a step reduces gradients over processes."""
        context: AbstractContextManager[Any] = nullcontext()
        if self.sharded:
            model.set_requires_gradient_sync(last)  # type: ignore[operator]
        elif not last:
            context = self.accelerator.no_sync(model)
        with context:
            yield

    def forward(self, model: nn.Module, images: Any) -> Any:
        """The model's output in float32, computed in its precision."""
        with self.accelerator.autocast():
            output = model(images)
        return _in_float(output)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss, scaled under fp16."""
        self.accelerator.backward(loss)

    def step(self, optimizer: Any, parameters: list[nn.Parameter], clip: float | None) -> None:
        """One update; fp16 skips it where a gradient is not finite, and lowers the scale."""
        if clip is not None:
            self.accelerator.unscale_gradients(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad()

    def log(self, values: dict[str, float], step: int) -> None:
        """Send values to the trackers that were asked for."""
        if self.config.runtime.report_to:
            self.accelerator.log(values, step=step)

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the trackers, also after an error."""
        if self.config.runtime.report_to:
            self.accelerator.end_training()


def _accelerator(config: TrainConfig, device: torch.device | None) -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    # a process may train several models, each in its own precision and on its own device
    AcceleratorState._reset_state(reset_partial_state=device is not None)
    ddp = DistributedDataParallelKwargs(find_unused_parameters=is_external(config.model))  # ours use all parameters
    on_cpu = device.type == "cpu" if device is not None else config.device == "cpu" or not torch.cuda.is_available()
    accelerator = Accelerator(
        mixed_precision=PRECISIONS[config.optim.precision], cpu=on_cpu, log_with=_trackers(config.runtime.report_to),
        project_dir=config.out, kwargs_handlers=[ddp],
    )  # fmt: skip
    accelerator.gradient_accumulation_steps = 1  # steps are accumulated here, whatever the environment says
    if config.runtime.report_to:
        accelerator.init_trackers("logs", config={"command": str(config)})
    return accelerator


def _trackers(names: tuple[str, ...]) -> list[str] | None:
    """The configured trackers; ValueError for one that is unknown or not installed."""
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
    """Shard a model over all processes, block by block (FSDP2), in place."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The members of every list of modules of one type, such as a transformer's blocks."""
    lists = [each for each in model.modules() if isinstance(each, (nn.ModuleList, nn.Sequential)) and len(each) > 1]
    alike = [each for each in lists if len({type(member) for member in each}) == 1]
    return [block for each in alike for block in each if next(block.parameters(), None) is not None]


def _in_float(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    return tuple(_in_float(each) for each in output) if isinstance(output, tuple) else output
