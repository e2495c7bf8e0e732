"""Training: learns, reproduces bitwise, resumes, and refuses to overwrite."""

import json
import math
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

import cpvt
from cpvt.config import DataConfig, OptimConfig, TrainConfig
from cpvt.results.info import describe_run
from cpvt.training import DivergedError, loss, resume, train
from tests.training.runs import assert_same, history, weights


@pytest.fixture
def config(tmp_path, image_folder):
    folder = image_folder({"train/cat": 6, "train/dog": 5, "test/cat": 3, "test/dog": 3})
    recipe = OptimConfig(epochs=3, batch_size=4, drop_path=0.2, lr=1e-3)
    return TrainConfig(out=str(tmp_path / "run"), img_size=8, dataset=DataConfig(data=str(folder)), optim=recipe)


def test_a_run_is_weights_record_and_history(config):
    steps = []
    run = train(config, lambda *progress: steps.append(progress))
    assert sorted(path.name for path in run.iterdir()) == ["checkpoint.json", "history.jsonl", "model.safetensors"]
    record = json.loads((run / "checkpoint.json").read_text())
    assert record["class_names"] == ["cat", "dog"]
    assert record["at"] == [1]
    assert record["training"]["seed"] == 0
    assert set(record["provenance"]) == {"versions", "commit", "command", "machine", "gpu", "processes"}
    assert record["provenance"]["versions"]["torch"] == version("torch")
    assert [line["epoch"] for line in history(run)] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) and line["images"] == 11 for line in history(run))
    assert steps[-1][1:3] == (9, 9)
    assert "loss" in steps[0][3]
    assert "images/s" in steps[0][3]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(config, tmp_path):
    runs = [
        train(replace(config, out=str(tmp_path / name), seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert_same(weights(runs[0]), weights(runs[1]))
    assert not torch.equal(weights(runs[0])["head.weight"], weights(runs[2])["head.weight"])


def test_workers_change_nothing(config, tmp_path):
    plain = train(config)
    helped = train(replace(config, out=str(tmp_path / "w"), dataset=replace(config.dataset, workers=2)))
    assert_same(weights(plain), weights(helped))


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_interrupted_run_resumes_to_the_same_bits(config, tmp_path, epoch):
    whole = train(config)

    def interrupt(name, done, total, message):
        if done == 3 * epoch + 2:  # within an epoch
            raise KeyboardInterrupt

    cut = replace(config, out=str(tmp_path / "cut"))
    with pytest.raises(KeyboardInterrupt):
        train(cut, interrupt)
    assert cpvt.load(cut.out).record["epoch"] == epoch  # usable
    steps = []
    assert_same(weights(train(cut, lambda *progress: steps.append(progress[1]))), weights(whole))
    assert steps[0] == 3 * epoch + 1
    assert (tmp_path / "cut" / "history.jsonl").read_text().count("\n") == 3


def test_a_finished_run_is_not_trained_again(config):
    run = train(config)
    before = (run / "model.safetensors").stat().st_mtime_ns
    train(config, lambda *progress: pytest.fail("trained again"))
    assert (run / "model.safetensors").stat().st_mtime_ns == before


def test_another_configuration_in_the_same_folder_is_refused(config):
    run = train(config)
    before = weights(run)
    other = replace(config, seed=7, optim=replace(config.optim, lr=1.0))
    with pytest.raises(ValueError, match="another configuration") as error:
        train(other)
    assert "seed: 0 -> 7" in str(error.value)
    assert "lr: 0.001 -> 1.0" in str(error.value)
    assert_same(weights(run), before)


def test_a_training_draws_nothing_from_the_generators_of_its_caller(config):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    train(config)
    assert torch.equal(torch.rand(2), expected)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(config, monkeypatch):
    real, calls = loss.F.cross_entropy, []

    def poisoned(*arguments, **options):
        calls.append(1)
        return real(*arguments, **options) * (float("nan") if len(calls) == 5 else 1.0)

    monkeypatch.setattr(loss.F, "cross_entropy", poisoned)
    with pytest.raises(DivergedError, match=r"no longer a number at step 5 \(epoch 2\); epoch 1 is saved"):
        train(config)
    checkpoint = cpvt.load(config.out)
    assert checkpoint.record["epoch"] == 1
    assert all(parameter.isfinite().all() for parameter in checkpoint.model.parameters())


def test_weights_that_are_not_finite_are_never_saved(config, monkeypatch):
    real = resume.Checkpointer.save

    def poison(checkpointer, progress):
        if progress.epoch == 2:
            with torch.no_grad():
                checkpointer.parts.module.head.weight[0, 0] = float("inf")
        real(checkpointer, progress)

    monkeypatch.setattr(resume.Checkpointer, "save", poison)
    with pytest.raises(DivergedError, match=r"a weight is no longer a number at step 6 \(epoch 2\); epoch 1 is saved"):
        train(config)
    assert cpvt.load(config.out).model.head.weight.isfinite().all()


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_interruption_between_the_files_of_a_save_loses_nothing(config, tmp_path, monkeypatch, epoch):
    whole = train(config)
    real, cut = resume.save_checkpoint, replace(config, out=str(tmp_path / "cut"))

    def interrupt(folder, model, record):
        if record["epoch"] == epoch:
            raise KeyboardInterrupt
        real(folder, model, record)

    monkeypatch.setattr(resume, "save_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    monkeypatch.setattr(resume, "save_checkpoint", real)
    with pytest.raises(ValueError, match="another configuration"):  # also where no record was written yet
        train(replace(cut, seed=5))
    assert_same(weights(train(cut)), weights(whole))
    assert cpvt.load(cut.out).record["epoch"] == 3


def test_more_epochs_for_a_finished_run_are_a_training_from_its_weights(config, tmp_path):
    config = replace(config, optim=replace(config.optim, epochs=1))
    train(config)
    longer = replace(config, optim=replace(config.optim, epochs=2))
    with pytest.raises(ValueError, match="epochs: 1 -> 2") as error:
        train(longer)
    advice = f"; choose another --out; to train on from its weights, also pass --initial-checkpoint {config.out}"
    assert str(error.value).endswith(advice)
    run = train(replace(longer, initial_checkpoint=config.out, out=str(tmp_path / "longer")))
    assert len(history(run)) == 2


def test_large_images_are_shrunk_alike_in_training_and_test(config, image_folder, tmp_path):
    from PIL import Image

    folder = image_folder({"train/cat": 1, "train/dog": 1, "test/cat": 1}, tmp_path / "large")
    for part in ("train", "test"):
        Image.new("RGB", (400, 200)).save(folder / part / "cat" / "large.png")
    recipe = replace(config.optim, augment="crop", epochs=1)
    run = train(replace(config, dataset=DataConfig(str(folder)), optim=recipe))
    assert history(run)[0]["shrunk"] == 1
    checkpoint = cpvt.load(run)
    assert checkpoint.transform.longest_side == 32  # four times the training size
    assert next(cpvt.sweep(checkpoint, None, [8], protocols=("canvas",))).shrunk == 1


@pytest.mark.parametrize(
    "option",
    ["epochs=0", "batch_size=0", "lr=0.0", "min_lr=1.0", "warmup_ratio=1.0", "weight_decay=-1.0", "smoothing=1.0",
     "drop_path=1.0", "crop_scale=(1.0, 0.1)"],
)  # fmt: skip
def test_invalid_recipes(option):
    name, value = option.split("=")
    with pytest.raises(ValueError, match=f"{name} must .*; got "):
        OptimConfig(**{name: eval(value)})


def test_a_run_of_an_older_version_resumes_under_newer_options(config):
    run = train(config)
    record = json.loads((run / "checkpoint.json").read_text())
    del record["training"]["optim"]["crop_scale"], record["training"]["dataset"]["longest_side"]
    (run / "checkpoint.json").write_text(json.dumps(record))
    train(config, lambda *progress: pytest.fail("trained again"))
    with pytest.raises(ValueError, match=r"crop_scale: \[0.35, 1.0\] -> \[0.5, 1.0\]"):
        train(replace(config, optim=replace(config.optim, crop_scale=(0.5, 1.0))))


def test_images_that_do_not_decode(config, tmp_path):
    bad = tmp_path / "images" / "train" / "cat" / "bad.jpg"
    bad.write_text("no image")
    with pytest.raises(ValueError, match="bad.jpg"):
        train(config)
    run = train(replace(config, dataset=replace(config.dataset, on_bad_image="skip")))
    assert [(line["images"], line["skipped"]) for line in history(run)] == [(11, 1)] * 3


def test_a_training_that_met_a_bad_image_resumes_with_the_option_that_its_message_names(config, tmp_path):
    config = replace(config, optim=replace(config.optim, epochs=1, batch_size=1))
    large = tmp_path / "images" / "train" / "cat" / "0.png"
    Image.new("RGB", (9, 9)).save(large)
    options = {"on_bad_image": "skip"}, {"max_image_pixels": 81}
    for number, (option, images) in enumerate(zip(options, (10, 11))):
        own = replace(config, out=str(tmp_path / f"run{number}"), dataset=replace(config.dataset, max_image_pixels=80))
        own = replace(own, runtime=replace(own.runtime, save_minutes=0))
        with pytest.raises(
            ValueError, match=r"0.png' has 81 pixels, and 80 are allowed; raise --max-image-pixels, .*skip"
        ):
            train(own)
        run = train(replace(own, dataset=replace(own.dataset, **option)))
        assert [line["images"] for line in history(run)] == [images]


def test_native_images_smaller_than_a_patch_are_named_or_left_out(config, tmp_path):
    Image.new("RGB", (40, 3)).save(tmp_path / "images" / "train" / "cat" / "thin.png")
    config = replace(config, optim=replace(config.optim, augment="native", epochs=1))
    with pytest.raises(
        ValueError, match=r"thin.png' has 2x\d+ pixels, and the model takes 4x4 or more; .* or pass --on"
    ):
        train(config)
    run = train(replace(config, dataset=replace(config.dataset, on_bad_image="skip")))
    assert [(line["images"], line["skipped"]) for line in history(run)] == [(11, 1)]


def test_digits_are_learned_without_augmentation_and_in_grey(tmp_path):
    recipe = OptimConfig(epochs=1, batch_size=300, lr=1e-3)
    run = train(TrainConfig(out=str(tmp_path / "run"), model="cpvt_micro", optim=recipe))
    record = json.loads((run / "checkpoint.json").read_text())
    assert record["model"]["in_chans"] == 1
    assert record["model"]["num_classes"] == 10


@pytest.mark.parametrize("augment", ["none", "crop", "resized-crop"])
def test_every_augmentation_trains(config, augment):
    train(replace(config, optim=replace(config.optim, augment=augment, epochs=1)))


def test_training_lowers_the_loss(tmp_path, image_folder):
    folder = image_folder({"train/cat": 4, "train/dog": 4})
    recipe = OptimConfig(epochs=30, batch_size=8, augment="none", lr=3e-3, warmup_ratio=0.0, smoothing=0.0)
    run = train(TrainConfig(out=str(tmp_path / "run"), img_size=8, dataset=DataConfig(str(folder)), optim=recipe))
    first, *_, last = history(run)
    assert last["loss"] < first["loss"] / 3
    assert last["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": "max"}, "cls, gap; got 'max'"),
        ({"encoding": "pge"}, "unknown encoding 'pge'"),
        ({"model": "vit"}, "unknown model 'vit'"),
        ({"device": "tpu9"}, "device 'tpu9' cannot be used here"),
        ({"dataset": DataConfig("no/such/folder")}, "unknown data set 'no/such/folder'"),
    ],
)
def test_unknown_choices(config, change, message):
    with pytest.raises(ValueError, match=message):
        train(replace(config, **change))


def test_a_data_set_without_training_images(tmp_path, image_folder):
    folder = image_folder({"test/cat": 1})
    with pytest.raises(ValueError, match="has no train/"):
        train(TrainConfig(out=str(tmp_path / "run"), dataset=DataConfig(str(folder))))


VIT = "timm:vit_tiny_patch16_224(patch_size=4, embed_dim=16, depth=1, num_heads=2)"


def external(tmp_path, tiny_folder, out, **options):
    recipe = options.pop("optim", OptimConfig(epochs=1, batch_size=4))
    return TrainConfig(
        str(tmp_path / out),
        **{"model": VIT, "img_size": 8, **options},
        dataset=DataConfig(str(tiny_folder)),
        optim=recipe,
    )


def test_an_external_model_is_trained_saved_and_loaded(tmp_path, tiny_folder):
    checkpoint = cpvt.load(train(external(tmp_path, tiny_folder, "run")))
    assert (checkpoint.config.name, checkpoint.config.num_classes, checkpoint.train_size) == (VIT, 2, 8)
    assert type(checkpoint.model).__module__.startswith("timm.")
    assert checkpoint.model(torch.randn(1, 3, 8, 8)).shape == (1, 2)
    with pytest.raises(ValueError, match="needs one of our own models"):
        _ = checkpoint.own_model


def test_training_starts_from_the_weights_of_a_run_or_a_file(tmp_path, tiny_folder):
    slow = OptimConfig(epochs=1, batch_size=4, lr=1e-12, min_lr=1e-13, weight_decay=0)
    first = train(external(tmp_path, tiny_folder, "first"))
    for start in (first, first / "model.safetensors"):
        again = train(external(tmp_path, tiny_folder, f"from-{start.name}", initial_checkpoint=str(start), optim=slow))
        before, after = (cpvt.load(run).model.state_dict() for run in (first, again))
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, atol=1e-7, rtol=1e-5)


def test_a_training_reads_images_as_its_initial_weights_where_options_say_nothing(tmp_path, tiny_folder):
    def reading(name, start=None, size=None, **options):
        data, recipe = DataConfig(str(tiny_folder), **options), OptimConfig(epochs=1, batch_size=4)
        config = TrainConfig(
            str(tmp_path / name), initial_checkpoint=start, img_size=size, dataset=data, optim=recipe,
            model="" if start else "cpvt_micro(patch_size=2)",
        )  # fmt: skip
        transform = cpvt.load(train(config)).transform
        return transform.interpolation, transform.longest_side, transform.crop_ratio

    said = {"interpolation": "box", "longest_side": 11, "crop_pct": 0.7}
    start = str(tmp_path / "first")
    assert reading("plain", size=8) == ("bicubic", 32, 0.875)
    assert reading("first", size=8, **said) == tuple(said.values())
    assert reading("more", start) == tuple(said.values())
    assert reading("larger", start, 16) == ("box", 64, 0.7), "four times its own training size"
    assert reading("others", start, interpolation="bilinear") == ("bilinear", 11, 0.7)


def test_a_run_that_starts_from_another_has_its_model_where_none_is_named(tmp_path, tiny_folder):
    alike = {"dataset": DataConfig(str(tiny_folder)), "optim": OptimConfig(epochs=1, batch_size=4)}
    own = {"model": "cpvt_micro(patch_size=2)", "encoding": "rope+peg", "pool": "gap", "img_size": 6}
    starts = [train(TrainConfig(str(tmp_path / "own"), **own, **alike)), train(external(tmp_path, tiny_folder, "vit"))]
    for number, start in enumerate(starts):
        out, first = str(tmp_path / f"more{number}"), cpvt.load(start)
        more = TrainConfig(out, initial_checkpoint=str(start), **alike)
        again = cpvt.load(train(more))
        assert again.config == first.config
        assert again.record["training"]["model"] == first.record["training"]["model"]
        assert str(train(more)) == out, "finished"
    other = replace(more, out=f"{out}-other", initial_checkpoint=str(starts[0]), encoding="peg")
    with pytest.raises(ValueError, match=r"differs in encoding: rope\+peg -> peg"):
        train(other)


def test_a_record_says_how_the_weights_it_starts_from_were_trained_back_to_the_first(tmp_path, tiny_folder):
    def train_on(name, start=None, **optim):
        recipe = OptimConfig(epochs=1, batch_size=4, **optim)
        options = {"dataset": DataConfig(str(tiny_folder)), "optim": recipe, "initial_checkpoint": start}
        return str(train(TrainConfig(str(tmp_path / name), model="cpvt_micro(patch_size=2)", img_size=8, **options)))

    first = train_on("first", lr=3e-3)
    second = train_on("second", first, lr=2e-3)
    third = train_on("third", second, lr=1e-3)
    records = [json.loads((Path(run) / "checkpoint.json").read_text()) for run in (first, second, third)]
    for earlier, later in pairwise(records):
        kept = ("model", "training", "epoch", "provenance", "started_from")
        assert later["started_from"] == {key: earlier[key] for key in kept}
    assert records[0]["started_from"] is None
    lines = describe_run(third, records[2])
    words = "1 of 1 epochs, batches of 4, adamw, lr {}, at 8 pixels, seed 0"
    assert lines["training"] == words.format(0.001)
    told = f"{second} ({words.format(0.002)}), from {first} ({words.format(0.003)})"
    assert lines["initial checkpoint"] == told
    cpvt.load(third).save_pretrained(tmp_path / "hub")
    short = told.replace(f"{tmp_path}/", "")
    assert f"| started from | {short} |" in (tmp_path / "hub" / "README.md").read_text()
    assert cpvt.load(train_on("file", str(Path(first) / "model.safetensors"))).record["started_from"] is None


def test_a_run_that_starts_from_another_has_its_transform(tmp_path, tiny_folder):
    first = train(external(tmp_path, tiny_folder, "first"))
    record = json.loads((first / "checkpoint.json").read_text())
    record["transform"] |= {"mean": [0.1, 0.2, 0.3]}
    (first / "checkpoint.json").write_text(json.dumps(record))
    again = train(external(tmp_path, tiny_folder, "again", initial_checkpoint=str(first)))
    assert cpvt.load(again).transform.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "peg"}, "--encoding is for our own models"),
        ({"pool": "gap"}, "--pool is for our own models"),
        ({"model": "timm:vit_tinny"}, "knows no model 'vit_tinny'"),
        ({"model": "torchvision:shufflenet_v2_x0_5", "img_size": None}, "pass --img-size"),
        ({"initial_checkpoint": "nowhere"}, "no initial weights at 'nowhere'"),
        ({"model": "cpvt_micro", "initial_checkpoint": "published"}, "no published weights of 'cpvt_micro'"),
    ],
)
def test_options_of_our_models_are_rejected_for_external_ones(tmp_path, tiny_folder, options, message):
    with pytest.raises(ValueError, match=message):
        train(external(tmp_path, tiny_folder, "run", **options))
    assert not (tmp_path / "run").exists()
