"""Pages, figures and tables of twenty and thirty encodings stay readable; those of a few are as ever."""

import io
import json
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

import cpvt.reporting
from cpvt.encodings import TABLE, Entry
from cpvt.reporting import report
from cpvt.reporting.curves import Epoch, curves_figure
from cpvt.reporting.figures import (
    CHOSEN,
    GREY,
    MANY,
    REFERENCES,
    accuracy_figure,
    attention_figure,
    choose,
    colours,
    multiples_figure,
)
from cpvt.reporting.summary import summarise
from cpvt.reporting.terminal import print_tables
from cpvt.runtime.files import append_rows, write_json

SCRIPT = Path(cpvt.reporting.__file__).with_name("sortable.js")
BEST = ("sincos+learned", "rope+relative", "none+peg")  # made so below
SIZES = {"canvas": (32, 40, 48, 56, 64, 72, 80, 96), "resize": (24, 32, 48)}


def names_of(count):
    """So many names: the references, others of the TABLE, sums of two, and BEST."""
    sums = [f"{one}+{other}" for one, other in product(TABLE, TABLE) if one != other and f"{one}+{other}" not in BEST]
    return [*list(dict.fromkeys((*REFERENCES, *TABLE, *sums)))[: count - len(BEST)], *BEST]


def make_rows(make_row, count, seeds=(0, 1), rules=("protocol",), sizes=None):
    """Rows of so many encodings that fall with the size, BEST the least, and peg with gap, too."""
    rows = []
    for number, name in enumerate(names_of(count)):
        fall = 2 + BEST.index(name) if name in BEST else 20 + number % 7
        for pool, (protocol, tested), seed, rule in product(
            ("cls", "gap") if name == "peg" else ("cls",), (sizes or SIZES).items(), seeds, rules
        ):
            for size in tested:
                correct = 960 - round(fall * abs(size - 32) / 4) + seed
                half = correct // 2
                rows.append(make_row(
                    encoding=name, pool=pool, protocol=protocol, size=size, seed=seed, scale_rule=rule, total=1000,
                    correct=correct, parameters=100_000 + number, class_totals=(500, 500),
                    class_correct=(half, correct - half),
                ))  # fmt: skip
    return rows


def titles(figure):
    return [panel.get_title(loc="left") for panel in figure.axes if panel.axison]


@pytest.mark.parametrize("count", [20, 30])
def test_of_many_encodings_the_references_and_the_best_are_coloured_and_named(make_row, count):
    cells = summarise(make_rows(make_row, count))
    assert sorted(choose(cells)) == sorted([*BEST, "learned", "peg", "peg5"])
    figure = accuracy_figure(cells, [32])
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert sorted(texts) == sorted(
        [*choose(cells), "peg · gap", "largest class of the test, 50.0 %", f"{count - CHOSEN} others"]
    )
    for panel in figure.axes:
        drawn = [line for line in panel.get_lines() if len(line.get_xdata()) > 2]
        (grey,) = [line for line in drawn if line.get_color() == GREY]
        bright = [line for line in drawn if line is not grey]
        assert np.isnan(grey.get_ydata()).sum() == count - CHOSEN  # one path holds them all, apart
        assert len({to_hex(line.get_color()) for line in bright}) == CHOSEN
        assert len(bright) == CHOSEN + 1  # peg · gap
        assert all(line.get_zorder() > grey.get_zorder() and line.get_lw() > grey.get_lw() for line in bright)


def test_few_encodings_are_all_coloured(make_row):
    cells = summarise(make_rows(make_row, MANY))
    assert choose(cells) == list(dict.fromkeys(cell.encoding for cell in cells))
    assert GREY not in {line.get_color() for panel in accuracy_figure(cells, [32]).axes for line in panel.get_lines()}
    assert len(choose(summarise(make_rows(make_row, MANY + 1)))) == CHOSEN


def test_a_refused_size_counts_against_an_encoding_and_a_better_head_for_it(make_row):
    names = [f"peg(at={depth})" for depth in range(MANY + 1)]
    rows = [make_row(encoding=name, size=size, correct=60 - n) for n, name in enumerate(names) for size in (32, 48)]
    assert choose(summarise(rows)) == names[:CHOSEN]
    refused = [make_row(encoding=names[0], size=96, refused="too large", correct=0, total=0)]
    larger = [make_row(encoding=name, size=96, correct=40) for name in names[1:]]
    better = [make_row(encoding=names[-1], size=size, pool="gap", correct=90) for size in (32, 48, 96)]
    assert choose(summarise([*rows, *refused, *larger, *better])) == [*names[1:CHOSEN], names[-1]]


@pytest.mark.parametrize("count", [20, 30])
def test_each_encoding_has_a_small_panel_in_front_of_all_others(make_row, count):
    cells = summarise(make_rows(make_row, count))
    figure = multiples_figure(cells, [32])
    assert titles(figure) == list(dict.fromkeys(cell.encoding for cell in cells)) * len(SIZES)
    panels = [panel for panel in figure.axes if panel.axison]
    for panel, protocol in zip(panels, np.repeat(list(SIZES), count)):
        name = panel.get_title(loc="left")
        own = [line for line in panel.get_lines() if len(line.get_xdata()) > 2 and line.get_color() != GREY]
        (grey,) = [line for line in panel.get_lines() if line.get_color() == GREY]
        expected = [cell.mean for cell in cells if (cell.encoding, cell.protocol, cell.pool) == (name, protocol, "cls")]
        np.testing.assert_allclose(own[0].get_ydata(), expected)
        assert len(own) == 1 + (name == "peg")
        assert np.isnan(grey.get_ydata()).sum() == count + 1 - len(own)
        assert own[0].get_zorder() > grey.get_zorder()
        assert panel.get_ylim() == (0, 102)
    figure.draw_without_rendering()
    for column in panels[count - 5 : count]:  # the last of each column names the sizes, under it or not
        assert [label.get_text() for label in column.get_xticklabels() if label.get_visible()]


def test_an_encoding_without_a_colour_gets_one_that_is_free(monkeypatch):
    monkeypatch.setitem(TABLE, "mine", Entry("somewhere:Mine", ("bias",)))
    known = [entry.colour for entry in TABLE.values() if entry.colour]
    found = colours(["rope", "mine", "peg", "other", "learned"])
    assert not {found["mine"], found["other"]} & set(known)
    assert len(set(found.values())) == 5
    few = colours([f"peg(at={depth})" for depth in range(12)])
    assert len(set(few.values())) == 12  # colours of absent encodings are free


def test_curves_of_many_trainings_are_grey_but_for_the_chosen():
    epochs = [Epoch(name, "cls", 0, epoch, 1 / epoch, 0.5) for name in names_of(20) for epoch in (1, 2, 3)]
    figure = curves_figure(epochs, ["learned", "peg"])
    for panel in figure.axes:
        drawn = [line for line in panel.get_lines() if len(line.get_xdata())]
        assert [line.get_label() for line in drawn if line.get_color() != GREY] == ["learned", "peg"]
        assert len(drawn) == 20
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["learned", "peg", "18 others"]
    few = curves_figure([each for each in epochs if each.label in names_of(MANY)], ["learned (another name)"])
    assert GREY not in {line.get_color() for line in few.axes[0].get_lines()}


def test_attention_maps_of_many_models_are_smaller():
    def draw(count):
        profiles = [{"encoding": "peg", "pool": "cls", "grid": [2, 3], "sample_class": "seven"}] * count
        return attention_figure(profiles, [np.eye(6)] * count, np.zeros((1, 8, 12))).get_size_inches()

    assert draw(8) == pytest.approx((10.8, 11.4))
    assert draw(29) == pytest.approx((11, 14.4))


@pytest.fixture
def many(tmp_path, make_row):
    """A folder with rows of twenty encodings and their speeds."""
    rows = make_rows(make_row, 20, seeds=(0, 2))
    append_rows(tmp_path / "rows.jsonl", rows)
    heads = dict.fromkeys((row.encoding, row.pool) for row in rows)
    profiles = [{"name": f"model{n}", "encoding": encoding, "pool": pool, "block": 2, "grid": [2, 3],
                 "sample_class": "seven", "images_per_second": [90.0 + 9 * n, 100.0 + 10 * n, 300.0 + 90 * n]}
                for n, (encoding, pool) in enumerate(heads)]  # fmt: skip
    write_json(tmp_path / "profile.json", profiles)
    (tmp_path / "arrays").mkdir()
    for profile in profiles:
        np.save(tmp_path / "arrays" / f"attention-{profile['name']}.npy", np.eye(6))
    np.save(tmp_path / "arrays" / "sample.npy", np.zeros((1, 8, 12), dtype=np.float32))
    return tmp_path


def sortable(html):
    """The tables that can be sorted: heads, and the texts of each line."""
    found = []
    for table in re.findall(r"<table class=sortable>.*?</table>", html, re.DOTALL):
        head, body = table.split("</thead>")
        texts = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL) for line in (head, *body.split("<tr")[1:])]
        found.append([[re.sub(r"<.*?>", " ", text).strip() for text in line] for line in texts])
    return found


def test_the_page_of_many_has_small_panels_and_a_table_with_costs_for_each_protocol(many):
    html = report(many).read_text()
    assert (many / "multiples.svg").read_bytes().startswith(b"<?xml")
    assert html.count("<svg") == 2
    assert [each.strip() for each in re.findall(r"<script.*?>(.*?)</script", html, re.DOTALL)] == [
        SCRIPT.read_text().strip()
    ]
    assert not re.search(r"""(src|href)=["']?(?!["'#]|data:)""", html)
    tables = sortable(html)
    assert len(tables) == len(SIZES)
    for (head, *lines, last), sizes in zip(tables, SIZES.values()):
        heads = ["positional encoding", *map(str, sizes), "mean", "parameters", "images/s", "speed to learned"]
        assert [" ".join(text.split()) for text in head] == heads
        assert len(lines) == 21  # with peg · gap
        assert {len(line) for line in lines} == {len(head)}
        assert last[0] == "always the largest class"
    by_name = {line[0]: line for line in tables[1][1:]}
    # peg, the second: 960 and 962 of 1000 at 32; 21 * 8 / 4 fewer at 24, and 21 * 16 / 4 at 48
    assert " ".join(" ".join(by_name["peg"]).split()) == "peg 91.9 ± 0.1 96.1 ± 0.1 87.7 ± 0.1 91.9 100,001 110 1.10"
    assert by_name["learned"][-2:] == ["100", "1.00"]


def test_the_page_of_few_is_without_panels_and_script(tmp_path, make_row):
    append_rows(tmp_path / "rows.jsonl", make_rows(make_row, MANY, seeds=(0,), sizes={"canvas": (32, 48)}))
    page = report(tmp_path).read_text()
    assert not re.search("<script|<table class=sortable|hidden", page)
    assert not (tmp_path / "multiples.svg").exists()


DOCUMENT = """
class Node {
  constructor(text = "") { Object.assign(this, {text, childNodes: [], attributes: {}, cells: [], rows: [], act: null}) }
  get textContent() { return this.text + this.childNodes.map((each) => each.textContent).join("") }
  append(...nodes) {
    for (const node of nodes) {
      if (node.parent) node.parent.childNodes = node.parent.childNodes.filter((each) => each !== node);
      node.parent = this;
      this.childNodes.push(node);
    }
  }
  getAttribute(name) { return this.attributes[name] ?? null }
  setAttribute(name, value) { this.attributes[name] = value }
  removeAttribute(name) { delete this.attributes[name] }
  addEventListener(name, act) { if (name === "click") this.act = act }
}
const line = (texts) => Object.assign(new Node(), {cells: texts.map((text) => {
  const cell = new Node();
  cell.append(new Node(text));
  return cell;
})});
const lines = LINES.map(line), body = new Node(), hint = {hidden: true}, head = line(HEAD);
body.append(...lines);
body.rows = lines;
const table = {tHead: {rows: [head]}, tBodies: [body]};
const document = {
  querySelectorAll: (what) => what === "table.sortable" ? [table] : [],
  querySelector: () => hint,
  createElement: (tag) => Object.assign(new Node(), {tag}),
};
SCRIPT
const state = () => [head.cells.map((each) => each.getAttribute("aria-sort")),
                     body.childNodes.map((each) => each.cells[0].textContent)];
const states = [state()];
for (const column of CLICKS) {
  head.cells[column].childNodes[0].act();
  states.push(state());
}
console.log(JSON.stringify({states, hidden: hint.hidden, heads: head.cells.map((each) => each.textContent),
                            tags: head.cells.map((each) => each.childNodes[0].tag)}));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's script")
def test_a_click_on_a_head_sorts_and_says_so():
    lines = [["none", "9.5 ± 0.1", "1,200"], ["rope", "–", "900"], ["peg", "91.0 ± 2.0", "1,000"],
             ["fire", "refused", "1,100"], ["cpb", "10.0", "2"]]  # fmt: skip
    code = DOCUMENT.replace("SCRIPT", SCRIPT.read_text()).replace("CLICKS", "[1, 1, 2, 0, 0]")
    code = code.replace("LINES", json.dumps(lines)).replace("HEAD", json.dumps(["name", "32", "parameters"]))
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["states"] == [
        [["ascending", None, None], ["none", "rope", "peg", "fire", "cpb"]],
        [[None, "descending", None], ["peg", "cpb", "none", "rope", "fire"]],
        [[None, "ascending", None], ["none", "cpb", "peg", "rope", "fire"]],
        [[None, None, "descending"], ["none", "fire", "peg", "rope", "cpb"]],
        [["ascending", None, None], ["none", "rope", "peg", "fire", "cpb"]],
        [["descending", None, None], ["cpb", "fire", "peg", "rope", "none"]],
    ]
    assert (found["hidden"], found["heads"]) == (False, ["name", "32", "parameters"])
    assert found["tags"] == ["button"] * 3  # which the keyboard reaches


@pytest.fixture
def printed(monkeypatch):
    """Prints the tables of rows in a terminal of so many columns; returns the lines of the tables."""

    def run(rows, width):
        import rich.console

        out, real = io.StringIO(), rich.console.Console
        monkeypatch.setattr(rich.console, "Console", lambda **how: real(file=out, width=width, **how))
        print_tables(rows)
        monkeypatch.setattr(rich.console, "Console", real)
        lines = [line.rstrip() for line in out.getvalue().splitlines()]
        return [
            line
            for line in lines
            if not re.match("accuracy|in brackets|balanced|all:|.*: zero-shot|object scale", line)
        ]

    return run


NUMBER = re.compile(r"\d+\.\d(?: ?± ?\d+\.\d| \[\d+\.\d, \d+\.\d\])?(?= |$)")


@pytest.mark.parametrize("count", [20, 30])
@pytest.mark.parametrize(("seeds", "rules"), [((0, 1), ("protocol",)), ((0,), ("protocol",)),
                                              ((0, 1), ("protocol", "fit"))])  # fmt: skip
def test_tables_fit_a_hundred_columns_and_nothing_is_cut_or_wrapped(printed, make_row, count, seeds, rules):
    rows = make_rows(make_row, count, seeds, rules)
    lines = printed(rows, 100)
    assert max(map(len, lines)) <= 100
    labels = dict.fromkeys(cell.label for cell in summarise(rows))
    if len(rules) > 1:
        assert "peg · gap (scale fit)" in labels
    found = {label: [] for label in labels}
    for line in filter(None, lines):
        name = re.split(r" *│| {2,}", line.strip())[0]
        if name in found:  # each line of a table begins with a whole label: none is wrapped
            found[name] += NUMBER.findall(line.replace("│", " "))
        else:
            assert name in ("encoding", "largest class") or set(line) <= set("─━╇┼ ")
    expected = {label: [] for label in labels}
    for cell in sorted(summarise(rows), key=lambda cell: (cell.protocol, cell.size)):
        low, high = cell.accuracy_interval
        text = f" [{low:.1f}, {high:.1f}]" if len(seeds) == 1 else f"±{cell.deviation:.1f}"
        expected[cell.label].append(f"{cell.mean:.1f}{text}")
    assert {label: [text.replace(" ± ", "±") for text in texts] for label, texts in found.items()} == expected


def test_a_table_is_split_only_where_it_does_not_fit(printed, make_row):
    rows = make_rows(make_row, 20, sizes={"canvas": SIZES["canvas"]})

    def heads(width):
        return [re.findall(r"\d+", line) for line in printed(rows, width) if "encoding" in line]

    sizes = list(map(str, SIZES["canvas"]))
    assert heads(140) == heads(100) == [sizes]
    assert "│" in "".join(printed(rows, 140))
    assert "│" not in "".join(printed(rows, 100))  # set closer
    assert heads(60) == [sizes[:4], sizes[4:]]


def test_a_very_long_label_is_wrapped_and_not_cut(printed, make_row):
    name = "mypackage.encodings.relative:" + "VeryLong" * 4 + "(strength=2.0)"
    lines = printed([make_row(encoding=name), make_row(encoding=name, size=48)], 100)
    first = next(number for number, line in enumerate(lines) if "mypackage" in line)
    assert "".join(re.split("[│]", line)[0].strip() for line in lines[first : first + 2]) == name
    assert max(map(len, lines)) <= 100
