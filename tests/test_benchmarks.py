"""The benchmarks run, keep what they measured, and measure what they say; what they find is no matter for a test."""

import json
import os

import pytest
import torch

from cpvt.benchmarks import BENCHMARKS, bench, matmul, measuring, memory, model, packed, padding, peg, scattered
from cpvt.cli import main
from cpvt.config import BenchConfig


def make_small(monkeypatch):
    """Every benchmark at sizes that take seconds."""
    monkeypatch.setattr(peg, "SHAPES", [((1, 12, 8), (3, 4))])
    monkeypatch.setattr(peg, "MODEL_SIZE", 32)
    monkeypatch.setattr(scattered, "COUNTS", (100,))
    monkeypatch.setattr(scattered, "SIDE", 4)
    monkeypatch.setattr(model, "SIZE", 224)  # timm's takes no other
    monkeypatch.setattr(model, "BATCH", 1)
    monkeypatch.setattr(packed, "PICTURES", 3)
    monkeypatch.setattr(packed, "SIDES", (32, 48))
    monkeypatch.setattr(padding, "EPOCHS", 1)
    monkeypatch.setattr(padding, "SIDES", (8, 9))
    monkeypatch.setattr(memory, "SIZES", (64,))
    monkeypatch.setattr(memory, "ENCODINGS", ("peg",))
    monkeypatch.setattr(matmul, "BATCHES", (1,))
    monkeypatch.setattr(matmul, "SIZE", 32)
    monkeypatch.setattr(matmul, "SQUARE", 64)
    monkeypatch.setattr(torch, "compile", lambda module: module)  # the compiler is not what is tested


def test_every_benchmark_leaves_its_figures(monkeypatch, tmp_path, capsys):
    make_small(monkeypatch)
    main(["bench", "--out", str(tmp_path), "--rounds", "1"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(said["figures"]) == [name for name in BENCHMARKS if name != "fused" or torch.cuda.is_available()]
    for name, figures in said["figures"].items():
        kept = json.loads((tmp_path / f"{name}.json").read_text())
        assert kept["figures"] == figures
        assert kept["command"] == f"cpvt bench --only {name} --rounds 1"
        assert kept["machine"]["torch"] == torch.__version__
        assert len({figure["what"] for figure in figures}) == len(figures)
        assert all(figure["value"] >= 0 for figure in figures), figures


def test_an_unknown_benchmark():
    with pytest.raises(ValueError, match="unknown benchmark 'peq'; known: peg, scattered, model"):
        next(bench(BenchConfig(only=("peg", "peq"))))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_benchmark_of_the_gpu_says_that_it_needs_one():
    with pytest.raises(ValueError, match="'fused' needs a GPU"):
        next(bench(BenchConfig(only=("fused",))))


def test_a_ratio_is_taken_round_by_round():
    over, under = [2.0, 9.0, 4.0], [1.0, 3.0, 8.0]
    figure = measuring.ratio("what", over, under)
    assert (figure.value, figure.low, figure.high, figure.rounds) == (2.0, 0.5, 3.0, 3)
    assert str(figure) == "2 (0.5 to 3, 3 rounds)"
    figure = measuring.ratio("what", [float(number) for number in range(1, 12)], [1.0] * 11)
    assert (figure.low, figure.high) == (2.0, 10.0)  # the outer tenths are left out


def test_contenders_take_turns_and_who_goes_first_changes():
    calls = []
    seconds = measuring.alternate({name: lambda name=name: calls.append(name) for name in "abc"}, 3, warm_up=0)
    assert "".join(calls) == "abcbcacab"
    assert all(len(each) == 3 for each in seconds.values())


def test_peak_memory_is_that_of_a_fresh_process():
    assert (
        0 < measuring.peak_memory(scattered.step_once, 2000) / (2000 * scattered.WIDTH * 4) < 10
    )  # copies of the tokens


def test_a_process_that_dies_is_an_error():
    with pytest.raises(ChildProcessError, match=r"the process of _exit\(1,\) died"):
        measuring.peak_memory(os._exit, 1)
