"""Figures: positions of tiles, lines and colours; equal rows give equal files."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from cpvt.config import size_label
from cpvt.data.protocols import TABLE, describe
from cpvt.encodings import TABLE as ENCODINGS
from cpvt.reporting.figures import accuracy_figure, as_bytes, attention_figure, colours, tile
from cpvt.reporting.probe_figures import longer_figure
from cpvt.reporting.probe_index import ProbeIndex
from cpvt.reporting.summary import pixels, summarise
from cpvt.reporting.terminal import print_tables
from cpvt.results.probe_results import ProbeResult


def drawn(image):
    """1: highest attention, dot: none, bar: between tiles."""
    signs = {True: "|", False: "."}
    return ["".join("1" if value == 1 else signs[bool(np.isnan(value))] for value in row) for row in image]


def test_tiles_are_at_the_positions_of_their_tokens():
    # every token attends only to itself: the bright spot moves with the tile, on a grid of 2 rows and 3 columns
    assert drawn(tile(np.eye(6), (2, 3))) == [
        "1..|.1.|..1",
        "...|...|...",
        "|||||||||||",
        "...|...|...",
        "1..|.1.|..1",
    ]


def test_a_tile_is_the_attention_of_its_token_row_by_row():
    attention = np.zeros((6, 6))
    attention[:, 5] = 0.2
    attention[1] = [0, 0, 0.3, 0, 0, 0]  # but the second token to the third, top right
    assert drawn(tile(attention, (2, 3))) == [
        "...|..1|...",
        "..1|...|..1",
        "|||||||||||",
        "...|...|...",
        "..1|..1|..1",
    ]


def test_each_tile_is_scaled_to_its_own_maximum():
    image = tile(np.array([[0.1, 0.3], [0.8, 0.2]]), (1, 2))
    np.testing.assert_allclose(image, [[1 / 3, 1, np.nan, 1, 1 / 4]])


@pytest.fixture
def cells(make_row):
    return summarise(
        [
            make_row(encoding=encoding, pool=pool, size=size, protocol=protocol, seed=seed, correct=correct + seed)
            for encoding, pool, correct in (("learned", "cls", 40), ("peg", "cls", 60), ("peg", "gap", 70))
            for protocol in ("canvas", "resize")
            for size in ((48, 64), 96, 32)
            for seed in (0, 2)
        ]
    )


def test_accuracy_is_a_panel_per_protocol_and_a_line_per_encoding_and_pool(cells):
    figure = accuracy_figure(cells, [32])
    assert [panel.get_title(loc="left").split(":")[0] for panel in figure.axes] == ["canvas", "resize"]
    for panel in figure.axes:
        lines = {line.get_label(): line for line in panel.get_lines() if not line.get_label().startswith("_")}
        assert list(lines) == ["learned", "peg", "peg · gap"]
        np.testing.assert_allclose(lines["peg"].get_xdata(), [32, (48 * 64) ** 0.5, 96])
        np.testing.assert_allclose(lines["peg · gap"].get_ydata(), [71, 71, 71])
        assert [line.get_linestyle() for line in lines.values()] == ["-", "-", "--"]
        assert to_hex(lines["peg"].get_color()) == to_hex(lines["peg · gap"].get_color()) == ENCODINGS["peg"].colour
        assert [label.get_text() for label in panel.get_xticklabels()] == ["32", "48x64", "96"]


@pytest.mark.parametrize("protocol", [*TABLE, "zoom"])
def test_every_protocol_is_drawn_and_printed_and_an_unknown_one_by_its_name(protocol, make_row, capsys):
    rows = [make_row(protocol=protocol)]
    (panel,) = accuracy_figure(summarise(rows), [32]).axes
    print_tables(rows)
    assert panel.get_title(loc="left") == describe(protocol)
    assert " ".join(capsys.readouterr().out.split()).startswith(f"accuracy, %, {describe(protocol)}")


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_cells_give_the_same_bytes(cells, kind):
    first, second = (as_bytes(accuracy_figure(cells, [32]), kind) for _ in range(2))
    assert first == second
    assert first.startswith(b"<?xml" if kind == "svg" else b"\x89PNG")
    assert as_bytes(accuracy_figure(cells[:-1], [32]), kind) != first


def test_colours_do_not_depend_on_what_else_is_shown():
    assert colours(["rope", "peg"]) == {"rope": ENCODINGS["rope"].colour, "peg": ENCODINGS["peg"].colour}
    own = {name: entry.colour for name, entry in ENCODINGS.items() if entry.colour}
    assert {name: colours(list(reversed(ENCODINGS)))[name] for name in own} == own


def test_encodings_outside_the_table_get_their_own_colours():
    names = ["peg", "learned+peg", "rope", "peg(at=2)", "learned+peg", "rope+peg"]
    found = colours(names)
    assert list(found) == ["peg", "learned+peg", "rope", "peg(at=2)", "rope+peg"]
    assert len(set(found.values())) == 5


def test_there_are_colours_for_any_number_of_encodings():
    names = [f"peg(at={depth})" for depth in range(12)]
    assert list(colours(names)) == names


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 3])
def test_attention_is_the_sample_and_a_panel_per_model(channels, count):
    profiles = [
        {"encoding": f"peg(at={depth})", "pool": "gap", "grid": [2, 3], "sample_class": "seven"}
        for depth in range(count)
    ]
    sample = np.linspace(-2, 3, channels * 8 * 12).reshape(channels, 8, 12)
    panels = attention_figure(profiles, [np.eye(6)] * count, sample).axes
    titles = [panel.get_title() for panel in panels if panel.images]
    assert titles == ["the sample: seven", *(f"peg(at={depth}) · gap" for depth in range(count))]
    shown = panels[0].images[0].get_array()
    assert shown.shape[:2] == (8, 12)
    assert (shown.min(), shown.max()) == (0, 1)
    np.testing.assert_array_equal(panels[1].images[0].get_array().filled(np.nan), tile(np.eye(6), (2, 3)))


def test_a_line_of_any_panel_is_in_the_legend(make_row):
    rows = [make_row(protocol="canvas"), make_row(encoding="rope", protocol="resize"), make_row(encoding="_mine")]
    (legend,) = accuracy_figure(summarise(rows), [32]).legends
    assert {text.get_text() for text in legend.get_texts()} == {"peg", "rope", "_mine"}


SIZES = [
    (32, 48, 64, 96),
    (32, (64, 48), (48, 64), 56),
    (24, 32, (32, 64), 48, (64, 48), 64, 96, (96, 100), 100),
    tuple(range(100, 120)),
    (224, (320, 448), 384, (384, 640), (1080, 1920), 2000),
]


@pytest.mark.parametrize("sizes", SIZES)
def test_labels_of_sizes_never_overlap(make_row, sizes):
    rows = [make_row(size=size, protocol=protocol) for size in sizes for protocol in ("canvas", "resize", "native")]
    lengths = [ProbeResult("m", "digits", "longer", "r2", "scaled", "model", 1, "noise", size, 0, 0.5)
               for size in sizes]  # fmt: skip
    for figure in (accuracy_figure(summarise(rows), [32]), longer_figure(ProbeIndex(lengths))):
        as_bytes(figure, "svg")
        figure.draw_without_rendering()
        for panel in figure.axes:
            labels = [label for label in panel.get_xticklabels() if label.get_visible()]
            assert {size_label(min(sizes, key=pixels)), size_label(max(sizes, key=pixels))} <= {
                part for label in labels for part in label.get_text().split("\n")
            }
            boxes = [label.get_window_extent().padded(1) for label in labels]
            assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
