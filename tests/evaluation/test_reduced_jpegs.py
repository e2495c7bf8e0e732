"""Reduced JPEGs as an option: trained, tested and predicted alike unless it says otherwise, and never mixed in rows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cpvt
from cpvt.cli import main
from cpvt.config import DataConfig, OptimConfig, TrainConfig
from cpvt.reporting.labels import label_of, protocol_notes
from cpvt.results.rows import read_rows


@pytest.fixture
def jpegs(tmp_path):
    """Class folders of JPEGs that are much larger than they are shown."""
    draw = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "images" / ("test" if number < 4 else "train") / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    return tmp_path / "images"


@pytest.fixture
def config(jpegs, tmp_path):
    recipe = OptimConfig(epochs=1, batch_size=4)
    dataset = DataConfig(str(jpegs), reduced_jpegs=True)
    return TrainConfig(str(tmp_path / "run"), img_size=16, dataset=dataset, optim=recipe)


def test_a_training_reads_and_resumes_with_its_own_decoding(config, tmp_path):
    run = cpvt.train(config)
    other = replace(config, dataset=replace(config.dataset, reduced_jpegs=False))
    with pytest.raises(ValueError, match=r"holds a run with .*reduced_jpegs: True -> False"):
        cpvt.train(other)
    whole = cpvt.train(replace(other, out=str(tmp_path / "whole")))
    first, second = (cpvt.load(each).model.state_dict() for each in (run, whole))
    assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_tests_and_predictions_follow_the_training_unless_told(config, jpegs):
    checkpoint = cpvt.load(cpvt.train(config))
    assert checkpoint.transform.reduced_jpegs
    rows = {wanted: next(cpvt.sweep(checkpoint, sizes=[16], reduced_jpegs=wanted)) for wanted in (None, True, False)}
    assert [row.reduced_jpegs for row in rows.values()] == [True, True, False]
    found = {
        wanted: [each.classes for each in cpvt.predict(checkpoint, [jpegs / "test"], reduced_jpegs=wanted)]
        for wanted in (None, True, False)
    }
    assert found[None] == found[True] != found[False]


def test_rows_of_both_decodings_stand_side_by_side(config, capsys):
    main(["train", "--out", config.out, "--img-size", "16", "--data", config.dataset.data, "--reduced-jpegs",
          "--epochs", "1", "--batch-size", "4"])  # fmt: skip
    main(["sweep", config.out, "--sizes", "16", "--reduced-jpegs", "False"])
    rows = read_rows(Path(config.out) / "rows.jsonl")
    assert [row.reduced_jpegs for row in rows] == [True, False]
    assert [label_of(row, rows) for row in rows] == ["peg", "peg (JPEGs decoded whole)"]
    assert "JPEGs decoded at a reduced scale" in protocol_notes(rows[:1])["all"]
    assert "decoded" not in protocol_notes(rows[1:])["all"]
    capsys.readouterr()
    main(["info", config.out])
    assert "JPEGs decoded at a reduced scale" in capsys.readouterr().out
    image = f"{config.dataset.data}/test/class0/0.jpg"
    main(["predict", config.out, image, "--json", "--reduced-jpegs", "False"])
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    expected = next(cpvt.predict(config.out, [image], reduced_jpegs=False)).classes
    assert prediction["classes"] == [list(each) for each in expected]


def test_models_of_other_libraries_are_labelled_by_their_decoding(make_row):
    rows = [make_row(model="timm:vit", encoding="", pool="", reduced_jpegs=each) for each in (True, False)]
    assert [label_of(row, rows) for row in rows] == [
        "timm:vit (JPEGs decoded at a reduced scale)", "timm:vit (JPEGs decoded whole)",
    ]  # fmt: skip
