"""Options of the runtime: memory, compilation, processes, logging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cpvt.config.base import Options, Ranges


@dataclass(frozen=True)
class RuntimeConfig(Options):
    """How a training runs; none of these options changes its result, except for rounding."""

    grad_accum_steps: int = 1
    """Parts into which each process splits its images of a step, one after another, to save memory."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass instead of storing them, to save memory."""
    compile: bool = False
    """Compile the model with torch.compile at the first step."""
    fsdp: bool = False
    """Shard parameters and optimizer over the processes (FSDP2) instead of replicating them (DDP)."""
    save_minutes: float = 10.0
    """Most minutes between two saves; each epoch ends with one. An interrupted run resumes from the last."""
    report_to: tuple[str, ...] = ()
    """Trackers to log to: tensorboard, wandb, or another of accelerate."""

    RANGES: ClassVar[Ranges] = {"1 or more": ("grad_accum_steps",), "0 or more": ("save_minutes",)}
