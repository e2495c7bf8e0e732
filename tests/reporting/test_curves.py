"""Training curves: gathered from runs, stored after runs are deleted, drawn as means over seeds."""

import json
import shutil

import numpy as np
import pytest

from cpvt.reporting import report
from cpvt.reporting.curves import Epoch, curves_figure, gather_curves, mean_curve
from cpvt.runtime.files import append_rows, write_json


def write_run(folder, encoding, seed, losses, **columns):
    """Write the record and history of a training."""
    origin = {"versions": {}, "commit": None, "command": "cpvt train", "machine": "Linux", "gpu": None}
    record = {"model": {"encoding": encoding, "global_pool": "token"}, "training": {"seed": seed, "optim": {}},
              "provenance": origin}  # fmt: skip
    write_json(folder / "checkpoint.json", record)
    lines = [
        {"epoch": number, "loss": loss, "accuracy": 0.1 * number}
        | {name: values[number - 1] for name, values in columns.items()}
        for number, loss in enumerate(losses, start=1)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def compared(tmp_path, make_row):
    """A folder of a comparison: rope with one seed, learned with two, one of them unfinished."""
    append_rows(tmp_path / "rows.jsonl", [make_row(encoding=name, size=32) for name in ("learned", "rope")])
    write_run(tmp_path / "runs" / "rope", "rope", 0, [3.0, 1.5])
    write_run(tmp_path / "runs" / "a", "learned", 0, [2.0, 1.0], test_accuracy=[None, 0.5])
    write_run(tmp_path / "runs" / "b", "learned", 1, [4.0])
    with (tmp_path / "runs" / "b" / "history.jsonl").open("a") as file:
        file.write('{"epoch": 2, "lo')
    return tmp_path


def losses(epochs):
    return [(each.label, each.pool, each.seed, each.epoch, each.loss) for each in epochs]


EXPECTED = [
    ("learned", "cls", 0, 1, 2.0), ("learned", "cls", 0, 2, 1.0), ("learned", "cls", 1, 1, 4.0),
    ("rope", "cls", 0, 1, 3.0), ("rope", "cls", 0, 2, 1.5),
]  # fmt: skip


def test_the_epochs_of_all_runs_are_gathered_in_the_order_of_the_table(compared):
    assert losses(gather_curves([compared])) == EXPECTED


def test_stored_curves_outlive_their_runs_and_a_new_run_replaces_them(compared, tmp_path):
    kept = tmp_path / "kept"
    report(compared, out=kept)
    shutil.copy(compared / "rows.jsonl", kept)
    shutil.rmtree(compared / "runs")
    assert losses(gather_curves([kept])) == EXPECTED
    before = (kept / "curves.svg").read_bytes()
    report(kept)
    assert (kept / "curves.svg").read_bytes() == before
    write_run(kept / "runs" / "c", "rope", 0, [9.0])
    assert losses(gather_curves([kept])) == [*EXPECTED[:3], ("rope", "cls", 0, 1, 9.0)]


def test_the_page_shows_curves_if_there_are_any(compared):
    assert "Training curves" in report(compared).read_text()
    (compared / "curves.jsonl").unlink()
    shutil.rmtree(compared / "runs")
    assert "Training curves" not in report(compared).read_text()


def test_a_single_run_has_curves(tmp_path, make_row):
    append_rows(tmp_path / "rows.jsonl", [make_row()])
    write_run(tmp_path, "peg", 3, [2.0, 1.0])
    report(tmp_path)
    assert losses(gather_curves([tmp_path])) == [("peg", "cls", 3, 1, 2.0), ("peg", "cls", 3, 2, 1.0)]
    assert (tmp_path / "curves.svg").exists()


def test_curves_of_several_folders_are_not_stored(compared, tmp_path, make_row):
    write_run(tmp_path / "other", "peg", 0, [1.0])
    append_rows(tmp_path / "other" / "rows.jsonl", [make_row()])
    report(compared, tmp_path / "other", out=tmp_path / "both")
    assert {path.name for path in (tmp_path / "both").glob("curves.*")} == {"curves.svg"}


def test_a_line_is_the_mean_over_seeds_that_reached_the_epoch():
    epochs = [Epoch("peg", "cls", seed, epoch, loss, loss / 10) for seed, epoch, loss in
              ((0, 1, 4.0), (1, 1, 2.0), (0, 2, 1.0))]  # fmt: skip
    x, y, spread = mean_curve(epochs, "loss")
    assert (x, y) == ([1, 2], [3.0, 1.0])
    assert spread == pytest.approx([2**0.5, 0])
    assert mean_curve(epochs, "accuracy")[1] == pytest.approx([30, 10])
    assert mean_curve(epochs, "test_accuracy") == ([], [], [])


def test_a_panel_for_each_measure_and_a_line_for_each_head(compared):
    epochs = [*gather_curves([compared]), Epoch("rope", "gap", 0, 1, 2.5, 0.3)]
    panels = curves_figure(epochs).axes
    assert [panel.get_title(loc="left").split(",")[0] for panel in panels] == [
        "loss in training", "accuracy in training", "accuracy in tests",
    ]  # fmt: skip
    lines = {line.get_label(): line for line in panels[0].get_lines()}
    assert list(lines) == ["learned", "rope", "rope · gap"]
    np.testing.assert_allclose(lines["learned"].get_ydata(), [3.0, 1.0])
    assert lines["rope · gap"].get_linestyle() == "--"
    tested = {line.get_label(): list(line.get_ydata()) for line in panels[2].get_lines()}
    assert tested == {"learned": [50.0], "rope": [], "rope · gap": []}
