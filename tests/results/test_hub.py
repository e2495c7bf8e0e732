"""Models on the hub: sent and fetched over HTTP, the same to the bit, with a card, and errors that say what to do."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save

import cpvt
from cpvt.adapters import TABLE as LIBRARIES
from cpvt.config import ExternalConfig, ModelConfig, TrainConfig
from cpvt.models import VisionTransformer
from cpvt.models.hub import HARMLESS
from cpvt.results.checkpoints import build_model
from cpvt.results.hub import kind_of_test, without_paths
from cpvt.results.info import describe_run
from cpvt.runtime.files import append_rows
from cpvt.training.build import with_model
from tests.hub import TOKEN, Hub, sha

CACHE = "HF_HUB_CACHE"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine, with an empty cache, which is used in place of huggingface.co; nobody is logged in."""
    hub = Hub()
    for name, value in {
        "ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": False, CACHE: str(tmp_path / "cache"),
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_TOKEN_PATH": str(tmp_path / "token"), "HF_HUB_DISABLE_TELEMETRY": True,
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield hub
    hub.shutdown()
    hub.server_close()


@pytest.fixture
def logged_in(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def equal(one, other):
    """Whether two models are the same: configuration, weights to the bit, and what they answer."""
    states = one.state_dict(), other.state_dict()
    assert one.config == other.config
    assert states[0].keys() == states[1].keys()
    images = torch.randn(2, one.config.in_chans, 13, 22, generator=torch.Generator().manual_seed(0))
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0]) and torch.equal(
        one.eval()(images), other.eval()(images)
    )


def test_a_run_that_was_sent_is_the_same_for_everyone_who_fetches_it(hub, logged_in, tiny_run):
    run = cpvt.load(tiny_run, "cpu")
    address = run.push_to_hub("me/pets", license="mit", commit_message="First")
    assert address == f"{hub.endpoint}/me/pets/commit/{sha('me/pets', 1)}"
    assert sorted(hub.files("me/pets")) == ["README.md", "checkpoint.json", "config.json", "model.safetensors"]
    back = cpvt.load("hf-hub:me/pets", "cpu")
    assert equal(run.model, back.model)
    assert (back.transform, back.class_names, back.config) == (run.transform, run.class_names, run.config)
    assert back.adapter.name == back.name == "hf-hub:me/pets"
    assert equal(run.model, VisionTransformer.from_pretrained("me/pets"))
    by_timm = timm.create_model("hf-hub:me/pets", pretrained=True)
    assert equal(run.model, by_timm)
    read = timm.data.resolve_model_data_config(by_timm)
    assert (tuple(read["mean"]), read["crop_pct"]) == (run.transform.mean, run.transform.crop_ratio)
    assert by_timm.pretrained_cfg["label_names"] == ["cat", "dog"]
    fetched = [line for line in hub.served if line.startswith("GET") and "resolve" in line]
    assert len(fetched) == 3, "each file is fetched once; the card is not"


def test_the_card_is_written_from_the_run_and_names_no_folder_of_this_machine(tiny_run, tmp_path, make_row):
    own = {name: getattr(cpvt.load(tiny_run, "cpu").transform, name) for name in ("crop_ratio", "longest_side")}
    rows = [
        make_row(protocol=protocol, size=size, scale_rule=rule, correct=correct, total=1200, data="pets", **own,
                 scale=(1.0, 2.0) if rule == "protocol" else None)
        for protocol, size, rule, correct in (
            ("resize", 8, "protocol", 600), ("resize", (8, 16), "protocol", 300), ("resize", 8, "", 120),
            ("canvas", 8, "2.0", 60),
        )
    ]  # fmt: skip
    changes = ({"model": "timm:vit"}, {"encoding": "learned"}, {"pool": "gap"}, {"seed": 1})
    others = [make_row(**change, correct=99, size=24) for change in changes]
    append_rows(tiny_run / "rows.jsonl", [*rows, *others])
    run = cpvt.load(tiny_run, "cpu")
    info = describe_run(tiny_run, run.record)
    assert info["tested on pets, resize, with scale, 8"] == "50.0% of 1,200 images"
    assert info["tested on pets, resize, no scale, 8"] == "10.0% of 1,200 images"
    assert not any("24" in title for title in info), "of another model"
    run.save_pretrained(tmp_path / "shared", repo_id="me/pets", license="cc-by-4.0")
    card = (tmp_path / "shared" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: cpvt\npipeline_tag: image-classification\ntags:\n")
    for words in (
        "# pets", "2 classes: cat, dog", "encoding `peg`", "| images | resized to 8 pixels", "1 of 1 epochs",
        'cpvt.load("hf-hub:me/pets")', 'timm.create_model("hf-hub:me/pets", pretrained=True)',
        "| training data | images |",
        "| of 1,200 test images of pets, percent | 8 | 8x16 |", "| resize, with scale | 50.0 | 25.0 |",
        "| resize, no scale | 10.0 | – |", "| canvas, scale 2.0 | 5.0 | – |",
    ):  # fmt: skip
        assert words in card
    assert "24" not in card.partition("## Accuracy")[2], "of another model"
    for name in ("README.md", "checkpoint.json", "config.json"):
        assert str(tmp_path) not in (tmp_path / "shared" / name).read_text()
    assert json.loads((tmp_path / "shared" / "checkpoint.json").read_text())["training"]["out"] == "pets"
    run.model.scale = 2.0  # what is shared is the model as it is now
    run.save_pretrained(tmp_path / "shared")
    plain = cpvt.load(tmp_path / "shared", "cpu")
    assert plain.config.scale == 2.0
    plain.save_pretrained(tmp_path / "again")
    assert "license:" not in (tmp_path / "again" / "README.md").read_text()
    assert "## Accuracy" not in (tmp_path / "again" / "README.md").read_text()
    with pytest.raises(ValueError, match="is the run itself, which may have to resume: name another folder"):
        run.save_pretrained(tiny_run)


def test_rows_of_images_that_were_read_otherwise_are_lines_of_their_own(tiny_run, tmp_path, make_row):
    run = cpvt.load(tiny_run, "cpu")
    names = ("crop_ratio", "interpolation", "longest_side", "mean", "std", "reduced_jpegs")
    own = {name: getattr(run.transform, name) for name in names}
    others = {
        "crop_ratio": 0.5, "interpolation": "nearest", "longest_side": 64, "mean": (0.1, 0.2, 0.3),
        "std": (0.5, 0.25, 1.0), "reduced_jpegs": True,
    }  # fmt: skip
    given = {"scale_rule": "protocol", "scale": (1.0, 1.0), "protocol": "resize"}
    changes = [{}, {"mean": (), "std": (), "size": 16}, *({name: value} for name, value in others.items())]
    rows = [
        make_row(**{**own, **change, "correct": count, "total": 200, **given})
        for count, change in enumerate(changes, start=1)
    ]
    append_rows(tiny_run / "rows.jsonl", rows)
    run.save_pretrained(tmp_path / "shared")
    card = (tmp_path / "shared" / "README.md").read_text()
    for line in (
        "| resize, with scale | 1.0 | 0.5 |", "| resize, with scale, crop ratio 0.5 | – | 1.5 |",
        "| resize, with scale, interpolation nearest | – | 2.0 |",
        "| resize, with scale, longest side 64 | – | 2.5 |",
        "| resize, with scale, mean 0.1 0.2 0.3 | – | 3.0 |", "| resize, with scale, std 0.5 0.25 1.0 | – | 3.5 |",
        "| resize, with scale, reduced JPEGs True | – | 4.0 |",
    ):  # fmt: skip
        assert line in card


def test_a_run_is_its_folder_wherever_the_process_works_by_now(tiny_run, tmp_path, make_row, monkeypatch):
    append_rows(tiny_run / "rows.jsonl", [make_row(size=24, data="pets")])
    monkeypatch.chdir(tiny_run.parent)
    run = cpvt.load(tiny_run.name, "cpu")
    (tmp_path / "work" / tiny_run.name).mkdir(parents=True)  # of the same name, but another one
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(ValueError, match="is the run itself"):
        run.save_pretrained(tiny_run)
    run.save_pretrained(tiny_run.name)
    assert "test images of pets" in (tmp_path / "work" / tiny_run.name / "README.md").read_text()
    assert (run.source, replace(run, record={}).name) == (tiny_run.name, tiny_run.name), "as it was named"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/data/my runs/peg", "peg"), ("runs/peg", "runs/peg"), ("~/pets", "pets"), (r"C:\data\pets", "pets"),
        ("timm:local-dir:/data/x y", "timm:local-dir:x y"), ("hf:/data/vit", "hf:vit"), ("/data", "data"),
        ("https://x.org/a/b", "https://x.org/a/b"), ("hf-hub:me/pets", "hf-hub:me/pets"), ("--out=/a/b", "--out=b"),
        ("own:Table(file='/a/b')", "own:Table(file='b')"), ("wds//home/anna/secret/shards", "wds/shards"),
        ("hfds//home/anna/x", "hfds/x"), ("wds/~anna/x/{00..10}.tar", "wds/{00..10}.tar"), ("../../anna/pets", "pets"),
        ("runs/../../anna/pets", "runs/pets"), ("v1.2/../../anna/pets", "pets"), (r"wds/C:\anna\x", "wds/x"),
        ("~anna/pets", "pets"), ("[/home/a/x]", "[x]"),
        ("{/home/a/x:1}", "{x:1}"), ("a,/home/anna/pets", "a,pets"), ("a;../anna/pets", "a;pets"),
        ("file:///home/anna/x", "x"), ("from file:///home/anna/x", "from x"), ("from hfds//home/anna/x", "from hfds/x"),
        ("wds/https://x.org/a//{0..9}.tar", "wds/https://x.org/a//{0..9}.tar"), ("torch/cifar10", "torch/cifar10"),
        ("wds/pipe:cat /home/anna/x.tar", "wds/pipe:cat x.tar"),
        ("wds/https://x.org/a::/b/c", "wds/https://x.org/a::c"),
        ("hf://datasets/me/a", "hf://datasets/me/a"), ("from https://x.org:80/a, b/c", "from https://x.org:80/a, b/c"),
        ("~5 images/s, 3 and/or 4", "~5 images/s, 3 and/or 4"), ("hfds/me/pets:train", "hfds/me/pets:train"),
        ({"command": "x.py --data=wds//a/b --data ../a/b"}, {"command": "x.py --data=wds/b --data b"}),
        ({"command": "/bin/x.py '/my data/pets' --out=/a/b"}, {"command": "x.py pets --out=b"}),
        ({"class_names": ["/m/01", "n/a"]}, {"class_names": ["/m/01", "n/a"]}), ([3, None, "/a/b"], [3, None, "b"]),
    ],
)  # fmt: skip
def test_records_are_shared_without_folders(value, expected):
    assert without_paths(value) == expected


MODELS = {
    "table at another size, two heads": dict(encoding="learned+peg", img_size=(24, 40), distilled=True),
    "grey, without a head": dict(in_chans=1, num_classes=0, global_pool=""),
    "given a scale, dropped paths": dict(encoding="rope", scale=(1.5, 2.0), drop_path_rate=0.1, drop_rate=0.2),
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_a_model_comes_back_whatever_became_of_it(options, tmp_path):
    model = cpvt.create_model("cpvt_micro", **{"num_classes": 5, **options})
    model.set_input_size((48, 32))
    if model.num_classes:
        model.reset_classifier(3, "avg")
    assert model.save_pretrained(tmp_path / "model") is None
    assert equal(model, VisionTransformer.from_pretrained(tmp_path / "model"))
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True)
    assert equal(model, by_timm)
    if model.num_classes:
        wrapper = pytest.importorskip("transformers").TimmWrapperForImageClassification
        assert equal(model, wrapper.from_pretrained(tmp_path / "model").timm_model)
    assert "# model\n" in (tmp_path / "model" / "README.md").read_text()
    (tmp_path / "model" / "README.md").write_text("my own words")
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "README.md").read_text() == "my own words"


def test_a_model_alone_is_sent_and_fetched_too(hub, logged_in, tmp_path):
    model = cpvt.create_model("cpvt_micro", num_classes=3)
    assert model.save_pretrained(tmp_path / "first", push_to_hub=True, private=True).endswith(sha("me/first", 1))
    hub.private.add("me/first")
    model.head.weight.data.zero_()
    model.push_to_hub("me/first", license="mit")
    assert equal(model, VisionTransformer.from_pretrained("hf-hub:me/first"))
    old = VisionTransformer.from_pretrained(f"me/first@{sha('me/first', 1)}")
    assert bool(old.head.weight.any())
    assert equal(old, VisionTransformer.from_pretrained("me/first", revision=sha("me/first", 1)))
    run = cpvt.load("hf-hub:me/first", "cpu")
    assert (run.class_names, run.name, run.transform.size) == ((), "hf-hub:me/first", 32)
    assert equal(model, run.model)


def test_what_timm_sent_is_read_and_its_pickled_file_is_not(hub, logged_in):
    model = timm.create_model("cpvt_micro_gap", num_classes=2, img_size=40)
    names = {"label_names": ["cat", "dog"]}
    data_config = {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.9, "interpolation": "bilinear"}
    timm.models.push_to_hf_hub(model, "me/timm", model_config=names, data_config=data_config)
    assert "pytorch_model.bin" in hub.files("me/timm")
    run = cpvt.load("hf-hub:me/timm", "cpu")
    assert equal(model, run.model)
    assert run.class_names == ("cat", "dog")
    read = run.transform
    assert (read.mean, read.crop_ratio, read.interpolation, read.size) == ((0.1, 0.2, 0.3), 0.9, "bilinear", 40)
    assert not [line for line in hub.served if ".bin" in line and "resolve" in line]


def test_the_commands_take_a_model_of_the_hub(hub, logged_in, tiny_run, tiny_folder, tmp_path, capsys, monkeypatch):
    from cpvt.cli import main

    cpvt.load(tiny_run, "cpu").push_to_hub("me/pets")
    monkeypatch.chdir(tmp_path)
    name, image, data = "hf-hub:me/pets", str(tiny_folder / "test" / "cat" / "0.png"), ["--data", str(tiny_folder)]
    train = ["train", *data, "--epochs", "1", "--img-size", "8"]
    for command in (
        ["info", name], ["predict", name, image], ["sweep", name, *data, "--sizes", "8", "--out", "swept"],
        ["probe", name, *data, "--probes", "order", "--images", "2", "--out", "probed"],
        ["export", name, "--format", "torch-export"],
        [*train, "--encoding", "peg", "--initial-checkpoint", name, "--out", "tuned"],
        [*train, "--encoding", "peg", "--teacher", name, "--out", "taught"],
    ):  # fmt: skip
        main(command)
        assert json.loads(capsys.readouterr().out.splitlines()[-1]), command
    assert (tmp_path / "pets.pt2").is_file()
    assert json.loads((tmp_path / "tuned" / "checkpoint.json").read_text())["training"]["initial_checkpoint"] == name


def test_another_process_fetches_from_the_address_that_the_environment_names(hub, logged_in, tiny_run, tiny_folder):
    cpvt.load(tiny_run, "cpu").push_to_hub("me/pets")
    image = tiny_folder / "test" / "cat" / "0.png"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_CACHE": getattr(constants, CACHE),
        "HF_HUB_OFFLINE": "0",
    }
    command = [sys.executable, "-m", "cpvt", "predict", "hf-hub:me/pets", str(image), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictions"][0]["classes"][0][0] in ("cat", "dog")


LACKS = {
    "not there": ("me/nothing", r"'hf-hub:me/nothing' is not on the hub, or is private.*hf auth login.*HF_TOKEN"),
    "private": ("me/private", "'hf-hub:me/private' is not on the hub, or is private"),
    "gated": ("me/gated", "'hf-hub:me/gated' asks for its conditions to be accepted"),
    "no such revision": ("me/whole@v2", "'hf-hub:me/whole@v2' has no such revision on the hub"),
    "no name": ("me/a/b", "'hf-hub:me/a/b' is no name of the hub: expected OWNER/NAME, or hf-hub:OWNER/NAME@REVISION"),
    "pickled weights": ("me/pickled", "holds no model.safetensors, but config.json, pytorch_model.bin. Weights are"),
    "weights alone": ("me/weights", "holds no checkpoint.json or config.json, but model.safetensors"),
    "of timm": ("me/timm", "holds no model of cpvt, but 'resnet18'; cpvt takes it as timm:hf-hub:me/timm"),
    "of transformers": ("me/bert", "holds no model of cpvt, but 'bert'; cpvt takes it as hf:me/bert"),
    "code": ("me/code", "has the encoding 'subprocess:Popen', which may run code.*--local-dir FOLDER"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "message"), LACKS.values(), ids=LACKS)
def test_errors_say_what_to_do(hub, name, message):
    ours = {"architecture": "cpvt_micro", "model_args": {"encoding": "subprocess:Popen"}}
    configs = {
        "timm": {"architecture": "resnet18"},
        "bert": {"model_type": "bert"},
        "code": ours,
        "whole": {},
        "private": {},
    }
    for repo, config in configs.items():
        hub.repos[f"me/{repo}"] = [{"config.json": json.dumps(config).encode(), "model.safetensors": b""}]
    hub.repos["me/gated"] = hub.repos["me/whole"]
    hub.repos["me/pickled"] = [{"config.json": b"{}", "pytorch_model.bin": b"", ".gitattributes": b""}]
    hub.repos["me/weights"] = [{"model.safetensors": b""}]
    hub.private.add("me/private")
    hub.gated.add("me/gated")
    with pytest.raises(ValueError, match=message):
        cpvt.load(f"hf-hub:{name}")


def test_code_that_a_record_of_the_hub_names_is_not_run(hub, logged_in, tiny_run):
    run = cpvt.load(tiny_run, "cpu")
    for name, model in {
        "encoding": {**run.record["model"], "encoding": "learned+own:Table"},
        **{
            f"remote{number}": {"name": f"hf:someone/model({option})", "num_classes": 2, "img_size": 8}
            for number, option in enumerate(
                (
                    "trust_remote_code=True",
                    "trust_remote_ｃode=True",
                    "image_size=8, trust_remote_code=1",
                    "**{'trust_remote_code': True}",
                    "code_revision='main'",
                )
            )
        },
        "file": {"name": "timm:test_vit(checkpoint_path='x.pth')", "num_classes": 2, "img_size": 8},
    }.items():
        record = json.dumps({**run.record, "model": model}).encode()
        hub.repos[f"me/{name}"] = [{"checkpoint.json": record, "model.safetensors": b""}]
        with pytest.raises(ValueError, match=f"'hf-hub:me/{name}' has the .*, which may run code"):
            cpvt.load(f"hf-hub:me/{name}")
    named = {**run.record["training"], "model": "hf:someone/model(trust_remote_code=True)"}
    record = json.dumps({**run.record, "training": named}).encode()
    hub.repos["me/named"] = [{"checkpoint.json": record, "model.safetensors": b""}]
    with pytest.raises(ValueError, match="'hf-hub:me/named' has the option 'trust_remote_code'"):
        with_model(TrainConfig("runs/x", initial_checkpoint="hf-hub:me/named"))
    known = {"name": "timm:test_vit(img_size=32, dynamic_img_size=True)", "num_classes": 2, "img_size": 32}
    weights = save(build_model(ExternalConfig(**known)).state_dict())
    record = json.dumps({**run.record, "model": known}).encode()
    hub.repos["me/known"] = [{"checkpoint.json": record, "model.safetensors": weights}]
    assert cpvt.load("hf-hub:me/known", "cpu").config.name == known["name"], "shapes are no code"
    added = {option.partition("=")[0] for library in LIBRARIES.values() for option in library.several_sizes}
    assert {"dynamic_img_size"} < added <= HARMLESS, "options that training at several sizes adds"
    config = {"architecture": "cpvt_micro", "pretrained_cfg": {}, "model_args": {"encoding": "own:Table"}}
    hub.repos["me/timm"] = [{"config.json": json.dumps(config).encode()}]
    with pytest.raises(ValueError, match="'hf-hub:me/timm' has the encoding 'own:Table', which may run code"):
        timm.create_model("hf-hub:me/timm")
    assert timm.create_model("hf-hub:me/timm", encoding="peg").config.encoding == "peg"


@pytest.mark.parametrize("data", ["digits", "wds/pipe:touch ran.txt", None])
def test_a_record_of_the_hub_chooses_no_data(hub, logged_in, tiny_run, tiny_folder, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    run = cpvt.load(tiny_run, "cpu")
    dataset = {**run.record["training"]["dataset"], "data": data or str(tiny_folder), "data_dir": "elsewhere"}
    record = {**run.record, "training": {**run.record["training"], "dataset": dataset}}
    replace(run, record=record).push_to_hub("me/pets")
    hub.repos["me/pets"][-1]["checkpoint.json"] = json.dumps(record).encode()
    for model in ("hf-hub:me/pets", cpvt.load("hf-hub:me/pets", "cpu")):
        with pytest.raises(ValueError, match="--data.* needed to test 'hf-hub:me/pets', which is of the hub, whose fi"):
            next(cpvt.sweep(model, sizes=[8], device="cpu"))
        (row,) = cpvt.sweep(model, str(tiny_folder), [8], device="cpu")
        assert row.total == 6
    assert not (tmp_path / "ran.txt").exists()


def test_without_a_network_the_copy_in_the_cache_is_used(hub, logged_in, tiny_run, monkeypatch):
    run = cpvt.load(tiny_run, "cpu")
    run.push_to_hub("me/pets")
    run.push_to_hub("me/cats")
    cpvt.load("hf-hub:me/pets", "cpu")
    timm.models.load_model_config_from_hf("me/cats")  # of me/cats config.json alone is in the cache
    for offline in ("no answer", "HF_HUB_OFFLINE"):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline == "HF_HUB_OFFLINE")
        assert equal(run.model, cpvt.load("hf-hub:me/pets", "cpu").model)
        for name in ("me/cats", "me/dogs"):
            with pytest.raises(
                ValueError, match=f"{name}' could not be fetched.*connect, or pass a folder with its files"
            ):
                cpvt.load(f"hf-hub:{name}", "cpu")
        with pytest.raises(ValueError, match="'me/pets' was not sent: .* save_pretrained"):
            run.push_to_hub("me/pets")


def test_who_is_not_logged_in_sends_nothing(hub, tiny_run):
    with pytest.raises(ValueError, match=r"the hub did not serve 'me/pets': .*401.*; log in \(hf auth login\)"):
        cpvt.load(tiny_run, "cpu").push_to_hub("me/pets")
    assert hub.repos == {}


def test_runs_of_other_libraries_are_shared_unless_a_folder_of_this_machine_builds_them(
    tmp_path, tiny_run, monkeypatch
):
    run = cpvt.load(tiny_run, "cpu")
    model = timm.create_model("test_vit", num_classes=2)
    external = {"name": "timm:test_vit", "num_classes": 2, "img_size": 160}
    shared = replace(run, model=model, record={**run.record, "model": external})
    shared.save_pretrained(tmp_path / "shared")
    assert not (tmp_path / "shared" / "config.json").exists()
    (tmp_path / "test_vit").mkdir()  # a folder that happens to be called like the model
    monkeypatch.chdir(tmp_path)
    shared.save_pretrained(tmp_path / "shared")
    back = cpvt.load(tmp_path / "shared", "cpu")
    assert all(torch.equal(weight, back.model.state_dict()[name]) for name, weight in model.state_dict().items())
    local = replace(shared, record={**run.record, "model": {**external, "name": f"hf:{tmp_path}"}})
    with pytest.raises(ValueError, match="is built from a folder of this machine, which others lack"):
        local.save_pretrained(tmp_path / "other")


def test_pretrained_weights_keep_their_recommended_size_and_lose_the_names_of_a_head_that_was_replaced(tmp_path):
    for classes in (10, 3):
        model = cpvt.create_model("cpvt_mini_peg5_gap", pretrained=True, num_classes=classes)
        model.save_pretrained(tmp_path / f"{classes}")
    ten, three = (cpvt.load(tmp_path / name, "cpu") for name in ("10", "3"))
    assert ten.transform == three.transform
    assert (ten.transform.size, len(ten.class_names), three.class_names) == (40, 10, ())
    assert ten.class_names == cpvt.load("cpvt_mini_peg5_gap").class_names
    assert '"license"' not in (tmp_path / "10" / "config.json").read_text()


def test_files_that_do_not_belong_together_are_refused(tmp_path, tiny_run):
    cpvt.create_model("cpvt_micro").save_pretrained(tmp_path)
    cpvt.create_model("cpvt_micro_gap").save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="(?s)do not fit its config.json: .*cls_token"):
        VisionTransformer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no config.json, as save_pretrained writes it; cpvt.load reads a run"):
        VisionTransformer.from_pretrained(tiny_run)
    with pytest.raises(ValueError, match=r"Did you mean hf-hub:me/pets\?"):
        cpvt.sweep("hf_hub:me/pets", "digits").__next__()


def test_a_config_without_a_record_is_a_run(tmp_path, tiny_folder):
    cpvt.create_model("cpvt_micro", num_classes=2).save_pretrained(tmp_path / "alone")
    assert ModelConfig(**cpvt.load(tmp_path / "alone").record["model"]).num_classes == 2
    (row,) = cpvt.sweep(tmp_path / "alone", str(tiny_folder), [8], device="cpu")  # classes are matched by index
    assert (row.encoding, row.pool, row.at, row.total) == ("peg", "cls", (1,), 6)
    image = tiny_folder / "test" / "cat" / "0.png"
    assert {name for name, _ in cpvt.load(tmp_path / "alone")(image).classes} == {"0", "1"}
    with pytest.raises(ValueError, match=re.escape("data= (--data) is needed to test")):
        next(cpvt.sweep(tmp_path / "alone"))


def test_a_model_whose_own_rule_is_paper_was_given_no_scale(make_row):
    for values, words in (
        ({"scale": (1.5, 1.5)}, "resize, with scale"),
        ({"scale": None}, "resize, no scale"),
        ({"scale": None, "train_size": None}, "resize, with scale"),  # which scale it was is not known
        ({"scale": None, "protocol": "native"}, "native, with scale"),  # each image has its own
        ({"scale": None, "refused": "too large"}, "resize, with scale"),
    ):
        row = make_row(**{"protocol": "resize", "scale_rule": "protocol", **values})
        assert kind_of_test(row, {}).startswith(words)
