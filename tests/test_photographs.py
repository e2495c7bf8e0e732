"""The tables of docs/photographs.md, for rows whose answers a reader can count."""

import runpy
from pathlib import Path

TABLES = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "results" / "tables.py"))


def test_rows_of_before_there_was_a_scale_give_way_to_those_that_say_what_was_told(make_row):
    old = [make_row(encoding="peg", seed=seed, correct=50) for seed in (0, 1)]
    new = [make_row(encoding="peg", seed=0, correct=60, scale_rule=rule) for rule in ("paper", "protocol")]
    kept = TABLES["as_published"]({"scenes": [*new, *old]})["scenes"]
    assert {(row.seed, row.scale_rule): row.correct for row in kept} == {(0, "paper"): 60, (1, "paper"): 50}
