"""Configurations: numbers out of range are refused when a configuration is created; old names are read."""

import copy
import inspect
import json
import pickle
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pytest

import cpvt
from cpvt import config as configs
from cpvt.cli import main, parse
from cpvt.config import (
    CompareConfig,
    DataConfig,
    OptimConfig,
    PredictConfig,
    ProbeConfig,
    Retrofit,
    RetrofitConfig,
    RuntimeConfig,
    SweepConfig,
    TrainConfig,
)
from cpvt.config.base import RANGES, Options, check_ranges, differences
from cpvt.config.legacy import RENAMED, current
from cpvt.models.pretrained import shipped_files
from cpvt.results.checkpoints import read_record
from cpvt.training.resume import is_finished


def train(**options):
    return configs.TrainConfig(out="run", **options)


@pytest.mark.parametrize(
    ("make", "option", "value", "words"),
    [
        (RuntimeConfig, "grad_accum_steps", 0, "1 or more; got 0"),
        (RuntimeConfig, "grad_accum_steps", -1, "1 or more"),
        (RuntimeConfig, "save_minutes", -1, "0 or more"),
        (DataConfig, "longest_side", 0, "1 or more"),
        (DataConfig, "shuffle_buffer", -1, "0 or more"),
        (DataConfig, "train_num_samples", 0, "1 or more"),
        (DataConfig, "train_num_samples", -5, "1 or more"),
        (DataConfig, "workers", -1, "0 or more"),
        (train, "img_size", 0, "1 or more"),
        (train, "test_every", -1, "0 or more"),
        (train, "seed", -1, "0 or more"),
        (OptimConfig, "batch_size", "32", "1 or more; got '32'"),
        (OptimConfig, "lr", float("nan"), "above 0; got nan"),
        (OptimConfig, "min_lr", 1.0, "from 0 to lr, 0.003; got 1.0"),
        (OptimConfig, "warmup_lr", -1e-3, "from 0 to lr"),
        (OptimConfig, "crop_scale", (0.0, 1.0), "above 0 and at most 1; got 0.0"),
        (OptimConfig, "crop_scale", (0.9, 0.1), "go up, such as 0.35 1.0; got"),
        (OptimConfig, "model_ema_decay", 1.0, "above 0 and below 1"),
        (CompareConfig, "seeds", (0, -1), "0 or more; got -1"),
        (CompareConfig, "parallel", 0, "1 or more"),
        (lambda **options: RetrofitConfig("timm:x", **options), "seed", -1, "0 or more"),
        (lambda **options: SweepConfig("run", **options), "batch_size", 0, "1 or more"),
        (lambda **options: ProbeConfig("run", **options), "images", 0, "1 or more"),
        (lambda **options: PredictConfig(("a.jpg",), **options), "top", 0, "1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(make, option, value, words):
    with pytest.raises(ValueError, match=f"{option} must be {words}|{option} must {words}"):
        make(**{option: value})


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (OptimConfig, {"crop_scale": (0.5,)}, r"crop_scale takes 2 values; got \(0.5,\)"),
        (OptimConfig, {"epochs": 2.5}, "epochs must be a whole number; got 2.5"),
        (CompareConfig, {"img_size": 32.5}, "img_size must be a whole number; got 32.5"),
        (train, {"train_sizes": (32.5,)}, "a size is a side such as 48, or .*; got '32.5'"),
        (OptimConfig, {"sizes_per_step": "every"}, "sizes_per_step must be one of one, all; got 'every'"),
        (OptimConfig, {"precision": "bf32"}, "precision must be one of fp32, bf16, fp16; got 'bf32'"),
        (DataConfig, {"on_bad_image": "skp"}, "on_bad_image must be one of error, skip; got 'skp'"),
        (DataConfig, {"data": ""}, "data is empty: is a variable of the shell unset"),
        (train, {"seed": "1a"}, "seed must be .*; got '1a'"),
    ],
)
def test_values_of_another_kind_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_numbers_of_numpy_are_kept_as_plain_ones():
    config = TrainConfig("run", seed=np.int64(3), optim=OptimConfig(lr=np.float32(0.5), epochs=np.int32(2)))
    assert json.loads(json.dumps(asdict(config)))["seed"] == 3
    assert (type(config.optim.lr), type(config.optim.epochs)) == (float, int)


@pytest.mark.parametrize("size", [0, -1, "8x", "0x8", "8x8x8"])
def test_malformed_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"a size is a side such as 48, or .*; got '{size}'"):
        train(train_sizes=(8, size))


def test_every_numeric_option_has_a_range(monkeypatch):
    """A new option that takes a number needs an entry in RANGES."""
    checked = set()
    monkeypatch.setattr("cpvt.config.base.check_ranges", lambda config, ranges: checked.update(*ranges.values()))
    parts = (OptimConfig(), RuntimeConfig(), DataConfig(), train(), RetrofitConfig("timm:x"), CompareConfig())
    elsewhere = {"crop_pct", "min_lr", "warmup_lr", "train_sizes", "sizes", "canvas_sizes", "resize_sizes"}
    options = [each for part in parts for each in fields(part)]
    numbers = {each.name for each in options if re.search(r"\b(int|float)\b", each.type)}
    assert numbers - checked - elsewhere == set()


def test_none_is_allowed_and_limits_are_inclusive_where_stated():
    limits = {"1 or more": 1, "0 or more": 0, "from 0 to 1": 1, "from 0 to below 1": 0, "above 0 and at most 1": 1}
    for words in RANGES:
        check_ranges(DataConfig(), {words: ("train_num_samples",)})
        if words in limits:
            check_ranges(train(seed=limits[words]), {words: ("seed",)})
    for words in ("above 0", "above 0 and at most 1", "above 0 and below 1"):
        with pytest.raises(ValueError, match=f"seed must be {words}; got 0"):
            check_ranges(train(seed=0), {words: ("seed",)})


@pytest.mark.parametrize("command", ["train --out OUT --grad-accum-steps 0", "compare --seeds 0 -1 --out OUT"])
def test_the_command_line_reports_numbers_out_of_range(capsys, tmp_path, command):
    with pytest.raises(SystemExit) as stop:
        main(command.replace("OUT", str(tmp_path / "out")).split())
    assert stop.value.code == 2
    assert re.match(r"cpvt: \w+ must be .*; got -?\d\n$", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["sweep cpvt_mini_peg5_gap --data digits", "compare --parallel 1 --quick"])
def test_an_unwritable_folder_is_reported_before_the_work(capsys, tmp_path, command):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main([*command.split(), "--out", str(tmp_path / "file" / "out")])
    assert f"cannot write to '{tmp_path}/file/out': '{tmp_path}/file' is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train --out OUT --train-size 8", "--train-size is now --img-size"),
        ("train --out OUT --no-shard", "--no-shard is now --no-fsdp"),
        ("sweep x --on-bad-picture=skip", "--on-bad-picture is now --on-bad-image"),
        ("sweep x --loader_workers 2", "--loader_workers is now --workers"),
        ("sweep x --protocol canvas", "--protocol is now --protocols"),
    ],
)
def test_an_old_flag_raises_with_its_new_name(capsys, tmp_path, command, words):
    with pytest.raises(SystemExit) as stop:
        main(command.replace("OUT", str(tmp_path / "out")).split())
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"cpvt: {words}\n"


def test_options_of_a_call_are_checked_against_the_configuration():
    shown = inspect.signature(cpvt.sweep).parameters
    assert list(shown)[:4] == ["model", "data", "sizes", "on_progress"]
    assert {"out", "options"} & set(shown) == set()
    assert shown["protocols"].default == ("resize",)
    for options, words in (
        ({"protocol": "canvas"}, "'protocol' is now 'protocols'"),
        ({"batchsize": 3}, "no option 'batchsize'. Did you mean batch_size.*Known options: checkpoint, protocols"),
        ({"out": "folder"}, "no option 'out'"),
    ):
        with pytest.raises(TypeError, match=words):
            cpvt.sweep("cpvt_mini_peg5_gap", **options)
    with pytest.raises(ValueError, match="batch_size must be 1 or more; got 0"):
        cpvt.sweep("cpvt_mini_peg5_gap", batch_size=0)
    with pytest.raises(ValueError, match=r"protocols takes several values, as in protocols=\('canvas',\)"):
        cpvt.sweep("cpvt_mini_peg5_gap", protocols="canvas")


def test_the_command_line_parses_sizes_as_calls_do():
    config = parse(["sweep", "run", "--sizes", "8", "12x16", "--img-size", "24x32", "--protocols", "canvas", "resize"])
    assert config == SweepConfig("run", sizes=(8, (12, 16)), img_size=(24, 32), protocols=("canvas", "resize"))
    assert parse(["sweep", "run"]).img_size is None


def test_every_renamed_option_exists():
    kinds = [each for each in vars(configs).values() if isinstance(each, type) and issubclass(each, Options)]
    names = {each.name for kind in kinds if kind is not Options for each in fields(kind)}
    assert set(RENAMED.values()) <= names
    assert set(RENAMED) & names == {"protocol"}  # of predict, which takes one


@pytest.mark.parametrize("path", sorted(Path("docs/results").glob("*/compare.json")), ids=lambda path: path.parent.name)
def test_the_record_of_an_old_comparison_equals_todays_configuration(path):
    record = json.loads(path.read_text())["config"]
    values = current(record)
    inner = {"dataset": DataConfig, "optim": OptimConfig}
    values |= {name: kind(**values[name]) for name, kind in inner.items()}
    config = CompareConfig(**values)
    assert differences(record, config) == []
    changed = replace(config, optim=replace(config.optim, warmup_ratio=0.2), img_size=7)
    assert differences(record, changed) == [
        f"img_size: {config.img_size} -> 7", f"warmup_ratio: {config.optim.warmup_ratio} -> 0.2",
    ]  # fmt: skip


def test_the_record_of_an_old_run_is_read_and_compared(tmp_path):
    """The record of the CIFAR-10 model that comes along has old names of options."""
    files = shipped_files("cpvt_mini_peg5_gap")
    record = json.loads(files.record.read_text())
    training = record["training"] | {"out": str(tmp_path), "train_sizes": ["24x32", 40, "8"]}
    (tmp_path / "checkpoint.json").write_text(json.dumps(record | {"training": training}))
    assert read_record(tmp_path)["training"]["dataset"]["data"] == "cifar10"
    values = current(training)
    parts = {"runtime": RuntimeConfig, "dataset": DataConfig, "optim": OptimConfig}
    config = configs.TrainConfig(**values | {name: kind(**values[name]) for name, kind in parts.items()})
    assert config.train_sizes == ((24, 32), 40, 8)
    assert is_finished(config)
    with pytest.raises(ValueError, match="another configuration .model_ema_decay: 0.999 -> 0.9"):
        is_finished(replace(config, optim=replace(config.optim, model_ema_decay=0.9)))


@pytest.mark.parametrize(("start", "equal"), [(None, True), ("other", False)])
def test_the_old_default_of_interpolation_is_todays_where_no_weights_decide_it(start, equal):
    now = configs.TrainConfig("x", initial_checkpoint=start)
    before = asdict(now) | {"dataset": asdict(now.dataset) | {"interpolation": "bicubic"}}
    assert differences(before, now) == ([] if equal else ["interpolation: bicubic -> None"])
    bilinear = replace(now, dataset=DataConfig(interpolation="bilinear"))
    assert differences(before, bilinear) == ["interpolation: bicubic -> bilinear"]


def test_paths_are_text_and_two_spellings_of_a_folder_are_one(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(tmp_path / "run", initial_checkpoint=Path("start"), dataset=DataConfig(Path("photos")))
    record = json.loads(json.dumps(asdict(config)))
    assert (record["out"], record["initial_checkpoint"]) == (str(tmp_path / "run"), "start")
    for same in ("photos/", "./photos", str(tmp_path / "photos")):
        assert differences(record, replace(config, dataset=DataConfig(same))) == []
    (tmp_path / "others").mkdir()
    for other in ("others", "gone"):
        assert differences(record, replace(config, dataset=DataConfig(other))) == [f"data: photos -> {other}"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dataset": "photos"}, r"dataset takes DataConfig\(...\), as in dataset=DataConfig\('photos'\); got 'photos'"),
        ({"model": object()}, "model takes a name, such as 'cpvt_micro'; got a object"),
        ({"seed": None}, "seed must be a whole number; got None"),
        ({"retrofit": dict(fade_end=0.3)}, "fade_end 0.3 does nothing with absolute 'keep'"),
    ],
)
def test_values_of_another_kind_say_what_is_expected(options, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig("run", **{k: Retrofit(**v) if k == "retrofit" else v for k, v in options.items()})


def test_an_option_of_a_part_says_where_it_goes():
    with pytest.raises(TypeError, match=r"epochs is an option of OptimConfig, .*: pass optim=OptimConfig\(epochs=3\)"):
        TrainConfig("runs/x", epochs=3)
    with pytest.raises(TypeError, match=r"pass dataset=DataConfig\(workers=2\)"):
        CompareConfig(workers=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'"):
        TrainConfig("runs/x", epoch=3)
    config = TrainConfig("runs/x")
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == replace(config, out="runs/x")


def test_a_dict_in_place_of_a_configuration_is_refused():
    with pytest.raises(ValueError, match=r"optim takes OptimConfig\(...\), as in optim=OptimConfig\(\); got a dict"):
        TrainConfig("x", optim=dict(epochs=5))
