"""Timing that can be compared on a noisy machine: in one process, in turn, as ratios with their spread."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def wall(function: Callable[[], Any], repeats: int) -> float:
    """Seconds a call takes by the clock on the wall."""
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def alternate(
    functions: dict[str, Callable[[], Any]],
    rounds: int,
    repeats: int = 1,
    clock: Callable[[Callable[[], Any], int], float] = wall,
) -> dict[str, list[float]]:
    """Seconds per call of each function, one figure a round; who goes first changes from round to round."""
    names = list(functions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-2, rounds):  # two rounds of warm-up
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            taken = clock(functions[name], repeats)
            if turn >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Round by round over / under: median, and the range of the middle eight tenths."""
    ratios = sorted(a / b for a, b in zip(over, under))
    tenth = len(ratios) // 10
    return {
        "median": round(median(ratios), 3),
        "low": round(ratios[tenth], 3),
        "high": round(ratios[-1 - tenth], 3),
        "rounds": len(ratios),
    }


def show(words: str, found: dict[str, float]) -> None:
    """One line a reader can quote."""
    print(f"{words}: {found['median']:.3f} ({found['low']:.3f} to {found['high']:.3f}, {found['rounds']} rounds)")


def save(name: str, figures: list[dict[str, Any]]) -> None:
    """Keep the figures beside the machine they were taken on and the command that took them."""
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    content = {"command": " ".join(["python", *sys.argv]), "machine": machine, "figures": figures}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps({"results": str(path.relative_to(RESULTS.parents[1]))}))


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
