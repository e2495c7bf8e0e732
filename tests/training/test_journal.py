"""What a training says: a header, a line an epoch, where it resumes; in a comparison with the name of its model."""

import logging
import re
import shutil
from dataclasses import replace

import pytest

import cpvt
from cpvt.config import CompareConfig, DataConfig, OptimConfig, TrainConfig
from cpvt.data import open_data
from cpvt.training import train
from cpvt.training.journal import describe_data

EPOCH = (
    r"epoch (\d)/2  loss \d\.\d+  training accuracy [\d.]+%(  (?:test|validation) accuracy [\d.]+%)?  "
    r"lr [\d.e-]+  \d+ images/s"
)


@pytest.fixture
def config(tmp_path, tiny_folder):
    recipe = OptimConfig(epochs=2, batch_size=4, lr=1e-3)
    data = DataConfig(str(tiny_folder))
    return TrainConfig(out=str(tmp_path / "run"), img_size=8, dataset=data, optim=recipe, device="cpu")


@pytest.fixture
def said(caplog):
    """The lines that were logged since the last call."""
    caplog.set_level(logging.INFO, "cpvt")

    def lines():
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return lines


def test_a_training_says_what_it_trains_and_how_each_epoch_went(config, said, tiny_folder):
    train(replace(config, encoding="rope"))
    header, epochs = (lines := said())[:-2], lines[-2:]
    assert header == [
        f"data: {tiny_folder}, 11 images to train, 6 to test (at the end); 2 classes",
        "model: cpvt_micro, encoding rope, class token, 203,394 parameters",
        "images: 8x8 pixels, augmentation resized-crop, mirrored with probability 0.5",
        "training: 2 epochs of 3 steps, 6 in all; 4 images a step; adamw, lr 0.001; cpu, fp32",
    ]
    assert [re.fullmatch(EPOCH, line).groups() for line in epochs] == [("1", None), ("2", None)]


def test_the_header_names_augmentation_that_is_on(config, said):
    recipe = replace(config.optim, hflip=0.0, aa="rand-m5", mixup=0.2, aug_repeats=2, augment="crop", epochs=1)
    train(replace(config, optim=recipe, train_sizes=(8, 12)))
    images = (
        "2 sizes, 8, 12 pixels, augmentation crop, mirrored with probability 0, aa rand-m5, mixup 0.2, aug_repeats 2"
    )
    assert f"images: {images}" in said()
    train(replace(config, out=f"{config.out}-2", optim=replace(recipe, mixup=0.0, augment="native"), train_sizes=()))
    assert any(line.startswith("images: own sizes, at most 32 pixels a side, augmentation native") for line in said())


def test_an_epoch_that_was_tested_says_on_which_part(config, said, tiny_folder):
    config = replace(config, test_every=2)
    train(config)
    lines = said()
    assert "6 to test (also during training)" in lines[0]
    assert [bool(re.search("test accuracy", line)) for line in lines[-2:]] == [False, True]
    shutil.copytree(tiny_folder / "test", tiny_folder / "val")
    train(replace(config, out=f"{config.out}-2"))
    lines = said()
    assert "11 images to train, 6 to validate (val; during training), 6 to test (at the end)" in lines[0]
    assert [bool(re.search("validation accuracy", line)) for line in lines[-2:]] == [False, True]


def test_an_interrupted_training_says_where_it_resumes_and_a_finished_one_that_it_is(config, said):
    def interrupt(name, done, total, message):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, interrupt)
    said()
    train(config)
    lines = said()
    assert "resuming at step 3 of 6 (epoch 2 of 2)" in lines
    assert re.fullmatch(EPOCH, lines[-1])[1] == "2"
    assert len([line for line in lines if line.startswith("epoch ")]) == 1
    train(config)
    assert said() == [f"'{config.out}' is finished, after 2 epochs: nothing is left to train"]


def test_what_is_missing_or_stands_in_for_another_part_is_said(image_folder, tmp_path):
    words = {
        ("train", "val"): "11 images to train, 2 to test (val, for want of a test part; at the end); 2 classes",
        ("train", "test", "valid"): "to validate (valid; not used without --test-every), 2 to test (at the end)",
        ("train",): "11 images to train, none to test: '.*' has no test/ (or val/) to test on; 2 classes",
        ("train", "eval"): "none to test: '.*' has no test/ (or val/) to test on; eval/ is not read: rename",
    }
    for number, (parts, expected) in enumerate(words.items()):
        root = image_folder({f"{part}/{name}": 1 for part in parts for name in "ab"}, tmp_path / str(number))
        assert re.search(re.escape(expected).replace(r"\.\*", ".*"), describe_data(open_data(str(root)), 11))


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_comparison_has_one_header_and_names_the_model_in_every_other_line(config, said, tmp_path, parallel, forked):
    comparison = CompareConfig(
        out=str(tmp_path / "all"), encodings=("none", "sincos"), canvas_sizes=(8,), resize_sizes=(8,), img_size=8,
        parallel=parallel, device="cpu", dataset=config.dataset, optim=config.optim,
    )  # fmt: skip
    progress = []
    cpvt.compare(comparison, lambda *step: progress.append(step))
    lines = said()
    assert [line.partition(":")[0] for line in lines[:2]] == ["data", "images"]
    assert lines[2] == f"2 of 2 models to train or test, {parallel} at once; cpvt_micro"
    for name in ("none cls seed 0", "sincos cls seed 0"):
        begin, end = (line for line in lines if line.startswith(f"{name}: "))
        assert re.fullmatch(rf"{name}: [\d,]+ parameters, 2 epochs", begin)
        assert re.fullmatch(rf"{name}: {EPOCH}", end)[1] == "2"
    assert len(lines) == 3 + 2 * 2
    assert all(message == "" for name, *_, message in progress if ": " in name)  # a row says it
