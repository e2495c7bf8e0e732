"""The page of probes: correct numbers for one model or several, whatever is missing."""

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


def probe_result(probe, measure, value, **fields):
    defaults = {"model": "runs/peg-cls", "data": "digits", "case": "", "baseline": "model", "depth": None,
                "images": "noise", "size": 32, "seed": 0, "count": 8}  # fmt: skip
    return ProbeResult(probe=probe, measure=measure, value=value, **defaults | fields)


@pytest.fixture
def probe_results():
    found = [probe_result("baselines", "untrained", None, baseline="untrained", words="no <module>", images="")]
    for model, score in (("runs/rope-cls", 0.61), ("runs/peg-cls", 0.87)):
        for baseline, factor in (("model", 1.0), ("none", 0.01)):
            line = {"model": model, "baseline": baseline}
            for depth in (1, 2):
                found.append(probe_result("position", "r2", score * factor / depth, depth=depth, **line))
                for measure, offset in (("border error", score), ("border guess", 1)):
                    found += [
                        probe_result("position", measure, ring + offset, case=f"distance {ring}", depth=depth, **line)
                        for ring in (0, 1)
                    ]
            found += [
                probe_result("longer", "r2", score * factor * 32 / size, depth=2, case=case, size=size, **line)
                for size in (32, 64)
                for case in ("scaled", "absolute")
            ]
            stable = {"case": "crop, 1 patch", "images": "natural"}
            found.append(probe_result("translation", "same prediction", score, **stable, **line))
    return found


def test_probe_results_alone_make_a_page(tmp_path, probe_results):
    append_rows(tmp_path / PROBE_RESULTS, [each.as_json() for each in probe_results])
    assert report(tmp_path) == tmp_path / "probes.html"
    page = (tmp_path / "probes.html").read_text()
    row = re.search(r"<tr><th scope=row>peg</th>(.*?)</tr>", page)[1]
    assert re.findall("<td>(.*?)</td>", row) == ["–", "–", "–", "0.43", "–", "–"]  # of the last depth: 0.87 / 2
    assert "<b>87 %</b>" in page
    assert "no &lt;module&gt;" in page
    assert page.count("Not measured.") == 4  # order, Islam, attention, its tiles
    assert not re.search(r'(src|href)="http', page)


def test_rows_and_probe_results_make_two_pages_and_an_empty_folder_is_refused(tmp_path, probe_results, make_row):
    with pytest.raises(ValueError, match="holds no rows"):
        report(tmp_path)
    append_rows(tmp_path / "rows.jsonl", [make_row()])
    append_rows(tmp_path / PROBE_RESULTS, [each.as_json() for each in probe_results])
    assert report(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "probes.html").exists()


def test_probe_results_of_several_folders_make_one_page(tmp_path, probe_results):
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


def test_tiles_show_saved_attention(tmp_path, probe_results):
    probed = ProbeIndex(probe_results)
    assert tiles_figure(probed, [tmp_path]) is None
    (tmp_path / ARRAYS).mkdir()
    np.save(tmp_path / ARRAYS / probe_attention_file("runs/peg-cls", "none"), np.eye(6).reshape(2, 3, 2, 3))
    figure = tiles_figure(probed, [tmp_path])
    (panel,) = (axes for axes in figure.axes if axes.images)
    assert panel.get_title() == "peg · encoding off"
    assert panel.images[0].get_array().shape == (2 * 3 - 1, 3 * 4 - 1)


def test_labels_are_the_distinguishing_part_of_names():
    def labels(*names):
        return list(ProbeIndex([probe_result("order", "r2", 1.0, model=name) for name in names]).labels.values())

    assert labels("runs/peg-cls-seed0", "runs/none-cls-seed0") == ["none", "peg"]
    assert labels("a/peg-seed0") == ["peg-seed0"]
    assert labels("a/peg", "b/peg") == ["a/peg", "b/peg"]
    assert labels("a/peg-cls-seed0", "a/peg-gap-seed0") == ["peg-cls", "peg-gap"]


def test_every_model_has_its_own_colour(probe_results):
    names = ["runs/peg-a", "runs/peg-b", "timm:vit", "runs/rope-a", "hf:x"]
    colours = palette(ProbeIndex([probe_result("order", "r2", 1.0, model=name) for name in names]))
    assert len(set(colours.values())) == len(names)
    assert colours["runs/rope-a"] == "#cc79a7"


def test_numbers_as_text():
    assert [plain(value) for value in (None, 0.0, 1e-6, -0.001, -0.5, 1.005)] == [
        "–",
        "0",
        "0",
        "0.00",
        "−0.50",
        "1.00",
    ]
    assert plain(0.123, percent=True) == "12 %"


def test_the_terminal_shows_each_baseline_and_what_is_missing(capsys, probe_results):
    print_probe_results(probe_results)
    said = capsys.readouterr().out
    assert re.search(r"as it is +encoding off", said)
    assert re.search(r"row and column: R² +0\.43 +0\.00", said)
    assert "not measured: peg · untrained: baselines (untrained): no <module>" in said
