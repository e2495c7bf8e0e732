"""Several processes for one model (torch.distributed). A single process initialises nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def launched() -> bool:
    """Whether a launcher (torchrun, accelerate launch) started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: str) -> None:
    """Join the process group of a launcher, if there is one."""
    if launched():
        from accelerate import PartialState

        PartialState(cpu=device == "cpu" or not torch.cuda.is_available())


def leave() -> None:
    """Leave the process group after a barrier: a process that ends earlier makes the others abort."""
    if is_distributed():
        dist.barrier()
        dist.destroy_process_group()


def is_distributed() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Index of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def is_main_process() -> bool:
    """Whether this process writes files and reports progress."""
    return rank() == 0


def shard(items: Sequence[T]) -> Sequence[T]:
    """The items of this process. Each item goes to exactly one process; some processes may get one less."""
    return items[rank() :: world_size()]


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place. Every process must call it."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def all_reduce_max(value: float) -> float:
    """The maximum of a number over all processes. Every process must call it."""
    if not is_distributed():
        return value
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    values = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return float(values[0])


def barrier() -> None:
    """Wait until every process calls it."""
    if is_distributed():
        dist.barrier()
