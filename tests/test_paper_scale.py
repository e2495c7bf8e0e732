"""The plan for ImageNet: its commands are understood, its checks find faults, its table follows from measurements."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cpvt.cli import parse
from cpvt.config.recipes import DEIT_EPOCHS, deit
from cpvt.data import open_data
from cpvt.encodings.text import split_encoding
from cpvt.models.sizes import model_config
from cpvt.reporting.markdown import fill
from cpvt.results.rows import read_rows

HERE = Path("docs/results/imagenet").absolute()
RECORDER = """#!{python}
import json, os, sys, time
from pathlib import Path
given = sys.argv[1:]
with open({log!r}, "a") as file:
    file.write(json.dumps(given) + "\\n")
if "--out" in given:
    out = Path(given[given.index("--out") + 1])
    out.mkdir(parents=True)
if "sweep" in given:
    sizes = given[given.index("--sizes") + 1 : given.index("--scale")]
    (out / "rows.jsonl").write_text("a row\\n" * len(sizes))
if os.environ.get("SLOW") and "train" in given and "--processes" not in given:
    Path({log!r} + ".slow").touch()
    time.sleep(60)
"""


@pytest.fixture
def script(tmp_path):
    """Runs run.sh with a `python` that only records what it is given; returns the records, or the last line said."""
    log = tmp_path / "log"
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(RECORDER.format(python=sys.executable, log=str(log)))
    python.chmod(0o755)

    def run(wait=True, refuses=False, **settings):
        log.unlink(missing_ok=True)
        env = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}", "OUT": str(tmp_path / "out"), **settings}
        command = ["sh", str(HERE / "run.sh"), "/data/shards", "runs"]
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        if not wait:
            return process, Path(f"{log}.slow")
        said = process.communicate()[0].splitlines()[-1]
        assert said.startswith("run.sh: ")
        assert process.returncode == int(refuses)
        if refuses:
            return said
        return [json.loads(line) for line in log.read_text().splitlines()]

    return run


def of_cpvt(command):
    """The part of a command that cpvt reads: a verb and its options."""
    return command[command.index("--") + 1 :] if "--" in command else command[command.index("cpvt") + 1 :]


def test_every_command_of_the_script_is_understood(script):
    checked, *commands, report = script()
    assert Path(checked[0]) == HERE / "check.py"
    assert parse(of_cpvt(report)).folders[0].endswith("out")
    launched = "-m torch.distributed.run --standalone --nproc_per_node 8 -m -- cpvt "
    assert all(" ".join(command).startswith(launched) for command in commands)
    parsed = [parse(of_cpvt(command)[1:]) for command in commands]
    trainings, tests = parsed[::3], [*zip(parsed[1::3], parsed[2::3])]
    assert len(trainings) == len(tests) == 15
    assert [each.seed for each in trainings] == [0] * 5 + [1] * 5 + [2] * 5
    assert {each.encoding: None for each in trainings}.keys() == set(checked[checked.index("--encodings") + 1 :][:5])
    for each in trainings:
        split_encoding(each.encoding)
        assert model_config(each.model).global_pool == "avg"
        assert (each.img_size, each.optim, each.device) == (224, deit(epochs=DEIT_EPOCHS), "cuda")
        assert each.dataset.data == "/data/shards"
    assert sum("peg" not in each.encoding for each in trainings) == 3
    for training, (told, untold) in zip(trainings, tests):
        assert (told.scale, untold.scale, told.model) == ("protocol", "paper", training.out)
        assert told.sizes == untold.sizes == (160, 224, 288, 320, 384, 448, 512, 640, 768, 1024)


def test_the_script_does_nothing_twice_and_takes_settings_of_the_environment(script, tmp_path):
    small = {
        "ENCODINGS": "peg rope+peg", "SEEDS": "3", "SIZES": "48 64", "EPOCHS": "2", "BATCH": "64", "PROCESSES": "2",
        "MODEL": "cpvt_micro_gap(patch_size=8)", "DEVICE": "cpu", "PRECISION": "fp32", "TRAIN_OPTIONS": "--lr 1e-3",
    }  # fmt: skip
    commands = script(**small)
    assert len(commands) == 2 + 2 * 3
    shutil.rmtree(tmp_path / "runs" / "peg-3" / "paper")
    _, again, _ = script(**small)
    assert parse(of_cpvt(again)[1:]).scale == "paper"
    assert parse(of_cpvt(again)[1:]).model == "runs/peg-3"
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 8
    config = parse([*of_cpvt(commands[1])[1:]])
    assert (config.model, config.optim.lr, config.dataset.workers) == ("cpvt_micro_gap(patch_size=8)", 1e-3, 8)
    assert "--nproc_per_node 2" in " ".join(commands[1])


def test_the_script_refuses_to_pass_off_what_other_options_made(script):
    small = {"ENCODINGS": "peg", "SEEDS": "0", "SIZES": "48", "EPOCHS": "1"}
    script(**small)
    said = script(refuses=True, **{**small, "EPOCHS": "300"})
    assert re.search("runs/peg-0 was made by '.*, 1 epochs, .* is now asked for by '.*, 300 epochs, ", said)
    assert "runs/peg-0/protocol was made by 'sizes 48, " in script(refuses=True, **{**small, "SIZES": "48 64"})
    assert len(script(**small, PROCESSES="2", PRECISION="fp32")) == 2, "how the work is done may change"


def test_the_script_passes_sigterm_on_and_says_that_it_resumes(script):
    process, slow = script(wait=False, SLOW="1")
    try:
        for _ in range(500):
            if slow.exists():
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 75
    assert said.endswith("run.sh: stopped; the same command resumes\n")


def contents(split):
    """The images of a split, each with its class."""
    images = [split.read(number, np.random.default_rng(0)) for number in range(len(split))]
    return Counter((np.asarray(image).tobytes(), label) for image, label in images)


def test_packed_images_are_those_of_the_folder(tiny_folder, tmp_path):
    command = ["sh", str(HERE / "pack.sh"), str(tiny_folder), str(tmp_path / "shards")]
    times = []
    for _ in range(2):  # the second time nothing is left to do
        subprocess.run(command, env={**os.environ, "COUNT": "4"}, check=True, capture_output=True)
        times.append({path.name: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()})
    assert times[0] == times[1]
    assert sorted(times[0]) == ["test-0000.tar", "test-0001.tar", "train-0000.tar", "train-0001.tar", "train-0002.tar"]
    folder, shards = open_data(str(tiny_folder)), open_data(str(tmp_path / "shards"))
    assert shards.class_names == folder.class_names
    assert contents(shards.train) == contents(folder.train)
    assert contents(shards.test) == contents(folder.test)


def checked(capsys, monkeypatch, folder, options="", processes=2, encodings=("peg", "rope+peg"), **settings):
    """What check.py says, and its exit status."""
    monkeypatch.syspath_prepend(str(HERE))
    for name, value in {"BATCH": "12", "EPOCHS": "3", **settings}.items():
        monkeypatch.setenv(name, value)
    plain = f"--model cpvt_micro_gap --img-size 8 --device cpu --precision fp32 --workers 0 --data {folder} {options}"
    command = ["train", str(HERE / "recipe.py"), *plain.split()]
    given = ["--runs", str(Path(folder).parent / "runs"), "--processes", str(processes), "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", ["check.py", *given, "--encodings", *encodings, "--", *command])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(HERE / "check.py"), run_name="__main__")
    return end.value.code, capsys.readouterr()


def test_the_check_counts_and_measures(capsys, monkeypatch, tiny_folder):
    status, said = checked(capsys, monkeypatch, tiny_folder)
    assert (status, said.err) == (0, "")
    assert "trainings 4: peg rope+peg; seeds 0 1" in said.out
    assert "images    11 to train, 6 to test, 2 classes (ImageNet-1k has 1,281,167, 50,000 and 1,000)" in said.out
    assert "processes 2 on cpu, 6 images each in a step" in said.out
    assert all(f"step      {name}: " in said.out for name in ("peg", "rope+peg"))
    assert said.out.count("; 3 take ") == 2
    assert "loading   " in said.out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": "--device cuda", "processes": 99}, "99 processes need as many GPUs, and torch sees"),
        ({"BATCH": "14"}, "a batch must be a multiple of twice 2 processes, got 14: set BATCH"),
        ({"encodings": ("peg", "pig")}, "unknown encoding 'pig'"),
        ({"options": "--data nowhere"}, "unknown data set 'nowhere'"),
        ({"options": "--lr -1"}, "lr must be above 0; got -1"),
    ],
)
def test_the_check_says_what_is_missing_and_measures_nothing(capsys, monkeypatch, tiny_folder, change, words):
    status, said = checked(capsys, monkeypatch, tiny_folder, **change)
    assert status == 2
    assert words in said.err
    assert "step      " not in said.out


def test_too_little_disk_is_seen(capsys, monkeypatch, tiny_folder):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    status, said = checked(capsys, monkeypatch, tiny_folder)
    assert status == 2
    assert "has 0.0 GiB free, and" in said.err


@pytest.fixture
def cost(monkeypatch):
    return runpy.run_path(str(HERE / "cost.py"))


def test_the_table_of_the_page_follows_from_what_was_measured(cost):
    page = Path("docs/paper-scale.md").read_text()
    measured = json.loads((HERE / "cost-cpu.json").read_text())
    gpu = HERE / "cost-gpu.json"
    tables = cost["tables"](measured, json.loads(gpu.read_text()) if gpu.exists() else None)
    assert fill(page, tables) == page
    assert list(measured["encodings"]) == cost["of_run"]("ENCODINGS")
    flops = cost["count_flops"](measured["model"], "peg", 224)
    assert flops == measured["encodings"]["peg"]["flops"]


def test_operations_and_hours_are_counted_right(cost):
    tokens, width, blocks = 16, 64, 4
    per_block = tokens * (12 * width**2 + 2 * tokens * width)
    patches, head, peg = tokens * width * 3 * 16, width * 1000, tokens * width * 9
    assert cost["count_flops"]("cpvt_micro_gap", "peg", 16) == 2 * (blocks * per_block + patches + head + peg)
    figure = {"flops": 10**9, "relative": 1.0, "low": 1.0, "high": 1.0}
    cpu = {
        "batch": 2048,
        "epochs": 300,
        "test flops": 10**9,
        "encodings": {"peg": figure, "rope": {**figure, "relative": 2.0}},
    }
    seconds = {"seconds": 0.1, "GiB": 5.0}
    gpu = {"batch": 2048, "share": 256, "encodings": {"peg": seconds, "rope": seconds}}
    table = cost["tables"](cpu, gpu)["cost"].splitlines()
    estimated = 3 * 1e9 * 1_281_167 * 300 / (0.3 * 312e12) / 3600
    assert [line.split(" | ")[3] for line in table[2:]] == [f"{estimated:.0f}", f"{2 * estimated:.0f}"]
    assert table[2].endswith(f" | 0.100 | 5.0 | {626 * 300 * 8 * 0.1 / 3600:.0f} |")


def test_the_rehearsal_is_whole():
    rows = read_rows(HERE / "rehearsal.jsonl")
    assert len(rows) == len((HERE / "rehearsal.jsonl").read_text().splitlines()) == 16
    assert set(Counter((row.encoding, row.scale_rule) for row in rows).values()) == {4}
    log = (HERE / "rehearsal.log").read_text()
    assert log.endswith("rehearse.sh: all 16 rows are there, once each\n")
    assert log.count("rehearse.sh: SIGTERM\n") == log.count("run.sh: stopped; the same command resumes\n") == 2
    assert "resuming at step " in log
