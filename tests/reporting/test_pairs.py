"""Paired differences: the right pairs, and intervals equal to those of a plain bootstrap."""

import numpy as np
import pytest

from cpvt.reporting import gather, summarise
from cpvt.reporting.pairs import bootstrap_interval, paired_differences
from cpvt.results.rows import pack_hits
from cpvt.runtime.files import append_rows


def row_of(make_row, hits, **values):
    return make_row(correct=sum(hits), total=len(hits), hits=pack_hits(hits), **values)


def test_the_interval_matches_a_plain_bootstrap():
    draw = np.random.default_rng(3)
    values = draw.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=300)
    means = np.array([draw.choice(values, size=len(values)).mean() for _ in range(4000)])
    assert bootstrap_interval(values) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


def test_equal_models_have_a_difference_of_exactly_zero(make_row):
    hits = [number % 2 == 0 for number in range(50)]
    rows = [row_of(make_row, hits, encoding="learned"), row_of(make_row, hits, encoding="peg")]
    (difference,) = paired_differences(rows)
    assert (difference.label, difference.reference, difference.images) == ("peg", "learned", 50)
    assert (difference.points, difference.low, difference.high) == (0, 0, 0)


def test_seeds_are_averaged_on_each_image(make_row):
    rows = [row_of(make_row, [False, False, True, True], encoding="learned")]
    rows += [row_of(make_row, hits, encoding="peg", seed=seed)
             for seed, hits in enumerate([[True, True, True, True], [False, True, True, True]])]  # fmt: skip
    (difference,) = paired_differences(rows)
    assert difference.points == pytest.approx(100 * (0.5 + 1 + 0 + 0) / 4)


def test_only_the_same_images_are_paired(make_row):
    hits = [True, False, True]
    rows = [row_of(make_row, hits, encoding="learned"), row_of(make_row, [*hits, True], encoding="peg"),
            row_of(make_row, hits, encoding="rope", skipped=1), row_of(make_row, hits, encoding="sincos", size=48),
            make_row(encoding="none")]  # fmt: skip
    assert paired_differences(rows) == []


def test_models_with_different_weights_are_separate_and_repeated_rows_count_once(tmp_path, make_row):
    external = {"model": "timm:vit", "encoding": "", "pool": ""}
    rows = [row_of(make_row, [False] * 4, encoding="learned")]
    rows += [row_of(make_row, hits, **external, weights=name)
             for name, hits in {"a.pth": [True] * 4, "b.pth": [False] * 4}.items()]  # fmt: skip
    for folder in ("one", "two"):
        append_rows(tmp_path / folder / "rows.jsonl", rows)
    gathered = gather([tmp_path / "one", tmp_path / "two"])
    assert gathered == rows
    found = {each.label: each.points for each in paired_differences(gathered)}
    assert found == {"timm:vit (a.pth)": 100, "timm:vit (b.pth)": 0}
    assert {cell.label: cell.mean for cell in summarise(gathered)} == {
        "learned": 0,
        "timm:vit (a.pth)": 100,
        "timm:vit (b.pth)": 0,
    }


def test_a_collapsed_model_is_not_compared(make_row):
    counts = {"class_totals": (60, 40), "class_correct": (60, 0)}
    good, bad = [True] * 100, [True] * 60 + [False] * 40
    rows = [row_of(make_row, bad, encoding="learned", **counts), row_of(make_row, bad, encoding="rope", **counts),
            row_of(make_row, good, encoding="none", class_totals=(60, 40)),
            row_of(make_row, good, class_totals=(60, 40))]  # fmt: skip
    assert [(each.label, each.reference) for each in paired_differences(rows)] == [("peg", "none")]


def test_the_reference_is_learned_also_where_only_gap_was_run(make_row):
    rows = [row_of(make_row, [True] * 4, encoding=name, pool="gap") for name in ("none", "learned", "peg")]
    assert {each.reference for each in paired_differences(rows)} == {"learned · gap"}
