"""Which of several ways to compute the same numbers is fastest here: measured once, then remembered.

The first time that work of a shape is met, every way runs for a moment, in alternation, and the winner serves from then
on. It is remembered in this process and in a file of the user's cache, so that later processes on this machine compute
the same bits; a training also keeps it in the state that it resumes from. `CPVT_LINEAR` and `CPVT_ATTENTION` in the
environment name a way that is taken without measuring.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from cpvt.runtime.files import write_json
from cpvt.runtime.machine import processor

Work = tuple[Any, ...]  # the kind of work and its shape, threads last
Prepare = Callable[[], Callable[[], Any]]
ROUNDS, LEAST, SECONDS = 5, 2, 0.05  # of a measurement: rounds, at least, and after which no other one begins
MARGIN = 1.05  # another way than PyTorch's own must be so much faster, or noise would choose

_chosen: dict[Work, str] = {}
_adopted: dict[Work, str] = {}  # of a training that resumes, perhaps elsewhere: they precede, and are not kept
_stored: set[Path] = set()  # files that were read


def fastest(kind: str, shape: Work, ways: Mapping[str, Prepare]) -> str:
    """The name of the fastest of `ways` for work of this shape; the first, PyTorch's own, where none is clearly ahead.

    kind: 'linear' or 'attention'. ways: each makes its inputs, once it is to be measured, and returns what computes the
    work on them. Raises ValueError for a way in the environment that does not exist.
    """
    forced = os.environ.get(f"CPVT_{kind.upper()}")
    if forced:
        if forced not in ways:
            raise ValueError(f"CPVT_{kind.upper()} must be one of {', '.join(ways)}, or unset; got '{forced}'")
        return forced
    work = (kind, *shape, torch.get_num_threads())
    if work in _adopted:
        return _adopted[work]
    if work not in _chosen:
        _read()
    if work not in _chosen and _is_watched():
        return next(iter(ways))
    if work not in _chosen:
        _chosen[work] = _measure(ways)
        _write()
    return _chosen[work]


def run_once(function: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> None:
    """Compute the output, and the gradients of inputs that require them."""
    learned = [each for each in inputs if each.requires_grad]
    with torch.set_grad_enabled(bool(learned)):
        y = function(*inputs)
        if learned:
            torch.autograd.grad(y, learned, torch.full_like(y, 0.1))


def choices() -> list[list[Any]]:
    """What was chosen so far, as JSON holds it: [kind, ..., threads, way] each."""
    return _listed({**_chosen, **_adopted})


def _listed(found: Mapping[Work, str]) -> list[list[Any]]:
    return [[*work, way] for work, way in sorted(found.items(), key=str)]


def adopt(found: list[list[Any]]) -> None:
    """Take choices that were made before, as by the interrupted part of a training."""
    _adopted.update({tuple(work): way for *work, way in found})


def _is_watched() -> bool:
    """Whether something sees operations, as FlopCounterMode and torch.func do: no measurement may be among them."""
    return bool(torch._C._len_torch_dispatch_stack()) or torch._C._functorch.peek_interpreter_stack() is not None


def _measure(ways: Mapping[str, Prepare]) -> str:
    unseen = torch.autograd.graph.saved_tensors_hooks(_same, _same)  # by gradient checkpointing, which counts tensors
    with torch.inference_mode(False), unseen:
        computed = {name: prepare() for name, prepare in ways.items()}
        return _time(computed)


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _time(ways: Mapping[str, Callable[[], Any]]) -> str:
    seconds, start = dict.fromkeys(ways, math.inf), time.perf_counter()
    for turn in range(-1, ROUNDS):
        if turn >= LEAST and time.perf_counter() - start > SECONDS:
            break
        for name, way in ways.items():
            before = time.perf_counter()
            way()
            if turn >= 0:
                seconds[name] = min(seconds[name], time.perf_counter() - before)
    own, best = next(iter(ways)), min(seconds, key=lambda name: seconds[name])
    return best if seconds[own] > MARGIN * seconds[best] else own


def cache_file() -> Path:
    """Where choices of this machine, processor and PyTorch are kept."""
    machine = f"{torch.__version__} {torch.__config__.show()} {torch.backends.cpu.get_cpu_capability()} {_features()}"
    name = hashlib.sha256(machine.encode()).hexdigest()[:12]
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpvt" / f"fastest-{name}.json"


def _features() -> str:
    """Model and features of the processor."""
    lines = processor().splitlines()
    return " ".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features"))))


def _read() -> None:
    """Take what earlier processes chose; a damaged file counts as none."""
    with suppress(OSError, RuntimeError, ValueError, TypeError):
        path = cache_file()
        if path not in _stored:
            _stored.add(path)
            _chosen.update({work: way for work, way in _load(path).items() if work not in _chosen})


def _load(path: Path) -> dict[Work, str]:
    return {tuple(work): str(way) for *work, way in json.loads(path.read_text())}


def _write() -> None:
    """Keep what was chosen for later processes, where the cache can be written; what others chose first stays."""
    with suppress(OSError, RuntimeError):
        path, kept = cache_file(), dict(_chosen)
        with suppress(OSError, ValueError, TypeError):
            kept |= _load(path)
        write_json(path, _listed(kept))
