"""Means, deviations, retained accuracy and paired differences, against numbers computed by hand."""

import random

import pytest
from scipy.stats import binomtest

from cpvt.config import size_label
from cpvt.reporting.labels import head_label, protocol_notes
from cpvt.reporting.summary import (
    as_csv,
    as_markdown,
    confidence_interval,
    majority_shares,
    pixels,
    summarise,
    tabulate,
    warnings_of,
    wilson_interval,
)


@pytest.fixture
def three_seeds(make_row):
    """learned and peg at the training size, 32, and at 48; of 100 images, so that counts are percent."""
    correct = {
        ("learned", 32): (80, 80, 80), ("learned", 48): (40, 50, 60),
        ("peg", 32): (80, 80, 100), ("peg", 48): (60, 70, 74),
    }  # fmt: skip
    return [
        make_row(encoding=encoding, size=size, seed=seed, correct=count, fill=0.25)
        for (encoding, size), counts in correct.items()
        for seed, count in enumerate(counts)
    ]


def cell_of(rows, encoding, size=48, pool="cls"):
    (cell,) = [c for c in summarise(rows) if (c.encoding, c.size, c.pool) == (encoding, size, pool)]
    return cell


def test_mean_and_standard_deviation_over_seeds(three_seeds):
    cell = cell_of(three_seeds, "peg")
    assert cell.seeds == (0, 1, 2)
    assert cell.mean == pytest.approx(68)
    assert cell.deviation == pytest.approx(52**0.5)  # (8² + 2² + 6²) / (3 - 1) = 52
    assert cell.padding_fraction == pytest.approx(0.25)


def test_retained_is_relative_to_each_seeds_accuracy_at_the_training_size(three_seeds):
    assert cell_of(three_seeds, "peg").retained == pytest.approx((75 + 87.5 + 74) / 3)
    assert cell_of(three_seeds, "peg", size=32).retained == pytest.approx(100)


def test_the_difference_to_learned_is_paired_by_seed(three_seeds):
    cell = cell_of(three_seeds, "peg")
    assert cell.difference == pytest.approx(18)  # 20, 20 and 14
    # standard deviation sqrt((2² + 2² + 4²) / 2) = sqrt(12), standard error sqrt(12 / 3) = 2, t at 2 degrees 4.303
    assert cell.interval == pytest.approx((18 - 2 * 4.303, 18 + 2 * 4.303), abs=1e-3)


def test_learned_is_not_compared_with_itself(three_seeds):
    cell = cell_of(three_seeds, "learned")
    assert (cell.difference, cell.interval) == (None, None)


def test_only_common_seeds_are_paired(three_seeds):
    rows = [row for row in three_seeds if (row.encoding, row.seed) != ("learned", 2)]
    cell = cell_of(rows, "peg")
    assert cell.difference == pytest.approx(20)
    assert cell.interval == pytest.approx((20, 20))


def test_a_single_seed_has_no_spread(three_seeds):
    cell = cell_of([row for row in three_seeds if row.seed == 0], "peg")
    assert (cell.mean, cell.difference) == (pytest.approx(60), pytest.approx(20))
    assert (cell.deviation, cell.interval) == (None, None)


def test_what_was_not_measured_is_none(make_row):
    cell = cell_of([make_row(size=48)], "peg")
    assert (cell.retained, cell.difference, cell.interval) == (None, None, None)


def test_a_seed_at_zero_accuracy_is_left_out_of_retained(make_row):
    rows = [make_row(size=size, seed=seed, correct=50 * seed) for size in (32, 48) for seed in (0, 1)]
    assert cell_of(rows, "peg").retained == pytest.approx(100)


def test_gap_is_compared_with_learned_of_the_same_pool_if_there_is_one(make_row):
    rows = [make_row(pool="gap", correct=70), make_row(encoding="learned", correct=60)]
    assert cell_of(rows, "peg", 32, "gap").difference == pytest.approx(10)
    rows.append(make_row(encoding="learned", pool="gap", correct=65))
    assert cell_of(rows, "peg", 32, "gap").difference == pytest.approx(5)
    assert cell_of(rows, "learned", 32, "gap").difference is None
    assert cell_of(rows, "learned", 32, "cls").difference is None


def test_protocols_are_not_mixed(make_row):
    rows = [make_row(correct=90), make_row(correct=30, protocol="resize")]
    assert [(cell.protocol, cell.mean) for cell in summarise(rows)] == [("canvas", 90), ("resize", 30)]


def test_the_order_of_cells_does_not_depend_on_the_order_of_rows(make_row):
    heads = [
        ("none", "cls"),
        ("learned", "cls"),
        ("learned", "gap"),
        ("rope", "cls"),
        ("peg", "cls"),
        ("learned+peg", "cls"),
    ]
    keys = [
        (protocol, *head, size) for protocol in ("canvas", "resize") for head in heads for size in (16, (8, 64), 96)
    ]
    rows = [make_row(protocol=protocol, encoding=name, pool=pool, size=size) for protocol, name, pool, size in keys]
    random.Random(0).shuffle(rows)
    assert [(cell.protocol, cell.encoding, cell.pool, cell.size) for cell in summarise(rows)] == keys


@pytest.mark.parametrize(
    ("values", "half"),
    [
        ([1.0, 3.0], 12.706),  # standard error sqrt(2 / 2) = 1; t at 1 degree of freedom
        ([1.0, 3.0, 2.0, 2.0, 2.0], 2.776 * 0.1**0.5),  # sqrt((1 + 1) / 4 / 5); t at 4 degrees
    ],
)
def test_the_interval_is_that_of_students_t(values, half):
    assert confidence_interval(values) == pytest.approx((2 - half, 2 + half), abs=1e-3)


@pytest.mark.parametrize(("correct", "total"), [(10, 20), (0, 10), (10, 10), (1, 3), (812, 3407)])
def test_wilsons_interval_is_that_of_scipy(correct, total):
    found = binomtest(correct, total).proportion_ci(method="wilson")
    assert wilson_interval(correct, total) == pytest.approx((found.low, found.high), abs=1e-6)


def test_one_seed_has_wilsons_interval_and_several_students(three_seeds):
    assert cell_of([row for row in three_seeds if row.seed == 0], "peg").accuracy_interval == pytest.approx(
        (50.20, 69.06), abs=0.01  # 60 of 100 images
    )  # fmt: skip
    cell = cell_of(three_seeds, "peg")
    assert cell.accuracy_interval == pytest.approx(confidence_interval([60, 70, 74]))


def uneven(make_row, correct, **values):
    """A row of a test of 60 and 40 images, in which so many of each class are classified correctly."""
    return make_row(correct=sum(correct), total=100, class_totals=(60, 40), class_correct=correct, **values)


def test_nothing_is_claimed_of_a_model_that_is_not_above_the_largest_class(make_row):
    rows = [
        uneven(make_row, correct, encoding=encoding, size=size)
        for encoding, at_training in (("learned", (55, 35)), ("peg", (58, 38)), ("rope", (60, 0)))
        for size, correct in ((32, at_training), (48, (60, 5)))
    ]
    for size in (32, 48):
        rope = cell_of(rows, "rope", size)
        assert (rope.collapsed, rope.majority) == ((0,), 60)
        assert (rope.retained, rope.difference, rope.interval) == (None, None, None)
        assert cell_of(rows, "peg", size).collapsed == ()
    assert cell_of(rows, "rope", 32).balanced == 50
    assert cell_of(rows, "peg").retained == pytest.approx(100 * 65 / 96)  # at 48 it may fall as low as it likes
    assert cell_of(rows, "peg", 32).difference == pytest.approx(6)
    assert tabulate(summarise(rows), "canvas").best == {32: 96, 48: 65}
    (warning,) = warnings_of(rows)
    assert warning.startswith("rope (canvas; seed 0): its accuracy is not clearly above that of always")


def test_nothing_is_claimed_relative_to_a_collapsed_baseline(make_row):
    rows = [uneven(make_row, (60, 1), encoding="learned"), uneven(make_row, (55, 35))]
    assert cell_of(rows, "peg", 32).difference is None
    assert cell_of(rows, "peg", 32).collapsed == ()


def test_a_model_is_above_the_largest_class_by_its_interval_in_every_seed(make_row):
    # the lower end of Wilson's interval of 69 of 100 is 59.4, of 70 is 60.4
    assert cell_of([uneven(make_row, (60, 9))], "peg", 32).collapsed == (0,)
    assert cell_of([uneven(make_row, (60, 10))], "peg", 32).collapsed == ()
    seeds = [uneven(make_row, correct, seed=seed) for seed, correct in enumerate([(60, 30), (60, 0), (60, 31)])]
    assert cell_of(seeds, "peg", 32).collapsed == (1,)


def test_rows_without_counts_of_classes_are_not_judged(make_row):
    assert cell_of([make_row(correct=1)], "peg", 32).collapsed == ()
    assert majority_shares(summarise([make_row()]), "canvas") == {}


def test_runs_that_started_elsewhere_are_different_models(make_row):
    rows = [make_row(), make_row(initial_weights="runs/a"), make_row(train_sizes=(24, 32))]
    assert [cell.label for cell in summarise(rows)] == [
        "peg", "peg (from runs/a)", "peg (trained at 24, 32)",
    ]  # fmt: skip
    assert "initialised from runs/a" in protocol_notes(rows)["peg (from runs/a)"]


@pytest.mark.parametrize("values", [[], [3.0]])
def test_below_two_values_there_is_no_interval(values):
    assert confidence_interval(values) is None


def test_csv_has_a_line_per_cell(make_row):
    rows = [make_row(encoding="learned", seed=seed, correct=50) for seed in (0, 1)]
    rows += [make_row(encoding="peg(at=(1, 2))", pool="gap", correct=75, fill=0.5, class_totals=(60, 40),
                      class_correct=(54, 20))]  # fmt: skip
    rows += [make_row(size=(48, 64), protocol="resize", correct=1, total=3)]
    assert as_csv(summarise(rows)).splitlines() == [
        "protocol,size,encoding,pool,seeds,accuracy_mean,accuracy_sd,retained_percent,"
        "difference_to_learned,difference_low,difference_high,padding_fraction,top5,images_per_second,"
        "peak_memory_mib,refused,"
        "accuracy_low,accuracy_high,accuracy_interval,balanced_accuracy,majority_class,scale_rule,scale,precision",
        "canvas,32,learned,cls,2,50.00,0.00,100.00,,,,0.00,,,,,50.00,50.00,student-t,,,,,fp32",
        'canvas,32,"peg(at=(1, 2))",gap,1,75.00,,100.00,25.00,,,0.50,,,,,65.70,82.45,wilson,70.00,60.00,,,fp32',
        "resize,48x64,peg,cls,1,33.33,,,,,,0.00,,,,,6.15,79.23,wilson,,,,,fp32",
    ]


def test_markdown_is_a_table_of_one_protocol_with_the_best_in_bold(make_row):
    rows = [make_row(encoding="learned", seed=seed, correct=50 + 2 * seed) for seed in (0, 1)]
    rows += [make_row(pool="gap", correct=50), make_row(pool="gap", correct=45, size=(48, 64))]
    rows += [make_row(protocol="resize", encoding="rope")]
    assert as_markdown(summarise(rows), "canvas").splitlines() == [
        "| canvas | 32 | 48x64 |",
        "|---|---:|---:|",
        "| learned | **51.0** ± 1.4 | – |",  # sqrt((1 + 1) / 1)
        "| peg · gap | 50.0 | 45.0 |",  # a single model is not the best
    ]


def test_labels():
    assert (size_label(48), size_label((48, 64))) == ("48", "48x64")
    assert (head_label("peg", "cls"), head_label("peg", "gap")) == ("peg", "peg · gap")


def test_a_size_is_drawn_at_the_square_of_its_area():
    assert (pixels(48), pixels((16, 64))) == (48, 32)


def test_two_tests_of_one_place_with_different_answers_are_warned_of(make_row):
    once = [make_row(encoding="peg", size=size, correct=80, hits="a") for size in (32, 48)]
    assert warnings_of([*once, *once]) == []
    again = [make_row(encoding="peg", size=48, correct=80, hits="b"), make_row(encoding="peg", size=48, seed=1)]
    (warning,) = warnings_of([*once, *again])
    assert warning.startswith("peg (canvas at 48; seed 0): tests with different answers")
    assert warnings_of([*once, *again], "resize") == []


def test_a_set_that_changed_between_tests_is_warned_of(make_row):
    before = [make_row(size=size) for size in (32, 48)]
    skipped = make_row(size=64, total=before[0].total - 3, skipped=3)
    refused = make_row(size=96, total=0, correct=0, refused="too large")
    assert warnings_of([*before, skipped, refused, make_row(data="another", total=9, correct=9)]) == []
    after = make_row(size=64, total=before[0].total + 2)
    (warning,) = warnings_of([*before, after])
    assert warning.startswith(
        "'digits' had 100 images (canvas at 48) and 102 images (canvas at 64): it changed between"
    )
    assert warnings_of([*before, after], "resize") == []


def test_models_of_other_libraries_trained_at_different_sizes_are_told_apart(make_row):
    rows = [
        make_row(model="timm:vit", encoding="control", pool="", correct=correct, train_size=32, train_sizes=sizes)
        for correct, sizes in ((80, ()), (60, (32, 48)))
    ]
    assert {cell.encoding: cell.mean for cell in summarise(rows)} == {
        "control (trained at 32)": 80, "control (trained at 32, 48)": 60,
    }  # fmt: skip


def test_a_seed_that_was_refused_is_left_out_and_named(make_row):
    rows = [make_row(seed=seed, size=64, correct=correct) for seed, correct in ((0, 40), (2, 60))]
    rows.append(make_row(seed=1, size=64, correct=0, total=0, refused="logits are nan"))
    (cell,) = summarise(rows)
    assert (cell.mean, cell.seeds, cell.left_out, cell.refused) == (50.0, (0, 2), (1,), None)
    assert any("canvas at 64): seed 1 refused, and all numbers are of seeds 0, 2" in each for each in warnings_of(rows))


def test_a_size_that_every_seed_was_refused_is_refused(make_row):
    (cell,) = summarise([make_row(seed=seed, correct=0, total=0, refused="logits are nan") for seed in (0, 1)])
    assert (cell.refused, cell.seeds, cell.deviation, cell.left_out) == ("logits are nan", (0, 1), None, ())
