"""Tables in the terminal: intervals, balanced accuracy and the largest class."""

from cpvt.reporting.terminal import print_tables


def test_the_terminal_prints_intervals_balanced_accuracy_and_a_warning(make_row, capsys):
    counts = {"correct": 60, "class_totals": (60, 40), "class_correct": (60, 0)}
    print_tables([make_row(**counts), make_row(protocol="resize", seed=0), make_row(protocol="resize", seed=1)])
    canvas, _, resize = " ".join(capsys.readouterr().out.split()).partition("accuracy, %, resize")
    assert "peg │ 60.0 [50.2, 69.1]" in canvas
    assert "largest class │ 60.0" in canvas
    assert "95 % interval over images by Wilson" in canvas
    assert "balanced accuracy, % (mean over classes)" in canvas
    assert "peg │ 50.0" in canvas
    assert "warning: peg (canvas; seed 0): its accuracy is not clearly above that of always" in canvas
    assert "peg │ 50.0 ± 0.0" in resize
    assert not [word for word in ("Wilson", "balanced", "largest", "warning") if word in resize]


def test_balanced_accuracy_that_is_nearly_the_accuracy_is_not_printed(make_row, capsys):
    print_tables([make_row(correct=90, class_totals=(51, 49), class_correct=(46, 44))])  # 90.0 and 90.0
    print_tables([make_row(correct=83, class_totals=(55, 45), class_correct=(50, 33))])  # 83.0 and 82.1
    assert "balanced" not in capsys.readouterr().out
    print_tables([make_row(correct=83, class_totals=(60, 40), class_correct=(54, 29))])  # 83.0 and 81.3
    assert "balanced accuracy" in capsys.readouterr().out
