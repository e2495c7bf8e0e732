"""Text of figures and pages is shown as it is written: names of classes, models and folders are no mathematics."""

import xml.dom.minidom

import numpy as np
import pytest
from matplotlib.text import Text

from cpvt.reporting import report
from cpvt.reporting.curves import Epoch, curves_figure
from cpvt.reporting.figures import accuracy_figure, as_bytes, attention_figure, drawable
from cpvt.reporting.probe_figures import border_figure, depth_figure, distance_figure, longer_figure, shift_figure
from cpvt.reporting.probe_figures import tiles_figure as tiles
from cpvt.reporting.probe_index import ProbeIndex
from cpvt.reporting.summary import summarise
from cpvt.reporting.terminal import print_probe_results, print_tables
from cpvt.results.folders import ARRAYS, PROBE_RESULTS, probe_attention_file
from cpvt.results.probe_results import ProbeResult
from cpvt.runtime.files import append_rows

NAMES = ["cost $5 a$", "$x^2$", "a_b^c\\d", "$\\frac{", "_hidden", "猫", "100%", "--", "<!-- x -->", "[red]:cat:"]


def results_of(model):
    """A result of every figure of the probes."""
    about = [("position", "r2", "", 1), ("position", "border error", "distance 0", 1), ("longer", "r2", "scaled", 1),
             ("translation", "token error", "crop, 1 patch", 1), ("attention", "distance", "head 0", 1),
             ("attention", "distance", "uniform", 1)]  # fmt: skip
    return [ProbeResult(model, "digits", *each[:3], "model", each[3], "noise", 32, 0, 0.5) for each in about]


def figures(name, make_row, folder):
    """Every figure that the package draws, of things with this name."""
    probed = ProbeIndex(results_of(name))
    (folder / ARRAYS).mkdir(exist_ok=True)
    np.save(folder / ARRAYS / probe_attention_file(name, "model"), np.eye(6).reshape(2, 3, 2, 3))
    profile = {"encoding": name, "pool": "cls", "grid": [2, 3], "sample_class": name}
    yield accuracy_figure(summarise([make_row(encoding=name, data=name)]), [32])
    yield curves_figure([Epoch(name, "cls", 0, 1, 1.0, 0.5)])
    yield attention_figure([profile], [np.eye(6)], np.zeros((1, 8, 12)))
    for draw in (depth_figure, border_figure, longer_figure, shift_figure, distance_figure):
        yield draw(probed)
    yield tiles(probed, [folder])


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_draws_names_as_they_are(name, make_row, tmp_path):
    for figure in figures(name, make_row, tmp_path):
        for kind in ("svg", "png"):
            content = as_bytes(figure, kind)
            assert kind == "png" or xml.dom.minidom.parseString(content)
        found = [text for text in figure.findobj(Text) if name in text.get_text()]
        assert found
        assert not any(text.get_parse_math() for text in figure.findobj(Text))


def test_what_a_file_cannot_hold_is_drawn_as_a_replacement(make_row, tmp_path):
    assert drawable("a\x1b\udcff b\nc") == "a�� b\nc"
    for figure in figures("a\x1b\udcff", make_row, tmp_path):
        assert xml.dom.minidom.parseString(as_bytes(figure, "svg"))


def test_pages_and_terminal_show_names_as_they_are(make_row, tmp_path, capsys):
    name = "[red]:cat: $x^2$ \\_"
    rows, results = [make_row(encoding=name)], results_of(name)
    append_rows(tmp_path / "rows.jsonl", rows)
    append_rows(tmp_path / PROBE_RESULTS, [each.as_json() for each in results])
    assert name in report(tmp_path).read_text()
    assert name in (tmp_path / "probes.html").read_text()
    print_tables(rows)
    print_probe_results(results)
    assert " ".join(capsys.readouterr().out.split()).count(name) == 2


def test_a_page_of_names_that_are_no_text_is_written(make_row, tmp_path):
    append_rows(tmp_path / "rows.jsonl", [make_row(encoding="a\udcff")])
    assert "<th scope=row>a?</th>" in report(tmp_path).read_text()
