"""recipes/ship.py puts a rounded run into the package if its predictions stay; its model card matches the rows."""

import importlib.util
import json
import runpy
from pathlib import Path

import pytest
import torch

import cpvt
from cpvt.config.legacy import current
from cpvt.models import pretrained
from cpvt.reporting.markdown import fill
from cpvt.results.checkpoints import save_checkpoint

ROOT = Path(__file__).parents[1]
CARD = runpy.run_path(str(ROOT / "docs" / "results" / "weights" / "card.py"))


@pytest.fixture
def shipping():
    spec = importlib.util.spec_from_file_location("ship", ROOT / "recipes" / "ship.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_run(tmp_path):
    """A finished run of the default model, with random weights times `scale`; `model` replaces its options."""

    def make(scale=1.0, training=None, **model):
        record = json.loads(pretrained.shipped_files(pretrained.DEFAULT).record.read_text())
        record["training"] = current(record["training"])
        record["training"] |= {"out": "/data/runs/mini", "initial_checkpoint": "/data/runs/other", **(training or {})}
        record["provenance"]["command"] = "cpvt train /home/me/r.py --out=/data/runs/mini --report-to a/b"
        record["epoch"] = record["training"]["optim"]["epochs"]
        record["model"] |= model
        torch.manual_seed(0)
        weights = {key: scale * each for key, each in cpvt.create_model(pretrained.DEFAULT).state_dict().items()}
        save_checkpoint(tmp_path / "run", weights, record)
        return tmp_path / "run"

    return make


def test_a_shipped_run_is_rounded_and_without_machine_paths(shipping, make_run, tmp_path, monkeypatch):
    run, folder = make_run(), tmp_path / "weights"
    rounding = shipping.ship(run, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{pretrained.DEFAULT}.json",
        f"{pretrained.DEFAULT}.safetensors",
    ]
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    before, after = cpvt.load(run, "cpu"), cpvt.load(pretrained.DEFAULT, "cpu")
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(after.model.state_dict()[name], tensor.half().float())
    training, came = after.record["training"], after.record["provenance"]
    assert (training["out"], training["initial_checkpoint"]) == (pretrained.DEFAULT, "other")
    assert came["command"] == "cpvt train r.py --out=mini --report-to a/b"
    assert after.record["rounding"] == rounding._asdict()
    assert (after.transform, after.class_names) == (before.transform, before.class_names)
    images = list(shipping.random_images(3))
    with torch.inference_mode():
        difference = max(float((before.model(each) - after.model(each)).abs().max()) for each in images)
    assert 0 < difference == pytest.approx(rounding.logit)
    assert rounding.images == sum(map(len, images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 1e6}, "cannot be shipped: float16 moves logits by up to nan"),
        ({"encoding": "peg(at=(1, 2, 3, 4, 5), padding_mode='reflect')"}, "with options of its own"),
        ({"training": {"model": "cpvt_mini(encoding='peg5', global_pool='avg')"}}, "with options of its own"),
    ],
)
def test_a_run_that_cannot_be_shipped_changes_nothing(shipping, make_run, tmp_path, options, message):
    folder = tmp_path / "weights"
    shipping.ship(make_run(), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=message):
        shipping.ship(make_run(**options), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_rounding_that_changes_predictions_and_large_files_are_refused(shipping, make_run, tmp_path, monkeypatch):
    run, folder = make_run(), tmp_path / "weights"
    with monkeypatch.context() as patch:
        patch.setattr(shipping, "TOLERANCE", 0.0)
        with pytest.raises(ValueError, match=r"cannot be shipped: .*at most 0\.0 of a probability"):
            shipping.ship(run, folder)
    monkeypatch.setattr(shipping, "LARGEST", 1_000_000)
    with pytest.raises(ValueError, match=r"take 1,3\d\d,\d\d\d bytes, and at most 1,000,000 go"):
        shipping.ship(run, folder)
    assert not list(folder.iterdir())


def test_an_unfinished_run_is_shipped_with_a_warning(shipping, make_run, tmp_path, capsys):
    run = make_run()
    record = json.loads((run / "checkpoint.json").read_text())
    (run / "checkpoint.json").write_text(json.dumps({**record, "epoch": 1}))
    shipping.ship(run, tmp_path / "weights")
    assert "has 1 of 15 epochs" in capsys.readouterr().err


def test_the_model_card_matches_rows_and_record():
    page = pretrained.CARD.read_text()
    assert fill(page, CARD["tables"]()) == page, "run `python docs/results/weights/card.py`"


def test_accuracies_of_the_model_card_are_under_their_sizes(make_row):
    rows = [make_row(protocol="resize", size=size, correct=size, total=1000) for size in (96, 24)]
    table = CARD["accuracy"]([*rows, make_row(protocol="canvas", size=24, correct=999, total=1000)]).splitlines()
    assert table[0] == "| of 1,000 test images, percent | 24 | 96 |"
    assert table[2:] == ["| resize | 2.4 | 9.6 |", "| canvas | 99.9 | – |"]
    assert CARD["accuracy"]([]) == "*Not measured yet.*"
