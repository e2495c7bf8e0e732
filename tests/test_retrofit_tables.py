"""The tables of docs/retrofit.md say what the rows say, for rows whose answers a reader can count."""

import runpy
from pathlib import Path

import pytest

from cpvt.experiments.finetune import BEFORE, CONTROL
from cpvt.results.rows import pack_hits

TABLES = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "results" / "retrofit" / "tables.py"))
IMAGES, PEG = 400, "PEG after 1, table kept"


@pytest.fixture
def rows(make_row):
    """Rows of models that are right on the first images of 400: encoding -> counts at 64 and 128."""

    def make(counts):
        return [
            make_row(
                model="timm:a", encoding=encoding, protocol="resize", size=size, train_size=64, seed=0,
                correct=right, total=IMAGES, hits=pack_hits([number < right for number in range(IMAGES)]),
            )
            for encoding, each in counts.items()
            for size, right in zip((64, 128), each, strict=True)
        ]  # fmt: skip

    return make


def test_peg_is_compared_with_the_control_that_was_trained_on_alike(rows):
    ways = {
        "at 64": rows({BEFORE: (100, 100), CONTROL: (200, 200), PEG: (240, 200)}),
        "at 64, 96": rows({BEFORE: (100, 100), CONTROL: (300, 300), PEG: (300, 380)}),
    }
    lines = [line.split(" | ") for line in TABLES["gains"](ways).splitlines()[2:]]
    found = [(name.strip("| "), [cell.split()[0] for cell in cells]) for name, *cells in lines]
    assert found == [(f"{PEG}, at 64", ["+10.0", "+0.0"]), (f"{PEG}, at 64, 96", ["+0.0", "+20.0"])]


def test_the_model_as_it_came_stands_once_among_all_ways(rows):
    ways = {words: rows({BEFORE: (100, 120), PEG: (240, 200)}) for words in ("at 64", "at 64, 96")}
    table = TABLES["accuracy"](ways)
    assert table.count(BEFORE) == 1
    assert f"| {BEFORE} | 25.0 | 30.0 |" in table
    assert table.count(PEG) == 2


def test_without_rows_nothing_is_claimed():
    assert TABLES["gains"]({}) == TABLES["accuracy"]({}) == "*Not measured yet.*"
