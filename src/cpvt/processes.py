"""Processes that train or test one model together: how many there are, and what they add up. Alone, one is all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def launched() -> bool:
    """Whether a launcher (torchrun, accelerate launch) started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: str) -> None:
    """Meet the processes that a launcher started beside this one; where there are none, nothing happens."""
    if launched():
        from accelerate import PartialState

        PartialState(cpu=device == "cpu" or not torch.cuda.is_available())


def leave() -> None:
    """Part from the other processes, once all have come to this point: one that ends while others still talk to it aborts."""
    if together():
        dist.barrier()
        dist.destroy_process_group()


def together() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if together() else 1


def number() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if together() else 0


def is_first() -> bool:
    """Whether this is the one that writes files and talks."""
    return number() == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's own part of a sequence: each item falls to exactly one, and some may get one less."""
    return items[number() :: count()]


def add_up(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes. Every process must call it."""
    if together():
        dist.all_reduce(values)
    return values


def largest(value: float) -> float:
    """The largest of a number over all processes. Every process must call it."""
    if not together():
        return value
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    values = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return float(values[0])


def wait() -> None:
    """Let every process come to this point."""
    if together():
        dist.barrier()
