"""The benchmarks run, write their figures, and measure what they claim; the figures are not tested."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import cpvt
from benchmarks import (
    TABLE,
    earlier,
    encodings,
    feeding,
    gpu,
    matmul,
    measuring,
    memory,
    model,
    packed,
    padding,
    peg,
    precision,
    processes,
    rehearsal,
    run_benchmarks,
    scale,
    scattered,
    training,
)
from benchmarks.__main__ import main
from cpvt.runtime import distributed as world


def make_small(monkeypatch):
    """Every benchmark at sizes that take seconds; memory is measured in this process."""
    for each in (scattered, packed, memory, encodings):
        monkeypatch.setattr(each, "peak_memory", lambda work, *arguments: work(*arguments) or 1)
    monkeypatch.setattr(peg, "SHAPES", [((1, 12, 8), (3, 4))])
    monkeypatch.setattr(peg, "MODELS", ("cpvt_micro", "cpvt_micro_gap"))
    monkeypatch.setattr(peg, "MODEL_SIZE", 8)
    monkeypatch.setattr(scale, "GRIDS", ((4, 6),))
    monkeypatch.setattr(scale, "WIDTHS", (8,))
    monkeypatch.setattr(scale, "MODEL", "cpvt_micro_gap")
    monkeypatch.setattr(scale, "SIZE", 40)
    monkeypatch.setattr(encodings, "MODEL", "cpvt_micro_gap")
    monkeypatch.setattr(encodings, "SIZES", ((32, 1, 1),))
    monkeypatch.setattr(encodings, "LARGE", 64)
    monkeypatch.setattr(scattered, "COUNTS", (100,))
    monkeypatch.setattr(scattered, "SIDE", 4)
    monkeypatch.setattr(model, "OURS", "cpvt_tiny_gap")
    monkeypatch.setattr(model, "THEIRS", "deit_tiny_patch16_224")
    for name in ("FORWARD", "COMPILED", "ONNX"):
        monkeypatch.setattr(model, name, (model.Case(224, 1, 1),))
    monkeypatch.setattr(model, "STEP", model.Case(224, 1, 1))
    monkeypatch.setattr(packed, "MODEL", "cpvt_micro")
    monkeypatch.setattr(packed, "IMAGES", 3)
    monkeypatch.setattr(packed, "SIDES", (32, 48))
    monkeypatch.setattr(padding, "EPOCHS", 1)
    monkeypatch.setattr(padding, "DIGITS", 40)
    monkeypatch.setattr(padding, "SIDES", (8, 9))
    monkeypatch.setattr(memory, "SIZES", (64,))
    monkeypatch.setattr(memory, "ENCODINGS", ("peg",))
    monkeypatch.setattr(precision, "OURS", "cpvt_micro_gap")
    monkeypatch.setattr(precision, "THEIRS", "deit_tiny_patch16_224")
    monkeypatch.setattr(precision, "SIZE", 32)
    monkeypatch.setattr(precision, "CROPS", 4)
    monkeypatch.setattr(matmul, "BATCHES", (1,))
    monkeypatch.setattr(matmul, "SIZE", 32)
    monkeypatch.setattr(matmul, "SQUARE", 64)
    monkeypatch.setattr(training, "CASES", (training.Case("cpvt_micro_gap", 8, 2, 3, part=1),))
    monkeypatch.setattr(feeding, "CASES", (feeding.Case((12, 16), "cpvt_micro_gap", 8, 2, steps=3, shown=(3,)),))
    monkeypatch.setattr(processes, "CASES", (processes.Case("cpvt_micro_gap", 8, 4, 3, steps=2),))
    monkeypatch.setattr(torch, "compile", lambda module: module)  # the compiler is not tested


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # timm's reader of folders closes none
def test_every_benchmark_writes_its_figures(monkeypatch, tmp_path, capsys, forked):
    make_small(monkeypatch)
    main(["--out", str(tmp_path), "--rounds", "1"])
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(last["figures"]) == [
        name for name in TABLE if name not in ("fused", "gpu") or torch.cuda.is_available()
    ]
    for name, figures in last["figures"].items():
        written = json.loads((tmp_path / f"{name}.json").read_text())
        assert written["figures"] == figures
        assert written["command"] == f"python -m benchmarks --only {name} --rounds 1"
        assert written["machine"]["torch"] == torch.__version__
        assert len({figure["what"] for figure in figures}) == len(figures)
        assert all(figure["value"] >= 0 for figure in figures), figures


def test_an_unknown_benchmark():
    with pytest.raises(ValueError, match="unknown benchmark 'peq'; known: peg, scale, encodings, scattered, model"):
        next(run_benchmarks(["peg", "peq"]))


def test_less_than_one_round():
    with pytest.raises(ValueError, match="rounds must be 1 or more; got 0"):
        next(run_benchmarks(rounds=0))


def test_an_error_on_the_command_line_is_one_message(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["--only", "peq", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: unknown benchmark 'peq'; known: {', '.join(TABLE)}\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_benchmark_needs_a_gpu():
    with pytest.raises(ValueError, match="'fused' needs a GPU"):
        next(run_benchmarks(["fused"]))


def test_a_ratio_is_computed_round_by_round():
    over, under = [2.0, 9.0, 4.0], [1.0, 3.0, 8.0]
    figure = measuring.ratio("what", over, under)
    assert (figure.value, figure.low, figure.high, figure.rounds) == (2.0, 0.5, 3.0, 3)
    assert str(figure) == "2 (0.5 to 3, 3 rounds)"
    figure = measuring.ratio("what", [float(number) for number in range(1, 12)], [1.0] * 11)
    assert (figure.low, figure.high) == (2.0, 10.0)  # the outer tenths are left out


def test_contenders_alternate_and_the_first_one_changes():
    calls = []
    seconds = measuring.alternate({name: lambda name=name: calls.append(name) for name in "abc"}, 3, warm_up=0)
    assert "".join(calls) == "abcbcacab"
    assert all(len(each) == 3 for each in seconds.values())


def test_peak_memory_is_that_of_a_fresh_process():
    copies = measuring.peak_memory(scattered.step_once, 2000) / (2000 * scattered.WIDTH * 4)  # of the tokens
    assert 0 < copies < 10


def test_a_process_that_dies_is_an_error(forked):
    with pytest.raises(ChildProcessError, match=r"the process of _exit\(1,\) died"):
        measuring.peak_memory(os._exit, 1)


def test_a_function_may_report_its_own_time():
    assert measuring.alternate({"a": lambda: 3.0}, 2, clock=measuring.reported) == {"a": [3.0, 3.0]}


@pytest.mark.parametrize(("count", "own"), [(1, 8), (2, 4)])
def test_a_rehearsal_trains_and_stores_nothing(monkeypatch, tmp_path, count, own):
    monkeypatch.chdir(tmp_path)
    rehearse = rehearsal.rehearse("cpvt_micro_gap", 8, batch_size=8, classes=3, steps=2)
    module, progress = rehearse.trainer.module, rehearse.trainer.progress
    before = {name: weight.clone() for name, weight in module.named_parameters()}
    rehearse()
    rehearse()
    assert (progress.epoch, progress.before, progress.step, progress.history) == (2, 4, 0, [])
    assert all(bool((weight != before[name]).any()) for name, weight in module.named_parameters())
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(world, "world_size", lambda: count)
    batches = list(rehearse.trainer.load(0, rehearse.trainer.setup.sampler.steps(0), 0))
    assert [batch.images.shape for batch in batches] == [(own, 3, 8, 8)] * 2


def test_the_counterpart_has_the_same_shape_and_the_plain_loop_trains_it():
    case = training.Case("cpvt_mini_peg5_gap", 32, 2, 10, part=1)
    ours, theirs = cpvt.create_model(case.model, num_classes=case.classes), training.counterpart(case)
    shapes, others = ({name: each.shape for name, each in model.state_dict().items()} for model in (ours, theirs))
    assert others.pop("pos_embed") == (1, 64, 96)
    assert others == {name: shape for name, shape in shapes.items() if not name.startswith("encoding.")}
    before = {name: weight.clone() for name, weight in theirs.named_parameters()}
    training._plain_loop(theirs, case)()
    assert all(bool((weight != before[name]).any()) for name, weight in theirs.named_parameters())


def test_training_is_compared_with_the_sum_or_the_slower_of_its_parts(monkeypatch, tmp_path):
    seconds = {"learning": [2.0, 1.0], "reading, 0 workers": [1.0, 1.0], "reading, 1 worker": [1.0, 3.0],
               "training, 0 workers": [4.0, 4.0], "training, 1 worker": [2.5, 4.0]}  # fmt: skip
    monkeypatch.setattr(feeding, "alternate", lambda *given, **options: seconds)
    case = feeding.Case((12, 16), "cpvt_micro_gap", 8, 4, steps=2)
    *rates, in_turn, in_parallel = feeding._compare(case, tmp_path, 2)
    assert [(each.value, each.unit) for each in rates[:2]] == [(3.0, "images a second"), (4.0, "images a second")]
    assert (in_turn.low, in_turn.high) == (0.5, 0.75)
    assert (in_parallel.low, in_parallel.high) == (0.75, 0.8)


def test_loading_and_training_are_timed_from_step_to_step(monkeypatch, tmp_path):
    case = feeding.Case((12, 16), "cpvt_micro_gap", 8, 2, steps=5)
    feeding.write_images(tmp_path / "images", case)
    clock = iter(range(1000))
    monkeypatch.setattr(feeding.time, "perf_counter", lambda: float(next(clock)))  # one second per call
    assert feeding._read(feeding._config(case, tmp_path, workers=0)) == 1.0
    assert next(clock) == 5
    assert feeding._step([10.0, 11.0, 12.0, 16.0]) == 2.0
    monkeypatch.undo()
    assert 0 < feeding._train(feeding._config(case, tmp_path, workers=0)) < 60
    assert len((tmp_path / "run0" / "history.jsonl").read_text().splitlines()) == 1


def test_independent_processes_contribute_by_their_speed():
    assert processes._for_one_batch([2.0, 2.0]) == 1.0
    assert processes._for_one_batch([1.0, 0.5]) == pytest.approx(1 / 3)


def test_a_training_process_that_dies_is_an_error(monkeypatch, forked):
    monkeypatch.setattr(processes, "PROCESSES", 1)
    case = processes.Case("cpvt_nothing", 8, 4, 3, steps=1)
    with pytest.raises(ChildProcessError, match="a process that trains died"), processes._started(case, together=False):
        pass


def test_what_a_gpu_measures_runs_at_a_toy_size_on_the_cpu(monkeypatch):
    for name, value in {
        "DEVICE": "cpu", "OURS": "cpvt_tiny_gap", "THEIRS": "deit_tiny_patch16_224", "BATCH": 1, "LIST": "cpvt_micro",
        "IMAGES": 3, "SIDES": (32, 48), "PEG_SHAPE": (1, (4, 6), 8),
    }.items():  # fmt: skip
        monkeypatch.setattr(gpu, name, value)
    figures = list(gpu.run(1))
    assert len({figure.what for figure in figures}) == len(figures) == 7
    assert all(figure.value >= 0 for figure in figures)


def test_the_script_for_a_gpu_says_where_there_is_none(tmp_path):
    done = subprocess.run(
        ["sh", "benchmarks/gpu.sh", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert (done.returncode, done.stdout) == (1, "gpu.sh needs a GPU that torch sees\n")
    assert not list(tmp_path.iterdir())


def test_precisions_are_compared_on_the_same_crops(monkeypatch):
    monkeypatch.setattr(precision, "CROPS", 40)
    figures = {figure.what.split(": ")[1]: figure.value for figure in precision._answers()}
    assert len(figures) == 6
    for name in ("bfloat16 weights", "bfloat16 by autocast", "int8"):
        assert figures[f"first class as in float32, {name}"] >= 85
        assert 0 < figures[f"largest difference of a probability, {name}"] < 0.2
    assert len({crop.size for crop in precision._crops()}) > 20
    model = precision.adapter_of(precision.cpvt.create_model("cpvt_micro_gap"))
    assert 2 < precision._bytes(model.model) / precision._bytes(precision.quantised(model.model)) < 4


def test_two_commits_are_compared_in_alternation(monkeypatch, capsys, tmp_path):
    ran = []

    @contextmanager
    def tree(commit, folder):
        assert commit == "v1"
        yield tmp_path / "tree"

    def compare(root, out, options, seconds):
        old = root == tmp_path / "tree"
        ran.append("before" if old else "after")
        for name in ("the whole command", "peg-cls-seed0", "all trainings"):
            seconds.setdefault(name, []).append(30.0 if old else 20.0)
        row = {"encoding": "peg", "pool": "cls", "seed": 0, "protocol": "canvas", "train_size": 32, "total": 200}
        rows = [{**row, "size": 32, "correct": 190 if old else 189}, {**row, "size": 64, "correct": 1}]
        out.mkdir(parents=True)
        (out / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))

    monkeypatch.setattr(earlier, "_tree_of", tree)
    monkeypatch.setattr(earlier, "_compare", compare)
    earlier.main(["v1", "--rounds", "2", "--out", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    assert ran == ["after", "before", "before", "after"]
    assert "peg-cls-seed0: before / after 1.5 (1.5 to 1.5, 2 rounds)" in printed
    assert json.loads((tmp_path / "found.json").read_text())["figures"][1]["value"] == 1.5
    assert "at the training size: apart by up to 0.5 points" in printed
