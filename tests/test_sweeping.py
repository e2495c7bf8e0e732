"""Sweeps: the right counts, the right views, errors that say what to do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import cpvt
from cpvt.data import open_data
from cpvt.reporting.summary import summarise


def test_rows_say_what_was_measured(tiny_run, tiny_folder):
    rows = list(cpvt.sweep(tiny_run, None, [8, (12, 16), "6x10"], protocol="resize"))
    assert [row.size for row in rows] == [8, (12, 16), (6, 10)]
    row = rows[0]
    assert (row.model, row.encoding, row.pool, row.protocol) == ("cpvt_micro", "peg", "cls", "resize")
    assert (row.total, row.train_size, row.crop_ratio, row.at) == (6, 8, 0.875, (1,))
    assert row.data == str(tiny_folder)
    assert row.parameters == sum(p.numel() for p in cpvt.load(tiny_run).model.parameters())


def test_the_count_is_that_of_a_loop_over_pictures(tiny_run, tiny_folder):
    checkpoint, data = cpvt.load(tiny_run), open_data(str(tiny_folder))
    row = next(cpvt.sweep(checkpoint, None, [12], protocol="canvas", batch_size=4))
    correct = 0
    for index in range(len(data.test)):
        draw = np.random.default_rng((0, 0, index))
        picture, label = data.test.read(index, draw)
        seen = checkpoint.transform.canvas(picture, (12, 12), draw)
        with torch.no_grad():
            correct += int(checkpoint.model(seen[None]).argmax()) == label
    assert row.correct == correct
    assert row.fill == pytest.approx(1 - 6 * 8 / 144, abs=1e-4)


def test_sizes_by_default_go_from_half_to_three_times(tiny_run):
    assert [row.size for row in cpvt.sweep(tiny_run)] == [4, 8, 12, 16, 24]


def test_larger_pictures_are_shrunk_for_a_canvas_and_counted(tiny_run, tiny_folder):
    Image.new("RGB", (300, 100)).save(tiny_folder / "test" / "cat" / "large.png")
    assert next(cpvt.sweep(tiny_run, None, [8], protocol="canvas")).shrunk == 1
    assert next(cpvt.sweep(tiny_run, None, [8], protocol="canvas", longest_side=300)).shrunk == 0
    assert next(cpvt.sweep(tiny_run, None, [8], protocol="resize")).shrunk == 0


def test_native_shows_whole_pictures_and_gives_the_count_of_a_loop(tiny_run, tiny_folder):
    for number, (width, height) in enumerate([(30, 10), (5, 17), (40, 40)]):
        Image.effect_noise((width, height), 80).save(tiny_folder / "test" / "dog" / f"noise{number}.png")
    checkpoint, data = cpvt.load(tiny_run), open_data(str(tiny_folder))
    rows = list(cpvt.sweep(checkpoint, None, [20, 100], protocol="native", token_budget=30))
    for row, longest in zip(rows, (20, 100)):
        limited = replace(checkpoint.transform, longest_side=longest)
        correct = shrunk = 0
        for index in range(len(data.test)):
            whole, label = data.test.read(index, None)
            picture = limited.limit(whole)
            shrunk += picture is not whole
            with torch.no_grad():
                correct += int(checkpoint.model(limited(picture)[None]).argmax()) == label
        assert (row.correct, row.total, row.shrunk, row.longest_side) == (correct, 9, shrunk, 32)
    assert [row.shrunk for row in rows] == [2, 0]
    with pytest.raises(ValueError, match="the longest side allowed, such as 224; got"):
        next(cpvt.sweep(tiny_run, None, ["8x12"], protocol="native"))
    for options in ({"longest_side": 20}, {"crop_ratio": 1.0}):
        with pytest.raises(ValueError, match="nothing is cropped: leave longest_side and crop_ratio out"):
            next(cpvt.sweep(tiny_run, None, [8], protocol="native", **options))
    cells = summarise(rows)
    assert [(cell.encoding, cell.size) for cell in cells] == [("peg", 20), ("peg", 100)]  # one curve, not two


def test_bad_pictures_are_an_error_or_counted(tiny_run, tiny_folder):
    (tiny_folder / "test" / "cat" / "bad.jpg").write_text("no picture")
    with pytest.raises(ValueError, match="bad.jpg"):
        list(cpvt.sweep(tiny_run, None, [8]))
    row = next(cpvt.sweep(tiny_run, None, [8], on_bad_picture="skip"))
    assert (row.total, row.skipped) == (6, 1)


def test_what_cannot_be_swept(tiny_run, picture_folder, tmp_path):
    with pytest.raises(ValueError, match="canvas, resize, native; got 'zoom'"):
        next(cpvt.sweep(tiny_run, None, [8], protocol="zoom"))
    with pytest.raises(ValueError, match="size 3 is smaller than a patch; the smallest side of this model is 4"):
        next(cpvt.sweep(tiny_run, None, [8, 3]))
    with pytest.raises(ValueError, match="got '12y'"):
        next(cpvt.sweep(tiny_run, None, ["12y"]))
    other = picture_folder({"train/bird": 1, "train/cat": 1, "test/bird": 1}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"not the model's: the model has 2 \(cat, dog\), the data 2 \(bird, cat\)"):
        next(cpvt.sweep(tiny_run, str(other), [8]))
    untested = picture_folder({"train/cat": 1, "train/dog": 1}, tmp_path / "untested")
    with pytest.raises(ValueError, match="has no test/"):
        next(cpvt.sweep(tiny_run, str(untested), [8]))
