"""Configurations: a number that cannot be is refused where it is said, in every option that takes one."""

from dataclasses import fields

import pytest

from cpvt import config as configs
from cpvt.cli import main
from cpvt.config import CompareConfig, RuntimeConfig, PredictConfig, ProbeConfig, OptimConfig, RetrofitConfig, DataConfig, SweepConfig
from cpvt.config.base import RANGES, check_ranges


def train(**options):
    return configs.TrainConfig(out="run", **options)


@pytest.mark.parametrize(
    ("make", "option", "value", "words"),
    [
        (RuntimeConfig, "accumulate", 0, "1 or more; got 0"),
        (RuntimeConfig, "accumulate", -1, "1 or more"),
        (RuntimeConfig, "save_minutes", -1, "0 or more"),
        (DataConfig, "longest_side", 0, "1 or more"),
        (DataConfig, "shuffle", -1, "0 or more"),
        (DataConfig, "train_num_samples", 0, "1 or more"),
        (DataConfig, "train_num_samples", -5, "1 or more"),
        (DataConfig, "workers", -1, "0 or more"),
        (train, "train_size", 0, "1 or more"),
        (train, "test_every", -1, "0 or more"),
        (train, "seed", -1, "0 or more"),
        (OptimConfig, "batch_size", "32", "1 or more; got '32'"),
        (OptimConfig, "lr", float("nan"), "above 0; got nan"),
        (OptimConfig, "min_lr", 1.0, "from 0 to lr, 0.003; got 1.0"),
        (OptimConfig, "warmup_lr", -1e-3, "from 0 to lr"),
        (OptimConfig, "crop_scale", (0.0, 1.0), "above 0 and at most 1; got 0.0"),
        (OptimConfig, "crop_scale", (0.9, 0.1), "go up, such as 0.35 1.0; got"),
        (OptimConfig, "ema", 1.0, "above 0 and below 1"),
        (CompareConfig, "seeds", (0, -1), "0 or more; got -1"),
        (CompareConfig, "parallel", 0, "1 or more"),
        (lambda **options: RetrofitConfig("timm:x", **options), "seed", -1, "0 or more"),
        (lambda **options: SweepConfig("run", **options), "batch_size", 0, "1 or more"),
        (lambda **options: ProbeConfig("run", **options), "pictures", 0, "1 or more"),
        (lambda **options: PredictConfig("run", (), **options), "top", 0, "1 or more"),
    ],
)
def test_a_number_that_cannot_be_is_refused(make, option, value, words):
    with pytest.raises(ValueError, match=f"{option} must be {words}|{option} must {words}"):
        make(**{option: value})


@pytest.mark.parametrize("size", [0, -1, "8x", "0x8", "8x8x8"])
def test_a_training_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match=f"a size is a side such as 48, or .*; got '{size}'"):
        train(train_sizes=(8, size))


def test_every_number_of_a_training_is_in_a_range(monkeypatch):
    """Whoever adds an option that takes a number says which numbers: it is checked here that they did."""
    checked = set()
    monkeypatch.setattr("cpvt.config.training.check_ranges", lambda config, ranges: checked.update(*ranges.values()))
    parts = (OptimConfig(), RuntimeConfig(), DataConfig(), train(), RetrofitConfig("timm:x"), CompareConfig())
    elsewhere = {"crop_ratio", "min_lr", "warmup_lr", "train_sizes", "sizes", "canvas_sizes", "resize_sizes"}
    numbers = {
        each.name for part in parts for each in fields(part) if {"int", "float"} & set(each.type.replace("[", " ").replace(",", " ").split())
    }  # fmt: skip
    assert numbers - checked - elsewhere == set()


def test_none_stands_for_a_default_and_limits_belong_to_their_range():
    limits = {"1 or more": 1, "0 or more": 0, "from 0 to 1": 1, "from 0 to below 1": 0, "above 0 and at most 1": 1}
    for words in RANGES:
        check_ranges(DataConfig(), {words: ("train_num_samples",)})
        if words in limits:
            check_ranges(train(seed=limits[words]), {words: ("seed",)})
    for words in ("above 0", "above 0 and at most 1", "above 0 and below 1"):
        with pytest.raises(ValueError, match=f"seed must be {words}; got 0"):
            check_ranges(train(seed=0), {words: ("seed",)})


@pytest.mark.parametrize("command", ["train --out OUT --grad-accum-steps 0", "compare --seeds 0 -1 --out OUT"])
def test_the_command_line_says_it(capsys, tmp_path, command):
    with pytest.raises(SystemExit) as stop:
        main(command.replace("OUT", str(tmp_path / "out")).split())
    assert stop.value.code == 2
    assert "must be" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sweep cpvt_mini_peg5_gap --data digits", "compare --parallel 1 --quick"])
def test_a_folder_that_cannot_be_written_is_found_before_the_work(capsys, tmp_path, command):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main([*command.split(), "--out", str(tmp_path / "file" / "out")])
    assert f"nothing can be written to '{tmp_path}/file/out': '{tmp_path}/file' is a file" in capsys.readouterr().err
