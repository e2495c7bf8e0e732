"""Progress in a log: occasional lines with the time left."""

import logging
import re

from cpvt.runtime.progress import Bars


def test_a_log_shows_the_time_left(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    bars = Bars(log_every=10.0)
    bars.in_terminal = False
    for done in (1, 2, 3):
        bars("train", done, 2000, "loss 1.000")
        clock[0] += 6
    bars("train", 2000, 2000, "loss 0.500")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train  3/2000  loss 1.000  3:19:42 left"  # 6 seconds a step
    assert lines[-1] == "train  2000/2000  loss 0.500"


def test_an_unknown_total_shows_no_time_left(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    bars = Bars(log_every=10.0)
    bars.in_terminal = False
    for done in (64, 128):
        bars("test", done, 0, "accuracy 50.0%")
        clock[0] += 12
    assert capsys.readouterr().err.splitlines() == ["test  128/?  accuracy 50.0%"]


def test_a_log_has_one_line_in_the_time_given_whatever_goes_on(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    bars = Bars()
    bars.in_terminal = False
    for step in range(1, 101):
        for name in ("peg", "rope"):
            bars(name, step, 100, "" if step == 100 else "loss 1.000")
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"peg  {step}/100  loss 1.000  0:0{left} left" for step, left in ((32, "1:08"), (63, "0:37"), (94, "0:06"))
    ]


def test_a_bar_reaches_its_end_and_the_next_of_its_name_is_seen(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Bars() as bars:
        assert bars.in_terminal
        drawn = []
        monkeypatch.setattr(
            bars.progress, "refresh", lambda: drawn.extend((task.completed, task.total) for task in bars.progress.tasks)
        )
        for done in (3, 4):
            bars("test", done, 4, "")
        assert drawn[-1] == (4, 4)
        assert bars.progress.tasks == []
        bars("test", 1, 4, "")
        assert [(task.completed, task.visible) for task in bars.progress.tasks] == [(1, True)]


def test_the_clocks_of_a_bar_are_labelled(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with Bars() as bars:
        bars("train", 3, 4, "loss 1.000")
        bars.progress.refresh()
    assert re.search(r"loss 1.000.*\d:\d\d.*left.*\d:\d\d.*elapsed", capsys.readouterr().err)


def test_log_messages_of_the_package_are_printed(capsys):
    logger = logging.getLogger("cpvt.training.build")
    with Bars():
        logger.info("the head starts afresh")
    logger.info("nobody listens")
    assert capsys.readouterr().err == "the head starts afresh\n"
