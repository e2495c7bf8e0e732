"""docs/literature.md is what its scripts make, each published curve says where it is from, and shares are right."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "results" / "literature"
TABLES = runpy.run_path(str(FOLDER / "tables.py"))
GROUPS = json.loads((FOLDER / "curves.json").read_text())
CURVES = [{**group, **curve} for group in GROUPS for curve in group["curves"]]


def test_the_page_and_the_table_of_all_curves_are_those_of_the_files(tmp_path):
    results = tmp_path / "docs" / "results"
    shutil.copytree(FOLDER, results / "literature")
    if (rows := ROOT / "docs" / "results" / "imagenette" / "rows.jsonl").exists():
        (results / "imagenette").mkdir()
        shutil.copy(rows, results / "imagenette")
    text = (ROOT / "docs" / "literature.md").read_text()
    bare = re.sub(r"(<!-- begin (.+?) -->).*?(<!-- end \2 -->)", r"\1\n\3", text, flags=re.DOTALL)
    assert bare != text
    (tmp_path / "docs" / "literature.md").write_text(bare)
    made = [results / "literature" / name for name in ("tables.md", "retained.svg")]
    for file in made:
        file.unlink()
    for script in ("tables.py", "draw.py"):
        subprocess.run([sys.executable, str(results / "literature" / script)], check=True, capture_output=True)
    assert (tmp_path / "docs" / "literature.md").read_text() == text, "run python docs/results/literature/tables.py"
    assert made[0].read_text() == (FOLDER / "tables.md").read_text()
    assert b"<svg" in made[1].read_bytes()


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: f"{curve['paper']}-{curve['table']}-{curve['model']}")
def test_every_curve_has_a_source_and_fits_its_sizes(curve):
    assert re.fullmatch(r"\d{4}\.\d{5}", curve["arxiv"])
    assert curve["table"]
    assert curve["protocol"]
    assert curve["data"] in ("Val", "HR")
    assert curve["sizes"] == sorted(set(curve["sizes"]))
    assert len(curve["accuracy"]) == len(curve["sizes"])
    assert all(0 < accuracy < 100 for accuracy in curve["accuracy"])
    assert max(curve["train_sizes"]) in curve["sizes"] or "no share" in curve["note"]
    assert {*curve.get("approximate", ()), *curve.get("uncertain", ())} <= set(curve["sizes"])
    if "baseline" in curve:
        of_source = [each for each in CURVES if (each["arxiv"], each["table"]) == (curve["arxiv"], curve["table"])]
        (table,) = [each for each in of_source if each["model"] == curve["baseline"]]
        assert table["train_sizes"] == curve["train_sizes"]


def test_lines_have_names_of_their_own():
    labels = [curve.label for curve in TABLES["published"](GROUPS)]
    assert len(set(labels)) == len(labels) == len(CURVES) - sum("no share" in curve.get("note", "") for curve in CURVES)
    named = [curve.name for curve in TABLES["published"](GROUPS) if curve.one_size]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize(
    ("ratio", "column"),
    [(48 / 64, 0.75), (160 / 224, 0.75), (192 / 224, 0.86), (256 / 224, 1.14), (320 / 224, 1.5), (384 / 224, 1.7),
     (512 / 224, 2.3), (640 / 224, 3), (768 / 224, 3.5), (896 / 224, 4), (1024 / 224, 4.6), (1120 / 224, 5)],
)  # fmt: skip
def test_a_ratio_stands_in_a_column_that_is_near(ratio, column):
    assert TABLES["column_of"](ratio) == column


def test_the_nearer_of_two_ratios_in_one_column_counts():
    assert TABLES["in_columns"]({1.9: "far", 2.02: "near", 2.1: "far too"}) == {2: "near"}


EXAMPLE = [
    {"paper": "A", "arxiv": "2401.00001", "table": "Table 1", "data": "Val", "protocol": "short", "train_sizes": [100],
     "sizes": [100, 200, 300], "approximate": [200], "uncertain": [300], "curves": [
         {"model": "table", "accuracy": [80.0, 72.0, 40.0]},
         {"model": "new", "accuracy": [50.0, 49.0, 30.0], "note": "tuned", "baseline": "table"},
         {"model": "several", "accuracy": [50.0, 60.0, 40.0], "train_sizes": [100, 200]},
     ]},
    {"paper": "A", "arxiv": "2401.00001", "table": "Table 2", "data": "Val", "protocol": "longer", "fine_tuned": True,
     "train_sizes": [100], "sizes": [100, 200], "curves": [{"model": "new", "accuracy": [50.0, 55.0]}]},
]  # fmt: skip


@pytest.fixture
def both(make_row):
    """Our curves and those of EXAMPLE: two seeds of learned and peg, with scale; peg as published at 128."""
    correct = {
        ("learned", 64): (50, 50), ("learned", 128): (40, 50), ("learned", 192): (30, 30),
        ("peg", 64): (80, 50), ("peg", 128): (76, 50), ("peg", 192): (60, 25),
    }  # fmt: skip
    scaled = {"protocol": "resize", "train_size": 64, "scale_rule": "protocol"}
    rows = [make_row(encoding=encoding, size=size, seed=seed, correct=count, **scaled)
            for (encoding, size), counts in correct.items() for seed, count in enumerate(counts)]  # fmt: skip
    rows += [make_row(encoding="peg", size=128, correct=40, **{**scaled, "scale_rule": "paper"})]
    left_out = [{"protocol": "canvas"}, {"scale_rule": "fit*0.91"}, {"train_size": 32}, {"train_sizes": (48, 64)}]
    rows += [make_row(encoding="rope", size=size, **{**scaled, **other}) for other in left_out for size in (32, 64)]
    return [*TABLES["ours"](TABLES["of_one_size"](rows)), *TABLES["published"](EXAMPLE)]


def test_shares_are_percent_of_the_accuracy_at_the_training_size(both):
    assert TABLES["share_table"](both, (0.5, 1, 2, 3)).splitlines()[2:] == [
        "| ours, with scale: `learned` | – | 50.0 | 90.0 | 60.0 |",
        "| ours, with scale: `peg` | – | 65.0 | 97.5 | 62.5 |",  # mean of 95 and 100, of 75 and 50
        "| ours, as published: `peg` | – | 65.0 | 50.0 | – |",  # 40 of 80
        "| A, Val: table | – | 80.0 | ~90.0 | ~50.0? |",
        "| A, Val: new (tuned) | – | 50.0 | ~98.0 | ~60.0? |",
        "| A, Val: several | 83.3 | 60.0 | – | – |",
        "| A, Val, fine-tuned: new | – | 50.0 | 110.0 | – |",
    ]
    (several,) = TABLES["share_table"]([both[5]], (1, 1.5)).splitlines()[2:]
    assert several == "| A, Val: several | 60.0 | ~66.7? |"  # of 60 at 200, the largest training size


def test_what_was_given_the_scale_has_the_accuracy_of_its_own_seeds(make_row):
    scaled = [make_row(encoding="peg", size=size, seed=seed, correct=correct, protocol="resize", train_size=64,
                     scale_rule=rule)
            for size, seed, correct, rule in ((64, 0, 80, "protocol"), (64, 1, 50, "protocol"), (64, 1, 50, "paper"),
                                              (128, 0, 76, "protocol"), (128, 1, 40, "paper"))]  # fmt: skip
    assert TABLES["share_table"](TABLES["ours"](scaled), (1, 2)).splitlines()[2:] == [
        "| ours, with scale: `peg` | 65.0 | 95.0 |",
        "| ours, as published: `peg` | 50.0 | 80.0 |",
    ]


def test_gains_are_points_above_the_learned_table_of_the_same_source(both):
    gains = [TABLES["gains"](curve, both) for curve in both]
    assert gains == [{}, {1: 0, 2: 7.5, 3: 2.5}, {1: 0, 2: -40}, {}, {1: 0, 2: 8, 3: 10}, {}, {}]
    assert (
        TABLES["gain_table"](both).splitlines()[-1]
        == "| A, Val: new (tuned) | – | – | – | – | +8.0 | – | +10.0 | – | – |"
    )


def test_the_comparison_says_where_ours_is_ahead_and_where_behind(both):
    assert " ".join(TABLES["where"](both).split()) == (
        "In share, `peg`, with scale, is ahead of all published at 3 times, level with the highest at 2 times. "
        "In points above the learned table of its own source it is level with the highest at 2 times, "
        "behind the highest at 3 times. "
        "- **2 times**: 97.5 % (as published 50.0, without a PEG `learned` 90.0); "
        "1 of 2 published is higher, first new (A, Val) with 98.0. "
        "Above its learned table +7.5; 1 of 1 published is higher, first new (A, Val) with +8.0. "
        "- **3 times**: 62.5 % (without a PEG `learned` 60.0); "
        "none of 2 published is higher, next is new (A, Val) with 60.0. "
        "Above its learned table +2.5; 1 of 1 published is higher, first new (A, Val) with +10.0."
    )


def test_without_rows_the_page_holds_the_published_curves_alone():
    assert TABLES["ours"]([]) == TABLES["of_one_size"]([]) == []
    assert TABLES["where"](TABLES["published"](EXAMPLE)) == TABLES["caption"]([]) == TABLES["NOT_MEASURED"]


def test_the_published_figures_are_those_quoted_in_the_goals():
    (curve,) = [each for each in TABLES["published"](GROUPS) if each.name == "LH-45 (LookHere, Val)"]
    shares = {column: round(share, 1) for column, share in TABLES["in_columns"](curve.shares).items()}
    assert (shares[1.7], shares[2.3], shares[3.5], shares[4.6]) == (101.6, 100.7, 96.4, 90.2)
