"""cpvt_small_gap against timm's deit_small_patch16_224: forward, training step, compiled, and in ONNX Runtime."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F

import cpvt
from benchmarks.measuring import Figure, alternate, ratio
from cpvt.models.linear import plain_linear
from cpvt.runtime.memory import keep_freed_memory

OURS, THEIRS = "cpvt_small_gap", "deit_small_patch16_224"


class Case(NamedTuple):
    """Images of a forward; it takes 1 / `part` of the rounds."""

    size: int
    batch: int
    part: int


FORWARD = (Case(224, 1, 1), Case(224, 2, 1), Case(224, 8, 1), Case(384, 1, 1), Case(384, 8, 3))
STEP, BOTH = Case(224, 8, 1), (Case(224, 1, 1), Case(224, 8, 1))
COMPILED, ONNX = BOTH, BOTH  # of one size


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only model`: with one thread, and with as many as PyTorch takes."""
    for threads in sorted({1, torch.get_num_threads()}):
        with _threads(threads):
            for part in (_forward, _step, _compiled, _onnx):
                yield from part(rounds, f"{threads} thread{'s' if threads > 1 else ''}")
    keep_freed_memory()  # of this process from here on
    with _threads(1):
        yield from _forward(rounds, "1 thread, freed memory kept", FORWARD[:1])


def _forward(rounds: int, how: str, cases: tuple[Case, ...] = ()) -> Iterator[Figure]:
    for size, batch, part in cases or FORWARD:
        models, images = _models(size), torch.randn(batch, 3, size, size)
        what = f"throughput of {OURS} / {THEIRS}, {size}, batch {batch}, forward, {how}"
        with torch.inference_mode():
            forms = {name: functools.partial(model.eval(), images) for name, model in models.items()}
            yield from _compare(what, forms, max(1, rounds // part))


def _step(rounds: int, how: str) -> Iterator[Figure]:
    size, batch, _ = STEP
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))
    steps = {name: _training_step(model, images, labels) for name, model in _models(size).items()}
    yield from _compare(f"throughput of {OURS} / {THEIRS}, {size}, batch {batch}, training step, {how}", steps, rounds)


def _compare(what: str, forms: dict[str, Callable[[], Any]], rounds: int) -> Iterator[Figure]:
    """Both as they are, and with nn.Linear in cpvt's model as in timm's."""
    seconds = alternate({**forms, "alike": plain_linear()(forms["cpvt"])}, rounds)
    yield ratio(what, seconds["timm"], seconds["cpvt"])
    yield ratio(f"{what}, nn.Linear in both", seconds["timm"], seconds["alike"])


def _compiled(rounds: int, how: str) -> Iterator[Figure]:
    """Each model compiled against itself, and the two compiled."""
    for size, batch, part in COMPILED:
        models, images = _models(size), torch.randn(batch, 3, size, size)
        torch.compiler.reset()
        with torch.inference_mode():
            forms = {name: functools.partial(model.eval(), images) for name, model in models.items()}
            made = {
                f"{name} compiled": functools.partial(torch.compile(model), images) for name, model in models.items()
            }
            seconds = alternate({**forms, **made}, max(1, rounds // part))
        case = f"{size}, batch {batch}, forward, {how}"
        for name, title in (("cpvt", OURS), ("timm", THEIRS)):
            yield ratio(f"throughput of {title} compiled / eager, {case}", seconds[name], seconds[f"{name} compiled"])
        what = f"throughput of {OURS} / {THEIRS}, both compiled, {case}"
        yield ratio(what, seconds["timm compiled"], seconds["cpvt compiled"])


def _onnx(rounds: int, how: str) -> Iterator[Figure]:
    """The file of `cpvt export`, for all sizes, against timm's for any batch, in ONNX Runtime with torch's threads."""
    import onnxruntime

    options, sessions = onnxruntime.SessionOptions(), {}
    options.intra_op_num_threads = torch.get_num_threads()
    size = ONNX[0].size
    with tempfile.TemporaryDirectory() as folder:
        for name, model in _models(size).items():
            path = Path(folder) / f"{name}.onnx"
            if name == "cpvt":
                cpvt.export(model, path)
            else:
                free = ({0: torch.export.Dim.DYNAMIC},)
                example = (torch.randn(2, 3, size, size),)
                torch.onnx.export(
                    model.eval(), example, path, dynamic_shapes=free, input_names=["images"], dynamo=True, verbose=False
                )
            sessions[name] = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    for _, batch, part in ONNX:
        images = {"images": torch.randn(batch, 3, size, size).numpy()}
        forms = {name: functools.partial(session.run, None, images) for name, session in sessions.items()}
        seconds = alternate(forms, max(1, rounds // part))
        what = f"throughput of {OURS} / {THEIRS} in ONNX Runtime, {size}, batch {batch}, {how}"
        yield ratio(what, seconds["timm"], seconds["cpvt"])


def _models(size: int) -> dict[str, torch.nn.Module]:
    return {"cpvt": cpvt.create_model(OURS, img_size=size), "timm": timm.create_model(THEIRS, img_size=size)}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _training_step(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step
