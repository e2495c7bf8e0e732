"""The claims of docs/results/tables.py: signs and quotes against the paper's table, verdicts by hand."""

import runpy
from pathlib import Path

import pytest

from cpvt.reporting.contrasts import Contrast

TABLES = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "results" / "tables.py"))
# Chu et al., arXiv 2102.10882: top-1 of tiny models at 224, 384, 448 and 512 pixels, here 1, 1.5, 2 and 3 times
PAPER = {
    "none": {1: 68.2},
    "relative": {1: 70.5},
    "sincos": {1: 72.3},
    "learned": {1: 72.2, 1.5: 71.2, 2: 68.8, 3: 65.9},
    "peg": {1: 72.4, 1.5: 73.2, 2: 71.8, 3: 70.3},
    "peg5": {1: 73.4, 2: 72.6},
    "peg5 · gap": {1: 74.9},
    "learned+peg": {1: 72.9},
    "peg(at=(0,))": {1: 70.6},
    "peg(at=(4,))": {1: 72.4},
    "peg(frozen=True)": {1: 71.3},
    "peg5(kernel_size=1)": {1: 68.6},
    **{f"peg(padding_mode='{mode}')": {1: 70.5} for mode in ("reflect", "replicate", "circular")},
}


def quoted(claims):
    """The claims whose numbers are in the paper."""
    return [claim for claim in claims if all(times in PAPER.get(label, ()) for label, times, _ in claim.terms)]


@pytest.mark.parametrize(("name", "least"), [("CLAIMS", 17), ("ABLATIONS", 10)])
def test_every_claim_agrees_with_the_paper_and_quotes_it(name, least):
    claims = quoted(TABLES[name])
    assert len(claims) >= least
    for claim in claims:
        points = sum(sign * PAPER[label][times] for label, times, sign in claim.terms)
        assert float(claim.paper.split()[0]) == pytest.approx(points, abs=0.01), claim.words
        assert points > 0 or claim.alike, claim.words


@pytest.mark.parametrize(
    ("low", "high", "above", "alike"),
    [
        (0.1, 3.0, "holds", "undecided"),
        (-3.0, -0.1, "does not", "undecided"),
        (-0.9, 0.9, "undecided", "holds"),
        (1.1, 2.0, "holds", "does not"),
        (-2.0, -1.1, "does not", "does not"),
        (-5.0, 5.0, "undecided", "undecided"),
    ],
)
def test_verdicts_follow_from_intervals(low, high, above, alike):
    found = Contrast((low + high) / 2, low, high, 3, 100)
    verdicts = [TABLES["verdict"](found, each).split("<br>")[0] for each in (False, True)]
    assert verdicts == [above, alike]
    assert TABLES["verdict"](found._replace(seeds=1), False).split("<br>")[0] == f"{above}, one seed"
    assert TABLES["verdict"](None, False) == "–"
