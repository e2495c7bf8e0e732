"""Rows and JSON files round-trip, also after an interruption."""

import json

import pytest

from cpvt.results.rows import pack_hits, read_rows, unpack_hits
from cpvt.runtime.files import append_rows, read_json, replacing, write_json


def test_rows_round_trip(tmp_path, make_row):
    rows = [
        make_row(),
        make_row(size=(48, 64), encoding="peg5", at=(1, 2, 3), fill=0.5),
        make_row(encoding="none", at=(), seed=7, protocol="resize", seconds=0.125),
        make_row(
            seed=8,
            train_sizes=(24, (32, 48)),
            initial_weights="runs/a",
            class_totals=(60, 40),
            class_correct=(50, 0),
            confusion=((0, 1, 10), (1, 0, 40)),
            class_names=("cat", "dog"),
            scale_rule="fit",
            scale=(1.5, 2.0),
        ),
    ]
    path = tmp_path / "deep" / "rows.jsonl"
    append_rows(path, rows[:1])
    append_rows(path, rows[1:])
    assert read_rows(path) == rows
    assert len(path.read_text().splitlines()) == 4


def test_rows_without_later_fields_are_read(tmp_path, make_row):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [make_row(top5=3, hits="AA==")])
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("top5", "hits")}
    path.write_text(json.dumps(old) + "\n")
    assert read_rows(path) == [make_row()]


def test_precision_and_decoding_are_written_where_they_are_not_those_of_earlier_versions(tmp_path, make_row):
    rows = [make_row(), make_row(precision="bf16"), make_row(reduced_jpegs=True)]
    append_rows(tmp_path / "rows.jsonl", rows)
    written = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [values.get("precision") for values in written] == [None, "bf16", None]
    assert [values.get("reduced_jpegs") for values in written] == [None, None, True]
    assert read_rows(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 31])
def test_correct_masks_round_trip(count):
    mask = [number % 3 == 0 for number in range(count)]
    assert unpack_hits(pack_hits(mask), count) == mask


def test_no_file_means_no_rows(tmp_path):
    assert read_rows(tmp_path / "rows.jsonl") == []


def test_accuracy_is_a_fraction_and_nan_without_images(make_row):
    assert make_row(correct=1, total=4).accuracy == 0.25
    nothing = make_row(correct=0, total=0).accuracy
    assert nothing != nothing


def test_majority_and_balanced_accuracy_follow_from_the_counts_of_classes(make_row):
    row = make_row(total=100, correct=50, class_totals=(60, 40, 0), class_correct=(45, 5, 0))
    assert row.majority == 0.6
    assert row.balanced_accuracy == pytest.approx((45 / 60 + 5 / 40) / 2)  # a class without images does not count
    assert (make_row().majority, make_row().balanced_accuracy) == (None, None)  # rows of early versions


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_an_incomplete_line_is_skipped_and_ended(tmp_path, make_row, kept):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [make_row(seed=0), make_row(seed=1)])
    first, second = path.read_text().splitlines()
    path.write_text(first + "\n" + second[:kept])
    assert [row.seed for row in read_rows(path)] == [0]
    append_rows(path, [make_row(seed=2)])
    assert [row.seed for row in read_rows(path)] == [0, 2]


def test_a_line_without_its_newline_counts(tmp_path, make_row):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [make_row(seed=0)])
    path.write_text(path.read_text().rstrip("\n"))
    append_rows(path, [make_row(seed=1)])
    assert [row.seed for row in read_rows(path)] == [0, 1]


def test_the_last_row_of_a_key_counts(tmp_path, make_row):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [make_row(correct=1), make_row(correct=2, seed=1), make_row(correct=3, seconds=9.0)])
    assert [(row.seed, row.correct) for row in read_rows(path)] == [(0, 3), (1, 2)]


@pytest.mark.parametrize(
    "change",
    [{"model": "m"}, {"encoding": "e"}, {"pool": "gap"}, {"seed": 5}, {"protocol": "resize"}, {"size": (32, 32)},
     {"data": "d"}, {"initial_weights": "runs/a"}, {"train_sizes": (24, 32)}, {"scale_rule": "paper"},
     {"precision": "bf16"}, {"reduced_jpegs": True}],
)  # fmt: skip
def test_rows_that_measure_different_things_are_all_kept(tmp_path, make_row, change):
    append_rows(tmp_path / "rows.jsonl", [make_row(), make_row(**change)])
    assert len(read_rows(tmp_path / "rows.jsonl")) == 2


@pytest.mark.parametrize("line", ["[1, 2]", "3", '{"model": "m"}'])
def test_a_malformed_line_is_refused_with_file_and_line(tmp_path, make_row, line):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [make_row()])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: expected an object with the keys model, encoding"):
        read_rows(path)


def test_unknown_keys_are_ignored(tmp_path, make_row):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [make_row()])
    path.write_text(json.dumps({**json.loads(path.read_text()), "energy": 3.5}) + "\n")
    assert read_rows(path) == [make_row()]


def test_a_file_is_replaced_when_the_block_succeeds(tmp_path):
    path = tmp_path / "folder" / "file"
    for content in (b"old", b"new"):
        with replacing(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_is_unchanged_when_the_block_raises(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(error), replacing(path) as file:
        file.write(b"half of the n")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"


def test_json_round_trips(tmp_path):
    value = {"list": [1, 2.5, None], "text": "ü → ✓", "deep": {"true": True}}
    write_json(tmp_path / "file.json", value)
    assert read_json(tmp_path / "file.json") == value


def test_a_value_that_is_not_json_leaves_the_file_unchanged(tmp_path):
    write_json(tmp_path / "file.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {1, 2})
    assert read_json(tmp_path / "file.json") == 1


@pytest.mark.parametrize("text", ["", '{"a": 1', "no"])
def test_broken_json_is_refused_with_its_path(tmp_path, text):
    (tmp_path / "compare.json").write_text(text)
    with pytest.raises(ValueError, match=r"compare\.json' is not whole JSON .*delete it and run again"):
        read_json(tmp_path / "compare.json")
