"""Progress in a log: occasional lines with the time left."""

import logging

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


def test_log_messages_of_the_package_are_printed(capsys):
    logger = logging.getLogger("cpvt.training.build")
    with Bars():
        logger.info("the head starts afresh")
    logger.info("nobody listens")
    assert capsys.readouterr().err == "the head starts afresh\n"
