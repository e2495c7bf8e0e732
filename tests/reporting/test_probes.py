"""The page of probes says what the probe_results say, for one model or several, whatever is missing."""

import re

import numpy as np
import pytest

from cpvt.reporting import report
from cpvt.reporting.probe_figures import border_figure, depth_figure, longer_figure, palette, tiles_figure
from cpvt.reporting.probe_index import Line, ProbeIndex, plain
from cpvt.reporting.probes import report_probes
from cpvt.reporting.terminal import print_probe_results
from cpvt.results.folders import ARRAYS, PROBE_RESULTS, probe_attention_file
from cpvt.results.probe_results import ProbeResult
from cpvt.runtime.files import append_rows


def probe_result(probe, measure, value, *, model="runs/peg-cls", case="", baseline="model", depth=None, images="noise", size=32,
            words=""):  # fmt: skip
    return ProbeResult(model, "digits", probe, measure, case, baseline, depth, images, size, 0, value, None, 8, words)


@pytest.fixture
def probe_results():
    found = [probe_result("baselines", "untrained", None, baseline="untrained", words="no <module>", images="")]
    for model, score in (("runs/rope-cls", 0.61), ("runs/peg-cls", 0.87)):
        for baseline, share in (("model", 1.0), ("none", 0.01)):
            for depth in (1, 2):
                about = {"model": model, "baseline": baseline, "depth": depth}
                found += [probe_result("position", "r2", score * share / depth, **about)]
                found += [
                    probe_result("position", "border error", ring + score, case=f"distance {ring}", **about)
                    for ring in (0, 1)
                ]
                found += [
                    probe_result("position", "border guess", ring + 1, case=f"distance {ring}", **about)
                    for ring in (0, 1)
                ]
            found += [probe_result("longer", "r2", score * share * 32 / size, model=model, baseline=baseline, depth=2, case=case, size=size)
                      for size in (32, 64) for case in ("scaled", "absolute")]  # fmt: skip
            found += [probe_result("translation", "same prediction", score, model=model, baseline=baseline, case="crop, 1 patch", images="natural")]  # fmt: skip
    return found


def test_findings_alone_make_a_page_of_their_own(tmp_path, probe_results):
    append_rows(tmp_path / PROBE_RESULTS, [each.as_json() for each in probe_results])
    assert report(tmp_path) == tmp_path / "probes.html"
    page = (tmp_path / "probes.html").read_text()
    row = re.search(r"<tr><th scope=row>peg</th>(.*?)</tr>", page)[1]
    assert re.findall("<td>(.*?)</td>", row) == ["–", "–", "–", "0.43", "–", "–"]  # of the last depth: 0.87 / 2
    assert "<b>87 %</b>" in page
    assert "no &lt;module&gt;" in page
    assert page.count("Not measured.") == 4  # order, Islam, attention, its tiles
    assert not re.search(r'(src|href)="http', page)


def test_rows_and_findings_make_two_pages_and_nothing_an_error(tmp_path, probe_results, make_row):
    with pytest.raises(ValueError, match="holds no rows"):
        report(tmp_path)
    append_rows(tmp_path / "rows.jsonl", [make_row()])
    append_rows(tmp_path / PROBE_RESULTS, [each.as_json() for each in probe_results])
    assert report(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "probes.html").exists()


def test_findings_of_several_folders_make_one_page(tmp_path, probe_results):
    for number, model in enumerate(("runs/peg-cls", "runs/rope-cls")):
        lines = [each.as_json() for each in probe_results if each.model == model]
        append_rows(tmp_path / str(number) / PROBE_RESULTS, lines)
    page = report_probes(tmp_path / "0", tmp_path / "1", out=tmp_path / "page")
    assert page == tmp_path / "page" / "probes.html"
    assert all(f"<th scope=row>{name}</th>" in page.read_text() for name in ("peg", "rope"))
    assert report(tmp_path / "0", tmp_path / "1", out=tmp_path / "whole") == tmp_path / "whole" / "probes.html"
    assert (tmp_path / "whole" / "probes.html").read_text() == page.read_text()
    assert report_probes(tmp_path) is None


def test_figures_draw_the_numbers(probe_results):
    probed = ProbeIndex(probe_results)
    peg = probed.lines.index(Line("runs/peg-cls", "model"))
    for figure, x, y in (
        (depth_figure(probed), [1, 2], [0.87, 0.435]),
        (border_figure(probed), [0, 1], [0.87, 1.87]),
        (longer_figure(probed), [32, 64], [0.87, 0.435]),
    ):
        line = figure.axes[0].get_lines()[peg]
        assert line.get_label() == "peg"
        np.testing.assert_allclose(line.get_xdata(), x)
        np.testing.assert_allclose(line.get_ydata(), y)
    guess = border_figure(probed).axes[0].get_lines()[-1]
    assert list(guess.get_ydata()) == [1, 2]


def test_tiles_are_drawn_of_what_was_saved(tmp_path, probe_results):
    probed = ProbeIndex(probe_results)
    assert tiles_figure(probed, [tmp_path]) is None
    (tmp_path / ARRAYS).mkdir()
    np.save(tmp_path / ARRAYS / probe_attention_file("runs/peg-cls", "none"), np.eye(6).reshape(2, 3, 2, 3))
    figure = tiles_figure(probed, [tmp_path])
    (panel,) = (axes for axes in figure.axes if axes.images)
    assert panel.get_title() == "peg · encoding off"
    assert panel.images[0].get_array().shape == (2 * 3 - 1, 3 * 4 - 1)


def test_models_are_called_by_what_tells_them_apart():
    def labels(*names):
        return list(ProbeIndex([probe_result("order", "r2", 1.0, model=name) for name in names]).labels.values())

    assert labels("runs/peg-cls-seed0", "runs/none-cls-seed0") == ["none", "peg"]
    assert labels("a/peg-seed0") == ["peg-seed0"]
    assert labels("a/peg", "b/peg") == ["a/peg", "b/peg"]
    assert labels("a/peg-cls-seed0", "a/peg-gap-seed0") == ["peg-cls", "peg-gap"]


def test_every_model_has_a_colour_of_its_own(probe_results):
    names = ["runs/peg-a", "runs/peg-b", "timm:vit", "runs/rope-a", "hf:x"]
    colours = palette(ProbeIndex([probe_result("order", "r2", 1.0, model=name) for name in names]))
    assert len(set(colours.values())) == len(names)
    assert colours["runs/rope-a"] == "#cc79a7"


def test_numbers_in_words():
    assert [plain(value) for value in (None, 0.0, 1e-6, -0.001, -0.5, 1.005)] == [
        "–",
        "0",
        "0",
        "0.00",
        "−0.50",
        "1.00",
    ]
    assert plain(0.123, percent=True) == "12 %"


def test_the_terminal_shows_each_twin_and_what_is_missing(capsys, probe_results):
    print_probe_results(probe_results)
    said = capsys.readouterr().out
    assert re.search(r"as it is +encoding off", said)
    assert re.search(r"row and column: R² +0\.43 +0\.00", said)
    assert "not measured: peg · untrained: baselines (untrained): no <module>" in said
