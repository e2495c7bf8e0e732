"""Tasks in processes of this machine, and on a real Ray cluster of one machine: two CPUs, no dashboard."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import cpvt
from cpvt.config import CompareConfig, DataConfig, OptimConfig
from cpvt.experiments import pool
from cpvt.results.rows import read_rows
from cpvt.training import StoppedError


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    yield ray
    ray.shutdown()


@pytest.fixture
def config(tmp_path, tiny_folder):
    return CompareConfig(
        out=str(tmp_path / "cluster"), encodings=("peg",), pool=("cls",), seeds=(0, 1), canvas_sizes=(8, 12),
        resize_sizes=(8,), img_size=8, parallel=2, cluster="ray", device="cpu", dataset=DataConfig(str(tiny_folder)),
        optim=OptimConfig(epochs=1, batch_size=4),
    )  # fmt: skip


def without_timings(rows):
    return sorted(str(replace(row, seconds=0, model_seconds=None, peak_memory=None)) for row in rows)


def test_a_comparison_on_a_cluster_gives_the_rows_of_one_process(ray, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the image folder is relative to the working folder
    config = replace(config, dataset=replace(config.dataset, data="images"))
    rows, progress = [], []
    folder = cpvt.compare(config, lambda *step: progress.append(step), rows.append)
    assert len(rows) == 6
    assert {step[0] for step in progress} >= {"peg cls seed 0", "peg cls seed 1"}
    alone = cpvt.compare(replace(config, out=str(tmp_path / "alone"), cluster="", parallel=1))
    assert without_timings(read_rows(folder / "rows.jsonl")) == without_timings(read_rows(alone / "rows.jsonl"))
    cpvt.compare(config, on_row=lambda row: pytest.fail("tested again"))


def run(work, tasks, folder, on_message=lambda *message: None, cpus=1):
    pool.run_tasks(work, tasks, pool.ray_pool("ray", folder, cpus, None), on_message)


def test_tasks_import_modules_from_the_working_folder(ray, tmp_path, monkeypatch):
    (tmp_path / "outside_module.py").write_text("ANSWER = 42")
    monkeypatch.chdir(tmp_path)

    def work(task, send):
        import outside_module

        send(outside_module.ANSWER)

    messages = []
    run(work, [0], tmp_path, messages.append)
    assert messages == [42]


def die_or_wait(task, send):
    send("begins", task)
    if task == "dies":
        os._exit(1)
    if task == "fails":
        time.sleep(0.3)
        raise ValueError("task fails")
    for _ in range(1200):
        time.sleep(0.05)
        send("waits", task)


@pytest.mark.parametrize(
    ("first", "error", "message"),
    [("dies", ChildProcessError, "died.*--parallel"), ("fails", ValueError, "task fails")],
)
def test_the_first_error_stops_the_other_processes(first, error, message, forked):
    messages, start = [], time.monotonic()
    with pytest.raises(error, match=message):
        pool.run_tasks(die_or_wait, [first, 1, 2, 3], pool.process_pool(2, 1), lambda *each: messages.append(each))
    assert ("begins", first) in messages
    assert ("begins", 3) not in messages
    assert time.monotonic() - start < 50


def test_sigterm_stops_the_processes_too(forked):
    def ask(*message):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="stopped by SIGTERM"):
        pool.run_tasks(die_or_wait, [1, 2], pool.process_pool(2, 1), ask)


def tell_and_wait(task, send):
    send(os.getpid())
    die_or_wait(task, send)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks Linux which processes there are")
def test_processes_stop_where_their_parent_was_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "from cpvt.experiments import pool\nfrom tests.experiments.test_pool import tell_and_wait\n"
        "if __name__ == '__main__':\n"
        "    pool.run_tasks(tell_and_wait, [1], pool.process_pool(1, 1), lambda *each: print(*each, flush=True))\n"
    )
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=root, env=env
    ) as parent:
        child = Path("/proc", parent.stdout.readline().strip())
        assert child.exists()
        parent.kill()
    for _ in range(300):
        if not child.exists():
            return
        time.sleep(0.1)
    pytest.fail("the process works on for nobody")


def test_the_first_error_stops_the_others_after_their_messages_arrived(ray, tmp_path):
    def work(task, send):
        send("begins", task)
        (folder / f"{task}-begins").touch()
        if task == 0:
            while not (folder / "1-begins").exists():
                time.sleep(0.05)
            raise ValueError("task 0 is no good")
        for _ in range(1200):  # a sleep of a minute in one piece could not be interrupted
            time.sleep(0.05)
        (folder / f"{task}-ends").touch()

    folder, messages = tmp_path, []
    with pytest.raises(ValueError, match="task 0 is no good"):
        run(work, range(4), folder, lambda *each: messages.append(each))
    assert set(messages) >= {("begins", 0), ("begins", 1)}
    assert not list(folder.glob("*-ends"))
    assert not (folder / "3-begins").exists()


def test_a_callback_that_fails_stops_the_tasks(ray, tmp_path):
    def fail(*message):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        run(lambda task, send: send("row", task), [0], tmp_path, fail)


def test_a_process_that_dies_is_named_as_such(ray, tmp_path):
    def work(task, send):
        os._exit(1)

    with pytest.raises(ChildProcessError, match="died.*--parallel"):
        run(work, [0], tmp_path)


def test_a_task_that_no_machine_has_room_for_is_refused(ray, tmp_path):
    with pytest.raises(ValueError, match="asks for 3 CPUs and 0 GPUs, which no machine.*2 CPUs and 0 GPUs"):
        run(print, [0], tmp_path, cpus=3)
    with pytest.raises(ValueError, match="1 CPUs and 1 GPUs"):
        pool.run_tasks(print, [0], pool.ray_pool("ray", tmp_path, 1, True), print)


def test_folders_that_are_not_shared_are_named(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_sees", lambda file, here: False)
    with pytest.raises(ValueError, match=f"must share the folders '{tmp_path / 'out'}'.*did not find them"):
        run(print, [0], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_machine_sees(tmp_path):
    (tmp_path / "file").touch()
    assert pool._sees(str(tmp_path / "file"), str(tmp_path))
    assert not pool._sees(str(tmp_path / "missing"), str(tmp_path))
    assert not pool._sees(str(tmp_path / "file"), str(tmp_path / "missing"))


def test_an_invalid_cluster_and_a_missing_ray(config, monkeypatch):
    with pytest.raises(ValueError, match="cluster must be 'ray', 'auto'.*got 'slurm'"):
        cpvt.compare(replace(config, cluster="slurm"))
    with pytest.raises(ValueError, match="pass --device cuda; got 'cuda:1'"):
        cpvt.compare(replace(config, device="cuda:1"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'cpvt\[cluster\]'"):
        cpvt.compare(config)
    assert not pool.Path(config.out).exists()
