"""The report: one self-contained file, from rows alone or from all files of a comparison."""

import subprocess
import sys
from dataclasses import asdict, fields
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pytest

from cpvt.config import CompareConfig, OptimConfig
from cpvt.reporting import gather, report
from cpvt.reporting.classes import by_class
from cpvt.reporting.page import UNSET
from cpvt.results.rows import pack_hits
from cpvt.runtime.files import append_rows, read_json, write_json

HEADS = [("learned", "cls"), ("peg", "cls"), ("peg", "gap"), ("learned+peg(at=(1, 2))", "cls")]


@pytest.fixture
def measured(tmp_path, make_row):
    """A folder with rows and nothing else."""
    append_rows(
        tmp_path / "rows.jsonl",
        [
            make_row(encoding=encoding, pool=pool, protocol=protocol, size=size, seed=seed, correct=40 + 9 * n + seed,
                     fill=0.5 if protocol == "canvas" and size == 64 else 0.0, parameters=1_234_567 + n)
            for n, (encoding, pool) in enumerate(HEADS)
            for protocol, size, seed in product(("canvas", "resize"), (32, 64, (48, 64)), (0, 1))
        ],
    )  # fmt: skip
    return tmp_path


@pytest.fixture
def compared(measured):
    """The same with the other files of a comparison."""
    origin = {"command": "cpvt compare --data <folder>", "versions": {"cpvt": "0.1.0", "torch": "2.11.0"},
              "commit": "abc123+", "machine": "Linux, 4 threads", "gpu": None, "trainings_at_once": 2,
              "threads_each": 3}  # fmt: skip
    record = {"config": asdict(CompareConfig()), "provenance": origin, "commands": ["cpvt first", origin["command"]]}
    write_json(measured / "compare.json", record)
    profiles = [
        {"name": f"model{n}", "encoding": encoding, "pool": pool, "block": 2, "grid": [2, 3],
         "sample_class": "seven", "parameters": 1,
         "pictures_per_second": [400.0 * (n + 1), 100.0 * (n + 1), 200.0 * (n + 1)]}
        for n, (encoding, pool) in enumerate(HEADS)
    ]  # fmt: skip
    write_json(measured / "looks.json", profiles)
    (measured / "arrays").mkdir()
    for profile in profiles:
        np.save(measured / "arrays" / f"attention-{profile['name']}.npy", np.eye(6))
    np.save(measured / "arrays" / "sample.npy", np.zeros((1, 8, 12), dtype=np.float32))
    return measured


class Page(HTMLParser):
    """The tags of a page, the attributes that would load something, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name.split(":")[-1] in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


def rows_of(page, title):
    """The text that follows a title."""
    return " ".join(page.text[page.text.index(title) :].split())


def test_rows_alone_give_a_page_with_figure_and_tables(measured):
    assert report(measured) == measured / "report.html"
    assert {path.name for path in measured.iterdir()} == {
        "rows.jsonl", "report.html", "summary.csv", "accuracy.svg", "accuracy.png",
    }  # fmt: skip
    page = Page(measured / "report.html")
    assert "img" not in page.tags
    assert page.tags.count("svg") == 1
    assert page.tags.count("table") == 3  # two protocols, and what it costs
    assert len((measured / "summary.csv").read_text().splitlines()) == 1 + 4 * 6


def test_the_page_of_a_comparison_is_complete(compared):
    report(compared)
    page = Page(compared / "report.html")
    assert (compared / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert page.tags.count("img") == 1
    for words in ("cpvt compare --data <folder>", "torch 2.11.0", "abc123+", "Linux, 4 threads", "epochs 20",
                  "crop_scale 0.35 to 1.0", "augment the data set's", "clip_grad unlimited", "model_ema_decay off",
                  "Initial weightsrandom"):  # fmt: skip
        assert words in page.text


@pytest.mark.parametrize("folder", ["measured", "compared"])
def test_the_page_loads_nothing(folder, request):
    page = report(request.getfixturevalue(folder))
    parsed, text = Page(page), page.read_text()
    assert parsed.links
    assert not [link for link in parsed.links if not link.startswith(("#", "data:image/png;base64,"))]
    assert not {"link", "script", "iframe", "object", "embed"} & set(parsed.tags)
    assert "@import" not in text
    assert text.count("url(") == text.count("url(#")


def test_every_encoding_is_in_every_table(compared):
    parsed = Page(report(compared))
    for title in ("canvas:", "resize:", "Cost"):
        below = rows_of(parsed, title)
        for name in ("learned", "peg", "peg · gap", "learned+peg(at=(1, 2))"):
            assert name in below


def test_the_numbers_of_a_table_are_those_of_its_rows(compared):
    parsed = Page(report(compared))
    canvas = rows_of(parsed, "canvas:")
    # peg: 49 and 50 of 100; 9 points above learned for both seeds, so the interval has no width
    assert "49.5 ± 0.7retains 100 %+9.0 [+9.0, +9.0]" in canvas
    assert "Padding fraction of the canvas — 32: 0%, 48x64: 0%, 64: 50%." in canvas
    assert "Padding" not in rows_of(parsed, "resize:").split("Cost")[0]
    cost = rows_of(parsed, "Cost")
    assert "1,234,567200 (100 to 400)1.00 (1.00 to 1.00)" in cost  # learned
    assert "1,234,568400 (200 to 800)2.00 (2.00 to 2.00)" in cost  # peg


def test_the_best_of_each_size_is_marked(measured):
    html = report(measured).read_text()
    assert html.count("class=best") == 2 * 3
    assert "learned+peg(at=(1, 2))</th><td class=best>" in html


def test_rows_of_several_folders_make_one_page_with_refusals_and_differences(tmp_path, make_row):
    ours = [make_row(size=size, correct=60, hits=pack_hits([True] * 60 + [False] * 40)) for size in (32, 48)]
    external = {"model": "timm:vit<b>", "encoding": "", "pool": "", "at": (), "takes_sizes": "set_input_size"}
    theirs = make_row(
        **external,
        correct=50,
        hits=pack_hits([True] * 50 + [False] * 50),
        top5=80,
        model_seconds=0.5,
        peak_memory=3 * 2**20,
    )
    refused = make_row(**external, size=48, correct=0, total=0, refused="Wrong image height!")
    for name, rows in {"ours": ours, "theirs": [theirs, refused]}.items():
        append_rows(tmp_path / name / "rows.jsonl", rows)
    page = report(tmp_path / "ours", tmp_path / "theirs", out=tmp_path / "both")
    assert page == tmp_path / "both" / "report.html"
    text = Page(page).text
    assert "timm:vit<b> refused a size: Wrong image height!" in text
    assert "-10.0[-16.0, -5.0]" in text  # ten of a hundred images fewer: the spread of a binomial fraction
    assert "80.0" in text
    assert "takes other sizes by set_input_size" in text
    assert "200" in text  # images a second: 100 in half a second
    assert ",refused,Wrong" not in (tmp_path / "both" / "summary.csv").read_text()
    assert "canvas,48,timm:vit<b>,,1,,," in (tmp_path / "both" / "summary.csv").read_text()


def test_a_folder_without_rows_among_several_is_refused_by_name(tmp_path, make_row):
    append_rows(tmp_path / "there" / "rows.jsonl", [make_row()])
    with pytest.raises(ValueError, match="missing' holds no rows"):
        report(tmp_path / "there", tmp_path / "missing")


def test_names_are_escaped(tmp_path, make_row):
    append_rows(tmp_path / "rows.jsonl", [make_row(encoding="<script>x</script>", model="a&b", data="<i>cats</i>")])
    page = report(tmp_path)
    parsed = Page(page)
    assert not {"script", "i"} & set(parsed.tags[parsed.tags.index("table") :])
    assert "script" not in parsed.tags
    assert "a&b, trained at 32 pixels and tested on 100 images of <i>cats</i>" in parsed.text
    assert "<script>x</script>" in parsed.text
    assert "a&amp;b" in page.read_text()


def test_the_same_rows_give_the_same_files(compared):
    def contents():
        report(compared)
        return {path.name: path.read_bytes() for path in compared.iterdir() if path.is_file()}

    assert contents() == contents()


@pytest.mark.parametrize("content", [None, "", '{"model": "half a li'])
def test_a_folder_without_rows_is_refused_with_what_is_expected(tmp_path, content):
    if content is not None:
        (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"holds no rows: expected rows\.jsonl, as `cpvt compare` or `cpvt sweep`"):
        report(tmp_path)
    assert not (tmp_path / "report.html").exists()


WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "torchvision"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
from cpvt.reporting import report
report(sys.argv[1])
"""


def test_the_report_needs_no_torch(compared):
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(compared)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (compared / "report.html").exists()


def counted(make_row, hits, **values):
    """A row of a test of six cats, three dogs and one emu, with so many of each classified correctly."""
    wrong = [total - hit for total, hit in zip((6, 3, 1), hits)]
    confusion = tuple((true, (true + 1) % 3, count) for true, count in enumerate(wrong) if count)
    return make_row(correct=sum(hits), total=10, class_totals=(6, 3, 1), class_correct=tuple(hits),
                    confusion=confusion, class_names=("cat", "dog", "emu"), **values)  # fmt: skip


def page_of(folder, rows):
    append_rows(folder / "rows.jsonl", rows)
    return Page(report(folder))


def test_the_page_warns_of_a_model_that_is_not_above_the_largest_class(tmp_path, make_row):
    heads = {"learned": (5, 1, 0), "peg": (6, 3, 1), "rope": (6, 0, 0)}
    rows = [counted(make_row, hits, encoding=name, size=size) for name, hits in heads.items() for size in (32, 48)]
    page = page_of(tmp_path, rows)
    assert page.text.count("Warning.") == 2
    assert "Warning. rope (canvas; seed 0): its accuracy is not clearly above" in " ".join(page.text.split())
    table = rows_of(page, "canvas:").split("Top-5")[0].split("Cost")[0]
    assert "rope60.0 [31.3, 83.2]balanced 33.360.0 [31.3, 83.2]balanced 33.3" in table  # no retained, no difference
    assert "peg100.0 [72.2, 100.0]balanced 100.0retains 100 %" in table
    assert "always the largest class60.060.0" in table
    assert "+" not in table  # learned, the baseline, is not above it either
    assert "class=best" not in (tmp_path / "report.html").read_text()  # one model is no ranking
    assert "largest class of the test, 60.0 %" in (tmp_path / "accuracy.svg").read_text()


def test_accuracy_of_each_class_and_confusion_are_folded_into_the_page(tmp_path, make_row):
    page = page_of(tmp_path, [counted(make_row, (5, 2, 1), seed=0), counted(make_row, (3, 3, 1), seed=1)])
    below = rows_of(page, "canvas, 32 pixels: accuracy of each class")
    assert "cat666.7dog383.3emu1100" in below  # of both seeds: 8 of 12, 5 of 6, 2 of 2
    assert "catdogemucat84dog51emu2" in below  # images by class and predicted class
    html = (tmp_path / "report.html").read_text()
    assert html.rindex("<details>", 0, html.index("accuracy of each class")) > 0


@pytest.mark.parametrize("names", [tuple(f"class {number}" for number in range(60)), ()])
def test_many_classes_are_listed_and_not_drawn_as_a_matrix(tmp_path, make_row, names):
    confusion = ((3, 1, 7), (59, 2, 1)) if names else None
    correct = [10] * 60
    correct[3], correct[59] = 3, 9
    (found,) = by_class([make_row(total=600, correct=sum(correct), class_totals=(10,) * 60, confusion=confusion,
                                  class_correct=tuple(correct), class_names=names)])  # fmt: skip
    first = "class 3" if names else "3"
    assert (found.lines[0], found.hidden, len(found.lines)) == ((first, 10, [30.0]), 10, 50)
    if names:
        assert found.confusions[0].errors == [("class 3", "class 1", 7), ("class 59", "class 2", 1)]
    assert found.confusions or "rows do not keep which" in report_of(tmp_path, make_row, correct)


def report_of(folder, make_row, correct):
    row = make_row(total=600, correct=sum(correct), class_totals=(10,) * 60, class_correct=tuple(correct))
    return page_of(folder, [row]).text


def test_sizes_not_used_in_training_leave_out_those_that_were(tmp_path, make_row):
    rows = [make_row(size=size, train_sizes=(24, 32)) for size in (24, 32, 48)]
    text = " ".join(page_of(tmp_path, rows).text.split())
    assert ("trained at 24, 32 pixels and tested on 100 images of digits at 48 pixels, not used in training; "
            "at 24, 32 pixels, as in training; 1 seed (0).") in text  # fmt: skip


def test_a_page_of_the_training_size_alone_does_not_speak_of_unseen_sizes(tmp_path, make_row):
    text = " ".join(page_of(tmp_path, [make_row()]).text.split())
    assert "How well does peg hold at the training size?" in text
    assert "unseen" not in text
    assert "not used in training" not in text


def test_with_one_model_nothing_is_best(tmp_path, make_row):
    page_of(tmp_path, [make_row(size=size) for size in (32, 48)])
    html = (tmp_path / "report.html").read_text()
    assert "class=best" not in html
    assert "best mean" not in html
    assert "How well does peg hold at unseen sizes?" in html


@pytest.mark.parametrize(("pools", "relative"), [(("cls", "gap"), "learned"), (("gap",), "learned · gap"), ((), None)])
def test_speed_is_relative_to_a_model_that_was_measured(compared, pools, relative):
    heads = [head for head in HEADS if head != ("learned", "cls")] + [("learned", pool) for pool in pools]
    profiles = [{"name": f"model{n % 4}", "encoding": encoding, "pool": pool, "block": 2, "grid": [2, 3],
                 "sample_class": "seven", "images_per_second": [100.0]}
                for n, (encoding, pool) in enumerate(heads)]  # fmt: skip
    write_json(compared / "profile.json", profiles)
    cost = rows_of(Page(report(compared)), "Cost").split("Attention maps")[0]
    assert (f"relative to {relative}" in cost) == bool(relative)
    assert "relative to" in cost or not relative


def test_every_option_of_a_recipe_that_may_be_none_says_what_that_means():
    assert {each.name for each in fields(OptimConfig) if "None" in str(each.type)} == set(UNSET)


def test_a_runs_page_shows_what_it_started_from(tmp_path, tiny_run, make_row):
    append_rows(tiny_run / "rows.jsonl", [make_row(initial_weights="runs/a")])
    record = read_json(tiny_run / "checkpoint.json")
    assert "Initial weightsrandom" in Page(report(tiny_run)).text
    record["training"]["initial_checkpoint"] = "runs/a"
    write_json(tiny_run / "checkpoint.json", record)
    text = Page(report(tiny_run)).text
    assert "Initial weightsruns/a" in text
    assert "initialised from runs/a" in text
    assert "augment resized-crop" in text


def test_trainings_of_several_folders_that_rows_do_not_tell_apart_are_warned_of(tmp_path, make_row):
    counts = {"class_totals": (50, 50), "class_names": ("cat", "dog"), "protocol": "resize", "total": 100}
    for folder, correct in (("short", 60), ("long", 90), ("copy of long", 90)):
        own = {
            "correct": correct,
            "class_correct": (correct // 2, correct // 2),
            "hits": pack_hits([n < correct for n in range(100)]),
        }
        append_rows(tmp_path / folder / "rows.jsonl", [make_row(**counts, **own)])
    text = Page(report(tmp_path / "short", tmp_path / "long", out=tmp_path / "both")).text
    assert "peg (resize at 32; seed 0): tests with different answers share this place" in text
    copies = report(tmp_path / "long", tmp_path / "copy of long", out=tmp_path / "copies")
    assert "different answers" not in Page(copies).text
    (found,) = by_class(gather([tmp_path / "short", tmp_path / "long"]))
    assert found.lines == [("cat", 50, [90.0]), ("dog", 50, [90.0])], "of the last, as in the tables"
