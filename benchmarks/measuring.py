"""Comparable timing on a noisy machine: contenders alternate in one process; results are ratios with a spread."""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from cpvt.runtime import memory
from cpvt.runtime.machine import processor

FEATURES = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "bf16", "sve", "sve_bf16")
BUILD = "Math Kernel Library|MKL-DNN|oneDNN|CPU capability"  # lines of torch.__config__.show()
SETTINGS = ("ONEDNN_", "DNNL_", "MKL_", "ATEN_", "CPVT_", "OMP_")  # of the environment


@dataclass(frozen=True)
class Figure:
    """One measured number: the median of several rounds, and the range of the middle 80 %."""

    what: str
    value: float
    unit: str = "ratio"
    low: float | None = None
    high: float | None = None
    rounds: int = 1

    def __str__(self) -> str:
        spread = "" if self.low is None else f" ({self.low:.4g} to {self.high:.4g}, {self.rounds} rounds)"
        value = f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:.4g}"
        return f"{value}{'' if self.unit == 'ratio' else ' ' + self.unit}{spread}"


Clock = Callable[[Callable[[], Any], int], float]  # (function, repeats) -> seconds per call


def wall(function: Callable[[], Any], repeats: int) -> float:
    """Return seconds per call of wall-clock time."""
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def reported(function: Callable[[], Any], repeats: int) -> float:
    """Return the mean of the seconds that a function reports about itself."""
    return sum(float(function()) for _ in range(repeats)) / repeats


def alternate(
    functions: Mapping[str, Callable[[], Any]], rounds: int, repeats: int = 1, warm_up: int = 2, clock: Clock = wall
) -> dict[str, list[float]]:
    """Return each function's seconds per call, one number per round; the order rotates from round to round."""
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            time_per_call = clock(functions[name], repeats)
            if turn >= 0:
                seconds[name].append(time_per_call)
    return seconds


def ratio(what: str, over: list[float], under: list[float], unit: str = "ratio") -> Figure:
    """Return over / under, round by round: the median and the range of the middle 80 % (below ten rounds: of all)."""
    ratios = sorted(a / b for a, b in zip(over, under))
    tenth = len(ratios) // 10
    return Figure(what, median(ratios), unit, ratios[tenth], ratios[-1 - tenth], len(ratios))


def peak_memory(work: Callable[..., None], *arguments: Any) -> int:
    """Return the bytes by which `work` raises a fresh process's memory above its level at `mark_memory()`.

    work: a module-level function that calls `mark_memory` (the process imports it by name).
    """
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(send, work, arguments))
    process.start()
    send.close()
    try:
        found: int = receive.recv()
    except EOFError as error:
        raise ChildProcessError(
            f"the process of {work.__name__}{arguments} died, most often because memory ran out"
        ) from error
    finally:
        process.join()
    return found


_marked = 0


def mark_memory() -> None:
    """Exclude memory allocated so far (model, inputs) from the peak."""
    global _marked
    _marked = memory.mark_memory()


def _measure_peak(send: Any, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    work(*arguments)
    send.send(max(0, memory.peak_memory() - _marked))


def machine() -> dict[str, Any]:
    """Describe the machine that the figures come from."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "features": [name for name in FEATURES if torch.cpu.get_capabilities().get(name)],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "build": [line.strip(" -") for line in torch.__config__.show().splitlines() if re.search(BUILD, line)],
        "python": platform.python_version(),
    }
    if chosen := {name: value for name, value in os.environ.items() if name.startswith(SETTINGS)}:
        found["environment"] = chosen
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    lines = processor().splitlines()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
