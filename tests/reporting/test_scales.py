"""Rows of one model given the scale in several ways stay apart, each with its own words, everywhere in a report."""

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from cpvt.encodings import TABLE as ENCODINGS
from cpvt.reporting import gather, report, summarise
from cpvt.reporting.classes import by_class
from cpvt.reporting.contrasts import Contrasts
from cpvt.reporting.figures import accuracy_figure
from cpvt.reporting.labels import label_of, protocol_notes
from cpvt.reporting.pairs import paired_differences
from cpvt.reporting.scales import scale_note, shared_scales
from cpvt.reporting.summary import as_csv, as_markdown, collapsed_seeds, tabulate
from cpvt.reporting.terminal import print_tables
from cpvt.results.rows import pack_hits
from cpvt.runtime.files import append_rows

EXTERNAL = {"model": "timm:vit", "encoding": "", "pool": ""}
CORRECT = {  # by encoding and rule, at 32 and 64 pixels, of 100 images
    ("learned", "protocol"): (80, 60), ("learned", "paper"): (80, 40),
    ("peg", "protocol"): (90, 81), ("peg", "paper"): (90, 45), ("peg", ""): (90, 36),
}  # fmt: skip


def row_at(make_row, rule, size, correct, **values):
    """A row under resize, trained at 32 pixels, as a test that given the scale by this rule writes it."""
    scale = None if rule == "" else (1.0, 1.0) if rule in ("paper", "pixels") else (size / 32, size / 32)
    hits = [number < correct for number in range(100)]
    values = {"protocol": "resize", "scale_rule": rule, "scale": scale, "hits": pack_hits(hits), **values}
    return make_row(size=size, correct=correct, **values)


@pytest.fixture
def several(make_row):
    return [row_at(make_row, rule, size, correct - seed, encoding=encoding, seed=seed)
            for (encoding, rule), counts in CORRECT.items()
            for size, correct in zip((32, 64), counts) for seed in (0, 1)]  # fmt: skip


def test_rows_of_several_scale_rules_are_never_averaged_or_replaced(several):
    cells = {(cell.label, cell.size): cell for cell in summarise(several)}
    assert list(dict.fromkeys(label for label, _ in cells)) == [
        "learned", "learned (paper)", "peg", "peg (no scale)", "peg (paper)",
    ]  # fmt: skip
    assert [cells[label, 64].mean for label in ("peg", "peg (no scale)", "peg (paper)")] == [80.5, 35.5, 44.5]
    assert all(cell.seeds == (0, 1) for cell in cells.values())
    assert tabulate(summarise(several), "resize").lines["peg (paper)"][1].mean == 44.5
    assert "| peg (no scale) | **89.5** ± 0.7 | 35.5 ± 0.7 |" in as_markdown(summarise(several), "resize")


@pytest.mark.parametrize("rule", ["", "paper", "protocol", "fit", "auto", "2"])
def test_rows_that_are_all_of_one_scale_rule_have_plain_labels(make_row, rule):
    rows = [row_at(make_row, rule, 64, 50), row_at(make_row, rule, 64, 50, pool="gap"), make_row(**EXTERNAL)]
    assert [label_of(row, rows) for row in rows] == ["peg", "peg · gap", "timm:vit"]


def test_each_scale_rule_has_its_words(make_row):
    rules = ["protocol", "", "paper", "fit", "auto", "2", "fit*0.9", "1.5x2"]
    rows = [row_at(make_row, rule, 64, 50, pool="gap") for rule in rules]
    words = ["", " (no scale)", " (paper)", *(f" (scale {rule})" for rule in rules[3:])]
    assert [label_of(row, rows) for row in rows] == [f"peg · gap{each}" for each in words]


def test_rows_of_two_precisions_are_kept_apart_and_compared_among_themselves(make_row):
    counts = {"seed": 0, "pool": "cls"}
    plain = [row_at(make_row, "protocol", size, correct, **counts) for size, correct in ((32, 80), (64, 60))]
    half = [replace(row, precision="bf16", correct=row.correct - 10) for row in plain]
    cells = {(cell.label, cell.size): cell for cell in summarise(half + plain)}
    assert list(cells) == [("peg", 32), ("peg", 64), ("peg (bf16)", 32), ("peg (bf16)", 64)]
    assert [cell.retained for cell in cells.values()] == pytest.approx([100, 75, 100, 100 * 50 / 70])
    assert label_of(half[0], half) == "peg"  # alone it needs no mark: the note says it
    assert protocol_notes(half)["all"].startswith("zero-shot, trained at 32, computed in bf16, ")
    assert label_of(replace(half[0], scale_rule="2"), [*half, *plain]) == "peg (scale 2, bf16)"
    assert [line.split(",")[-1] for line in as_csv(summarise(plain + half)).split()] == ["precision", *["fp32"] * 2,
                                                                                         *["bf16"] * 2]  # fmt: skip


def test_models_that_take_no_scale_have_no_mark_unless_they_were_given_one_elsewhere(several, make_row):
    external = [make_row(**EXTERNAL, protocol="resize"), make_row(**{**EXTERNAL, "model": "hf:vit"})]
    assert [label_of(row, several + external) for row in external] == ["timm:vit", "hf:vit"]
    external.append(row_at(make_row, "protocol", 64, 70, **EXTERNAL))  # with PEGs in it
    labels = [label_of(row, several + external) for row in external]
    assert labels == ["timm:vit (no scale)", "hf:vit", "timm:vit"]


def test_accuracies_are_compared_among_rows_of_one_scale_rule(several, make_row):
    cells = {(cell.label, cell.size): cell for cell in summarise(several)}
    assert cells["peg", 64].difference == pytest.approx(21)
    assert cells["peg (paper)", 64].difference == pytest.approx(5)
    assert cells["peg (no scale)", 64].difference is None  # learned was not tested so
    assert cells["peg (no scale)", 32].difference == pytest.approx(10)  # at the training size rules agree
    at_two = [row_at(make_row, "2", 32, 70, seed=seed) for seed in (0, 1)]  # but not with a number
    assert [cell.difference for cell in summarise(several + at_two) if cell.scale_rule == "2"] == [None]
    assert cells["learned (paper)", 32].difference is None
    assert cells["peg", 64].retained == pytest.approx(50 * (81 / 90 + 80 / 89))
    assert cells["peg (paper)", 64].retained == pytest.approx(50 * (45 / 90 + 44 / 89))


def test_the_accuracy_at_the_training_size_may_be_of_another_rule_where_rules_agree(make_row):
    rows = [row_at(make_row, "protocol", 32, 80), row_at(make_row, "paper", 64, 40), row_at(make_row, "2", 64, 60)]
    retained = {cell.label: cell.retained for cell in summarise(rows)}
    assert retained == {"peg": 100, "peg (paper)": 50, "peg (scale 2)": 75}
    for unlike in (row_at(make_row, "2", 32, 80), row_at(make_row, "protocol", 32, 80, protocol="native", scale=None)):
        rows = [unlike, row_at(make_row, "paper", 64, 40, protocol=unlike.protocol)]
        assert {cell.label: cell.retained for cell in summarise(rows)}["peg (paper)"] is None


def test_each_seed_finds_its_accuracy_at_the_training_size(make_row):
    rows = [row_at(make_row, "paper", 64, correct, seed=seed) for seed, correct in ((0, 60), (1, 40))]
    rows += [row_at(make_row, "protocol", 32, 80, seed=0), row_at(make_row, "paper", 32, 80, seed=1)]
    rows += [row_at(make_row, "protocol", 32, 80, seed=0, encoding="learned")]
    rows += [row_at(make_row, "paper", 32, 90, seed=1, encoding="learned")]
    cells = {(cell.label, cell.size): cell for cell in summarise(rows)}
    assert cells["peg (paper)", 64].retained == pytest.approx(50 * (60 / 80 + 40 / 80))
    assert cells["peg (paper)", 32].difference == pytest.approx(-10)
    more = [*rows, row_at(make_row, "paper", 64, 50, seed=2)]  # not tested at the training size
    assert {cell.label: cell.retained for cell in summarise(more) if cell.size == 64} == {"peg (paper)": None}


def test_models_that_take_no_scale_are_compared_with_the_baseline_as_it_was_tested(several, make_row):
    external = [make_row(**EXTERNAL, protocol="resize", size=64, correct=70, seed=seed) for seed in (0, 1)]
    assert [cell.difference for cell in summarise(several + external) if not cell.pool] == [pytest.approx(10.5)]
    without = [row for row in several if row.scale_rule != "protocol"]
    assert [cell.difference for cell in summarise(without + external) if not cell.pool] == [pytest.approx(30.5)]


def test_a_model_is_judged_at_the_training_size_whatever_its_scale_rule_was_there(make_row):
    counts = {"class_totals": (60, 40)}
    rows = [row_at(make_row, "protocol", 32, 90, **counts), row_at(make_row, "paper", 96, 11, **counts)]
    assert collapsed_seeds(rows) == {}
    assert collapsed_seeds(rows[1:]) == {("resize", "peg"): (0,)}


def test_pairs_classes_and_contrasts_keep_them_apart(several):
    pairs = {(each.label, each.size): each for each in paired_differences(several)}
    found = {label: pairs[label, 64] for label in ("peg", "peg (paper)")}
    assert {label: (each.reference, round(each.points, 6)) for label, each in found.items()} == {
        "peg": ("learned", 21), "peg (paper)": ("learned (paper)", 5),
    }  # fmt: skip
    assert not [label for label, _ in pairs if "no scale" in label or "learned" in label]
    contrast = Contrasts(several, "resize")
    assert contrast({("peg", 64): 1, ("peg (paper)", 64): -1}).points == pytest.approx(36)
    counted = [
        row.__class__(**{**vars(row), "class_totals": (100,), "class_correct": (row.correct,)}) for row in several
    ]
    (found,) = by_class([row for row in counted if row.size == 64])
    assert dict(zip(found.labels, found.lines[0][2])) == {
        "learned": 59.5, "learned (paper)": 39.5, "peg": 80.5, "peg (paper)": 44.5, "peg (no scale)": 35.5,
    }  # fmt: skip


def test_marked_lines_have_the_colour_of_their_encoding_and_are_thinner_and_dotted(several):
    (panel,) = accuracy_figure(summarise(several), [32]).axes
    lines = {line.get_label(): line for line in panel.get_lines() if not line.get_label().startswith("_")}
    assert [to_hex(lines[label].get_color()) for label in ("peg", "peg (paper)", "peg (no scale)")] == [
        ENCODINGS["peg"].colour
    ] * 3
    styles = {label: lines[label].get_linestyle() for label in lines}
    assert styles["peg"] == styles["learned"] == "-"
    assert styles["peg (paper)"] == styles["learned (paper)"] != styles["peg (no scale)"]
    assert "-" not in (styles["peg (paper)"], styles["peg (no scale)"])
    assert lines["peg (paper)"].get_linewidth() < lines["peg"].get_linewidth()
    np.testing.assert_allclose(lines["peg (no scale)"].get_ydata(), [89.5, 35.5])


def test_the_note_says_the_rule_and_the_scale_at_each_size(several, make_row):
    assert scale_note(summarise(several), "resize") == ("resize 'fit' (1, 2 at 32, 64); none (no scale); none (paper)")
    canvas = [row_at(make_row, "protocol", size, 50, protocol="canvas", scale=(1.0, 1.0)) for size in (32, 64)]
    cells = summarise([*several, *canvas, make_row(**EXTERNAL)])
    assert scale_note(cells, "canvas") == "canvas 'pixels' (1); none (timm:vit)"
    native = summarise([row_at(make_row, "protocol", 64, 50, protocol="native", scale=None)])
    assert scale_note(native, "native") == "native the model's own rule"
    paper = summarise([row_at(make_row, "protocol", 64, 50, scale=None)])  # of a model whose own rule is 'paper'
    assert scale_note(paper, "resize") == "resize none (the models' own rule)"
    assert scale_note(summarise([make_row(), make_row(**EXTERNAL)]), "canvas") == ""


def test_the_note_of_auto_names_the_trainings_that_chose_another_scale(make_row):
    def chosen(seed, scale, encoding="peg"):
        return row_at(make_row, "auto", 48, 50, seed=seed, scale=scale, encoding=encoding)

    rows = [row_at(make_row, "auto", 32, 50, seed=seed) for seed in (0, 1)]
    rows += [chosen(0, (1.5, 1.5)), chosen(1, (1.5, 1.5)), chosen(2, (1.5, 2.0)), chosen(0, (1.0, 1.0), "rope")]
    note = "resize 'auto' (1, 1.5 at 32, 48; 1 at 48 for rope seed 0; 1.5x2 at 48 for peg seed 2)"
    assert scale_note(summarise(rows), "resize") == note


def test_a_column_has_a_scale_where_all_that_were_given_one_agree(several, make_row):
    assert shared_scales(summarise(several), "resize") == {32: "1", 64: "2"}
    assert shared_scales(summarise([*several, row_at(make_row, "pixels", 64, 9)]), "resize") == {32: "1"}
    assert shared_scales(summarise([row_at(make_row, rule, 64, 9) for rule in ("", "paper")]), "resize") == {}


def test_the_page_and_its_files_say_which_scale_was_given(tmp_path, several):
    append_rows(tmp_path / "rows.jsonl", several)
    assert len(gather([tmp_path])) == len(several)
    text = report(tmp_path).read_text()
    for words in ("peg (no scale)", "<br><small>s = 2</small>", "<dt>Object scale</dt>",
                  "resize &#39;fit&#39; (1, 2 at 32, 64)",
                  "Thin and dotted: another scale,", "Difference to <i>learned, learned (paper)</i>"):  # fmt: skip
        assert words in text
    assert text.count("<th scope=row>peg</th><td>1</td>") == 1  # what it costs does not depend on the telling
    lines = list(csv.DictReader((tmp_path / "summary.csv").read_text().splitlines()))
    assert list(lines[0])[-3:] == ["scale_rule", "scale", "precision"]
    found = {
        (line["encoding"], line["size"], line["scale_rule"]): (line["accuracy_mean"], line["scale"]) for line in lines
    }
    assert len(found) == len(lines) == 10
    assert found["peg", "64", "protocol"] == ("80.50", "2")
    assert found["peg", "64", "paper"] == ("44.50", "")
    assert found["peg", "64", ""] == ("35.50", "")


def test_the_scale_of_a_cell_is_the_mean_over_seeds_along_each_axis(make_row):
    rows = [row_at(make_row, "auto", 48, 50, seed=seed, scale=(1.0 + seed, 2.0)) for seed in (0, 1)]
    assert [cell.scale for cell in summarise(rows)] == ["1.5x2"]


def test_a_page_of_rows_without_scale_says_nothing_of_it(tmp_path, make_row, capsys):
    append_rows(tmp_path / "rows.jsonl", [make_row(), make_row(size=48), make_row(**EXTERNAL)])
    text = report(tmp_path).read_text()
    print_tables(gather([tmp_path]))
    for page in (text, capsys.readouterr().out):
        assert not [words for words in ("Object scale", "s =", "s: the scale") if words in page]


def test_the_tables_of_the_terminal_fit_100_columns(make_row, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    print_tables([row_at(make_row, rule, size, 50, encoding=name, seed=seed) for name in ("learned+peg", "sincos+peg")
                  for rule in ("protocol", "", "fit*0.9") for size in (16, 24, 32, 40, 48, 64)
                  for seed in (0, 1)])  # fmt: skip
    printed = capsys.readouterr().out
    assert "object scale: resize 'fit' (0.5, 0.75, 1, 1.25, 1.5, 2 at 16, 24, 32, 40, 48, 64); 'fit*0.9'" in printed
    table = [line for line in printed.splitlines() if "│" in line or "┃" in line]
    assert len(table) == 1 + 2 * 3  # no label is folded
    assert max(map(len, table)) <= 100
    assert not [line for line in table if "…" in line]
    assert sum("learned+peg (scale fit*0.9)" in line for line in table) == 1


def test_the_figure_before_and_after_needs_both_and_draws_them(several, tmp_path):
    place = Path(__file__).parents[2] / "docs" / "results" / "scale" / "draw.py"
    spec = importlib.util.spec_from_file_location("draw", place)
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    rows = [row.__class__(**{**vars(row), "encoding": name, "protocol": protocol, "correct": row.correct - across})
            for row in several if row.encoding == "peg" for name in draw.SHOWN
            for across, protocol in enumerate(("resize", "canvas"))]  # fmt: skip
    append_rows(tmp_path / "rows.jsonl", rows)
    draw.main(tmp_path / "rows.jsonl", tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_bytes().startswith(b"<?xml")
    panels = draw.draw(summarise(rows), 32).axes
    assert [panel.get_title() for panel in panels[: len(draw.SHOWN)]] == list(draw.SHOWN)
    before_after = {line.get_linestyle(): list(line.get_ydata()) for line in panels[0].get_lines()}
    assert before_after == {"-": [89.5, 80.5], ":": [89.5, 44.5]}
    assert list(panels[-1].get_lines()[0].get_ydata()) == [88.5, 79.5]
    with pytest.raises(ValueError, match="--scale protocol paper"):
        draw.draw(summarise([row for row in rows if row.scale_rule != "paper"]), 32)
