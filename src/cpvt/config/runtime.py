"""How the work is done: memory, compilation, processes, logging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cpvt.config.base import Options, Ranges


@dataclass(frozen=True)
class RuntimeConfig(Options):
    """How the work is done; whatever is chosen here, the run learns the same, but for rounding."""

    grad_accum_steps: int = 1
    """In how many parts, one after the other, a process takes its images of a step: less memory."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward instead of keeping them: less memory."""
    compile: bool = False
    """Let torch.compile turn the model into one faster program, at the first step."""
    fsdp: bool = False
    """Spread parameters and optimizer over the processes (FSDP2) instead of keeping a copy in each (DDP)."""
    save_minutes: float = 10.0
    """Save at least so often, and after every epoch; an interrupted run goes on from there."""
    report_to: tuple[str, ...] = ()
    """Where else to log: tensorboard, wandb, or another tracker of accelerate's."""

    RANGES: ClassVar[Ranges] = {"1 or more": ("grad_accum_steps",), "0 or more": ("save_minutes",)}
