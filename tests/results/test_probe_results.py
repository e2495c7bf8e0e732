"""Probe results in files, complete or interrupted."""

import pytest

from cpvt.results.folders import probe_attention_file
from cpvt.results.probe_results import ProbeResult, finite, read_probe_results
from cpvt.runtime.files import append_rows

RESULT = ProbeResult("runs/peg", "digits", "position", "r2", "", "model", 2, "noise", (16, 24), 0, 0.5, 0.1, 8)


def test_results_round_trip_and_the_last_of_a_key_counts(tmp_path):
    path = tmp_path / "findings.jsonl"
    other = ProbeResult("runs/peg", "digits", "order", "tokens", "", "none", None, "", 16, 0, None, words="no tokens")
    append_rows(path, [RESULT.as_json(), other.as_json()])
    assert read_probe_results(path) == [RESULT, other]
    newer = ProbeResult(**{**vars(RESULT), "value": 0.25})
    path.write_text(path.read_text() + '{"model": "half')
    append_rows(path, [newer.as_json()])
    assert read_probe_results(path) == [other, newer]


def test_results_from_before_there_was_a_scale_are_read(tmp_path):
    line = RESULT.as_json()
    assert line.pop("scale") == ""
    append_rows(tmp_path / "findings.jsonl", [line])
    assert read_probe_results(tmp_path / "findings.jsonl") == [RESULT]


def test_no_file_means_no_results_and_a_malformed_line_is_refused(tmp_path):
    assert read_probe_results(tmp_path / "none.jsonl") == []
    (tmp_path / "rows.jsonl").write_text('{"accuracy": 1}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: expected an object with the keys model, data, probe"):
        read_probe_results(tmp_path / "rows.jsonl")


def test_numbers_keep_five_digits_and_infinite_ones_become_none():
    assert finite(0.123456789) == 0.12346
    assert finite(float("nan")) is None
    assert finite(float("inf")) is None


def test_file_names_contain_no_slashes():
    assert probe_attention_file("/tmp/a b/peg(at=(1, 2))", "none") == "probe-attention-tmp-a-b-peg-at=-1-2-none.npy"
