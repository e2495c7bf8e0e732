"""The tables of docs/imagenette.md say what the rows say, for rows whose answers a reader can count."""

import runpy
from pathlib import Path

import pytest

from cpvt.results.rows import pack_hits

FOLDER = Path(__file__).parents[1] / "docs" / "results" / "imagenette"
TABLES = runpy.run_path(str(FOLDER / "tables.py"))
IMAGES = 400


@pytest.fixture
def rows(make_row):
    """Rows of models that are right on the first images of 400: encoding -> counts at 64, 96, 128, 192 and 224."""

    def make(counts, rule="protocol", seeds=(0,)):
        return [
            make_row(
                encoding=encoding, pool="gap", protocol="resize", size=size, train_size=64, seed=seed, scale_rule=rule,
                correct=right, total=IMAGES, hits=pack_hits([number < right for number in range(IMAGES)]),
            )
            for encoding, each in counts.items()
            for size, right in zip((64, 96, 128, 192, 224), each, strict=True)
            for seed in seeds
        ]  # fmt: skip

    return make


def test_shares_are_of_the_accuracy_at_the_training_size(rows):
    table = TABLES["retained"](
        rows({"rope": (200, 210, 190, 100, 50), "rope+peg": (300, 330, 300, 240, 210)}), "resize"
    )
    assert table.splitlines()[2:] == [
        "| `rope+peg` | 100.0 | 110.0 | 100.0 | 80.0 | 70.0 |",
        "| `rope` | 100.0 | 105.0 | 95.0 | 50.0 | 25.0 |",
    ]


def test_the_verdict_names_every_encoding_that_is_clearly_below_or_above(rows):
    scaled = rows({"rope+peg": (200, 300, 300, 300, 200), "rope": (200, 200, 299, 200, 300), "none": (100,) * 5})
    assert " ".join(TABLES["verdict"](scaled, "resize").split()) == (
        "Against the encodings without PEG, with scale and as published (2 with 1 seed): `rope+peg`, with scale, is "
        "above `none`, `rope` at 96; `none` at 128; `none`, `rope` at 192; `none` at 224, by intervals that exclude "
        "zero, and below `rope` at 224."
    )
    one_seed = [*rows({"rope+peg": (200,) * 5, "rope": (200,) * 5}, seeds=(0, 1)), *rows({"none": (400,) * 5})]
    assert " ".join(TABLES["verdict"](one_seed, "resize").split()) == (
        "Against the encodings without PEG, with scale and as published (1 with 2 seeds): `rope+peg`, with scale, is "
        "above none, by intervals that exclude zero, and below none."
    )
    stars = [line.count("*") for line in TABLES["above"](one_seed, "resize").splitlines()[2:]]
    assert stars == [5, 0], "the interval of one seed is marked"


def test_an_encoding_with_peg_is_not_among_those_without(rows):
    scaled = rows({"rope+peg": (200,) * 5, "peg5": (100,) * 5, "none": (100,) * 5})
    assert [line.split(" | ")[0] for line in TABLES["above"](scaled, "resize").splitlines()[2:]] == [
        "| `rope+peg` − `none`"
    ]


def test_what_a_peg_adds_is_the_sum_minus_the_encoding_and_the_mean_over_encodings(rows):
    counts = {"rope": (200, 200, 200, 100, 100), "rope+peg": (240, 200, 200, 140, 60),
              "sincos": (100,) * 5, "sincos+peg": (100, 120, 100, 100, 100), "peg5": (400,) * 5}  # fmt: skip
    lines = [line.strip("| ").split(" | ") for line in TABLES["adds"](rows(counts), "resize").splitlines()[2:]]
    assert {name: [cell.split()[0] for cell in cells] for name, *cells in lines} == {
        "`sincos+peg` − `sincos`": ["+0.0", "+5.0", "+0.0", "+0.0", "+0.0"],
        "`rope+peg` − `rope`": ["+10.0", "+0.0", "+0.0", "+10.0", "-10.0"],
        "mean of the 2": ["+5.0", "+2.5", "+0.0", "+5.0", "-5.0"],
    }


def test_the_mean_of_what_a_peg_adds_is_over_encodings_with_the_same_seeds(rows):
    counts = {"rope": (200,) * 5, "rope+peg": (240,) * 5}
    several = [*rows(counts, seeds=(0, 1)), *rows({"alibi": (100,) * 5, "alibi+peg": (200,) * 5})]
    lines = [line.strip("| ").split(" | ") for line in TABLES["adds"](several, "resize").splitlines()[2:]]
    assert {name: cells[0].split()[0] for name, *cells in lines} == {
        "`alibi+peg` − `alibi`": "+25.0", "`rope+peg` − `rope`": "+10.0", "mean of the 1 with most seeds": "+10.0",
    }  # fmt: skip


def test_each_way_to_train_is_compared_with_the_training_at_one_size_of_the_same_encoding_and_seeds(rows):
    single = rows({"rope": (300,) * 5, "rope+peg": (200, 200, 200, 100, 100), "peg": (400,) * 5}, seeds=(0, 1))
    turn = rows({"rope+peg": (160, 200, 200, 180, 140), "rope": (300, 300, 300, 320, 300)})
    unscaled = rows({"rope+peg": (0,) * 5}, rule="paper")
    table, differences = TABLES["recipes"](single, {"in turn": [*turn, *unscaled], "longer": []}).split("\n\n")
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| rope, at 64", "| rope, in turn", "| rope+peg, at 64", "| rope+peg, in turn",
    ]  # fmt: skip
    assert "±" not in table, "only the seed of the other ways"
    lines = [line.strip("| ").split(" | ") for line in differences.splitlines()[2:]]
    assert {name: [cell.split()[0] for cell in cells] for name, *cells in lines} == {
        "rope, in turn − at 64": ["+0.0", "+0.0", "+0.0", "+5.0", "+0.0"],
        "rope+peg, in turn − at 64": ["-10.0", "+0.0", "+0.0", "+20.0", "+10.0"],
    }


def test_only_what_was_given_the_scale_is_in_the_tables_of_accuracy(rows):
    scaled = rows({"rope+peg": (200,) * 5, "rope": (100,) * 5})
    unscaled = rows({"rope+peg": (0,) * 5, "rope": (400,) * 5}, rule="paper")
    for name in ("retained", "adds", "accuracy"):
        assert TABLES[name]([*scaled, *unscaled], "resize") == TABLES[name](scaled, "resize")


def test_a_rival_that_answers_otherwise_as_published_is_compared_so_too(rows):
    scaled = rows({"rope+peg": (200,) * 5, "cpb": (100,) * 5, "rope": (100,) * 5})
    unscaled = rows({"rope+peg": (0,) * 5, "cpb": (100, 300, 300, 300, 300), "rope": (100,) * 5}, rule="paper")
    unscaled = [
        row for row in unscaled if row.size != 64
    ]  # where a test without scale is the same, and need not be run
    lines = [line.strip("| ").split(" | ") for line in TABLES["above"]([*scaled, *unscaled], "resize").splitlines()[2:]]
    assert {name: [cell.split()[0] for cell in cells] for name, *cells in lines} == {
        "`rope+peg` − `cpb`": ["+25.0"] * 5,
        "`rope+peg` − `cpb` as published": ["+25.0"] + ["-25.0"] * 4,
        "`rope+peg` − `rope`": ["+25.0"] * 5,
    }
    assert "below `cpb` as published at 96;" in TABLES["verdict"]([*scaled, *unscaled], "resize").replace("\n", " ")


def test_without_rows_nothing_is_claimed():
    for name in ("retained", "above", "adds", "verdict", "accuracy"):
        assert TABLES[name]([], "resize") == "*Not measured yet.*"
    assert TABLES["recipes"]([], {}) == "*Not measured yet.*"
