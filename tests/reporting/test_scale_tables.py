"""Tables of models that were given the object scale in several ways."""

from cpvt.reporting.scale_tables import before_after


def test_before_and_after_are_of_the_seeds_tested_both_ways(make_row):
    counts = {("peg", "protocol", 0): 80, ("peg", "protocol", 1): 20, ("peg", "paper", 0): 60,
              ("rope", "protocol", 0): 90, ("peg5", "protocol", 0): 50, ("peg5", "protocol", 1): 70,
              ("peg5", "paper", 0): 30, ("peg5", "paper", 1): 50}  # fmt: skip
    rows = [
        make_row(encoding=name, protocol="resize", size=64, seed=seed, scale_rule=rule, correct=right, total=100)
        for (name, rule, seed), right in counts.items()
    ]
    lines = before_after(rows, "resize", [64, 96]).splitlines()[2:]
    assert lines == ["| `peg` | 60.0 → 80.0 | – → – |", "| `peg5` | 40.0 ± 14.1 → 60.0 ± 14.1 | – → – |"]
    assert before_after(rows, "canvas", [64]) == ""
