"""Every option of optim and runtime trains, changes what it should, and nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cpvt
from cpvt.adapters.trial import name_for_sizes
from cpvt.config import DataConfig, OptimConfig, Retrofit, RuntimeConfig, TrainConfig
from cpvt.data import open_data
from cpvt.data.datasets.folders import FolderSplit
from cpvt.models import vit
from cpvt.training import build, check, train
from cpvt.training.trainer import Trainer
from tests.training.runs import history, weights


@pytest.fixture
def config(tmp_path, tiny_folder):
    recipe = OptimConfig(epochs=2, batch_size=4, lr=1e-3, augment="resized-crop")
    return TrainConfig(out=str(tmp_path / "run"), img_size=8, dataset=DataConfig(str(tiny_folder)), optim=recipe)


def differ(first, second):
    """The largest difference between two runs' weights."""
    return max(float((second[name] - tensor).abs().max()) for name, tensor in first.items())


def trained(config, tmp_path, out, recipe=None, runtime=None, **options):
    recipe, runtime = replace(config.optim, **(recipe or {})), replace(config.runtime, **(runtime or {}))
    return weights(train(replace(config, out=str(tmp_path / out), optim=recipe, runtime=runtime, **options)))


@pytest.mark.parametrize(
    "recipe",
    [{"aa": "rand-m9-mstd0.5-inc1"}, {"color_jitter": 0.4}, {"reprob": 1.0}, {"aug_repeats": 3}, {"mixup": 0.8},
     {"cutmix": 1.0}, {"model_ema_decay": 0.9}, {"precision": "bf16"}, {"layer_decay": 0.5}, {"clip_grad": 0.01},
     {"drop_path": 0.3}, {"opt": "sgd"}, {"opt": "lamb"}, {"opt": "lookahead_adamw"},
     {"augment": "native"}],
    ids=str,
)  # fmt: skip
def test_every_option_of_a_recipe_trains_and_has_an_effect(config, tmp_path, recipe):
    plain, other = trained(config, tmp_path, "plain"), trained(config, tmp_path, "other", recipe)
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in other.values())
    assert differ(plain, other) > 1e-5


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
)  # torch 2.11, of itself
@pytest.mark.parametrize("runtime", [{"grad_accum_steps": 3}, {"grad_checkpointing": True}, {"compile": True}], ids=str)
def test_runtime_options_change_nothing_but_rounding(config, tmp_path, runtime):
    sgd = {"opt": "sgd", "clip_grad": 1.0, "lr": 0.05}
    plain, other = trained(config, tmp_path, "plain", sgd), trained(config, tmp_path, "other", sgd, runtime)
    assert differ(plain, other) < 2e-5


def test_checkpointing_recomputes(config, tmp_path, monkeypatch):
    calls = []
    checkpoint = vit.checkpoint
    monkeypatch.setattr(vit, "checkpoint", lambda *given, **options: calls.append(1) or checkpoint(*given, **options))
    trained(config, tmp_path, "run", runtime={"grad_checkpointing": True})
    assert len(calls) == 2 * 3 * 4  # epochs, steps, blocks


@pytest.mark.parametrize(
    ("recipe", "resolved"),
    [
        ({"augment": None}, {"augment": "resized-crop", "hflip": 0.5}),
        ({"augment": "crop", "hflip": 0.0}, {"augment": "crop", "hflip": 0.0}),
        ({"augment": "none"}, {"augment": "none", "hflip": 0.0}),
    ],
    ids=str,
)
def test_the_record_says_how_images_were_augmented_and_mirrored(config, tmp_path, recipe, resolved):
    trained(config, tmp_path, "run", {**recipe, "epochs": 1})
    assert cpvt.load(tmp_path / "run").record["resolved"] == resolved


def test_mirroring_is_an_option_and_half_by_default(config, tmp_path):
    runs = [trained(config, tmp_path, str(hflip), {"hflip": hflip}) for hflip in (None, 0.5, 0.0)]
    assert differ(runs[0], runs[1]) == 0
    assert differ(runs[0], runs[2]) > 1e-5
    with pytest.raises(ValueError, match="--hflip 0.5 does nothing under --augment none, which never mirrors: choose"):
        trained(config, tmp_path, "none", {"augment": "none", "hflip": 0.5})


def test_the_average_of_the_weights_is_saved_and_resumed(config, tmp_path):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        learn = Trainer.train_step

        def record(trainer, *arguments):
            learn(trainer, *arguments)
            seen.append({name: tensor.clone() for name, tensor in trainer.module.state_dict().items()})

        patch.setattr(Trainer, "train_step", record)
        averaged = trained(config, tmp_path, "run", {"model_ema_decay": 0.6})
    average = None
    for step, state in enumerate(seen, start=1):
        decay = min(0.6, 1 - step ** (-2 / 3))  # timm's: at first it averages over fewer
        average = {
            name: state[name] if average is None else average[name] * decay + state[name] * (1 - decay)
            for name in state
        }
    for name, tensor in averaged.items():
        torch.testing.assert_close(tensor, average[name], atol=1e-6, rtol=1e-5)


def test_train_sizes_are_used_and_too_small_ones_rejected(config, tmp_path):
    sizes = set()
    with pytest.MonkeyPatch.context() as patch:
        forward = cpvt.models.VisionTransformer.forward

        def record(model, images):
            sizes.add((model.training, *images.shape[2:]))
            return forward(model, images)

        patch.setattr(cpvt.models.VisionTransformer, "forward", record)
        trained(config, tmp_path, "run", train_sizes=(8, "8x12", 16))
    assert {each[1:] for each in sizes if each[0]} == {(8, 8), (8, 12), (16, 16)}
    with pytest.raises(ValueError, match="must not be below a patch, 4x4 pixels in this model; got 2x2, 8x3"):
        trained(config, tmp_path, "none", train_sizes=(8, 2, "8x3"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [("timm:cait_xxs24_224(depth=1, embed_dim=16, num_heads=2)", "cannot be trained at the sizes 32, 48"),
     ("timm:vit_tiny_patch16_224(depth=1, dynamic_img_size=False)", "cannot be trained at the sizes"),
     ("timm:vit_base_patch32_224(depth=1)", "Input height .48. should be divisible by patch size .32."),
     ("torchvision:vit_b_16", "Expected 32 but got 48"),
     ("hf:vit(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, interpolate_pos_encoding=False)",
      "train it at one size, without"),
     ("timm:vit_tiny_patch16_22", "timm [0-9.]+ knows no model 'vit_tiny_patch16_22'")],
    ids=str,
)  # fmt: skip
def test_models_of_one_size_are_refused_several(config, tmp_path, model, message):
    with pytest.raises(ValueError, match=message):
        trained(config, tmp_path, "run", model=model, encoding=None, img_size=32, train_sizes=(32, 48))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "built"),
    [("timm:vit_tiny_patch16_224(depth=1)", "timm:vit_tiny_patch16_224(depth=1, dynamic_img_size=True)"),
     ("timm:vit_tiny_patch16_224()", "timm:vit_tiny_patch16_224(dynamic_img_size=True)"),
     ("timm:resnet10t", "timm:resnet10t"),
     ("hf:vit(num_hidden_layers=1)", "hf:vit(num_hidden_layers=1, interpolate_pos_encoding=True)")],
    ids=str,
)  # fmt: skip
def test_other_libraries_models_are_built_for_several_sizes(model, built):
    state = torch.get_rng_state()
    assert name_for_sizes(model, 3, 3, 64, (64, (64, 96), 128)) == built
    assert torch.equal(torch.get_rng_state(), state)


def test_tests_during_training_are_in_the_history(config, tmp_path):
    trained(config, tmp_path, "run", {"epochs": 3}, test_every=2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line.get("test_accuracy") is not None for line in lines] == [False, True, True]
    checkpoint = cpvt.load(tmp_path / "run")
    assert next(cpvt.sweep(checkpoint, None, [8])).accuracy == lines[-1]["test_accuracy"]
    assert [line["lr"] for line in lines] == sorted((line["lr"] for line in lines), reverse=True)


def test_a_validation_part_is_tested_during_training_and_the_test_part_only_at_the_end(
    config, tmp_path, tiny_folder, monkeypatch
):
    (tiny_folder / "val").mkdir()
    shutil.copytree(tiny_folder / "test" / "dog", tiny_folder / "val" / "dog")
    read, plain = [], FolderSplit.read
    monkeypatch.setattr(FolderSplit, "read", lambda split, *given: read.append(split) or plain(split, *given))
    trained(config, tmp_path, "run", test_every=1)
    lines = history(tmp_path / "run")
    assert not any("test_accuracy" in line for line in lines)
    folders = {path.parent.parent.name for split in read for path in split.paths}
    assert folders == {"train", "val"}
    alone = tiny_folder.parent / "alone"
    shutil.copytree(tiny_folder / "val", alone / "test")
    shutil.copytree(tiny_folder / "train", alone / "train")
    assert next(cpvt.sweep(tmp_path / "run", str(alone), [8])).accuracy == lines[-1]["validation_accuracy"]


def test_one_class_is_refused(config, tmp_path, image_folder):
    one = image_folder({"train/cat": 3, "test/cat": 1}, tmp_path / "one")
    with pytest.raises(ValueError, match="two classes or more, and '.*one' has one, 'cat': in folders, a class is a"):
        trained(config, tmp_path, "none", dataset=DataConfig(str(one)))
    assert not (tmp_path / "none").exists()


def test_a_student_learns_from_a_run(config, tmp_path):
    trained(config, tmp_path, "teacher", pool="gap")
    for pool in ("cls", "gap"):
        student = trained(config, tmp_path, f"student-{pool}", pool=pool, teacher=str(tmp_path / "teacher"))
        assert "head_dist.weight" in student
        assert ("dist_token" in student) == (pool == "cls")
        model = cpvt.load(tmp_path / f"student-{pool}").model
        assert model(torch.randn(2, 3, 12, 8)).shape == (2, 2)
    with pytest.raises(ValueError, match="needs a model with a distillation head.*timm:deit_tiny_distilled"):
        trained(
            config,
            tmp_path,
            "none",
            model="timm:vit_tiny_patch16_224(patch_size=4, embed_dim=16, depth=1, num_heads=2)",
            teacher=str(tmp_path / "teacher"),
        )


def test_trackers_get_the_metrics(config, tmp_path):
    trained(config, tmp_path, "run", runtime={"report_to": ("tensorboard",)})
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'; known: .*tensorboard"):
        trained(config, tmp_path, "none", runtime={"report_to": ("tensorbord",)})
    with pytest.raises(ValueError, match="needs a package that is not installed: pip install aim"):
        trained(config, tmp_path, "none", runtime={"report_to": ("aim",)})


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ({"opt": "adamv"}, {}, "timm knows no optimizer 'adamv'. Did you mean adam"),
        ({"aa": "random"}, {}, "rand-m9-mstd0.5-inc1"),
        ({"augment": "native", "mixup": 0.8}, {}, "cannot be mixed or resized to --train-sizes"),
        ({}, {"runtime": RuntimeConfig(fsdp=True)}, "--fsdp shards a model over several processes, and there is one"),
        ({"opt": "adahessian"}, {}, "--opt adahessian cannot take a step here .it needs second derivatives"),
        ({"opt": "adafactorbv"}, {}, "--opt adafactorbv cannot be saved and resumed here .*such as adamw"),
        (
            {"precision": "fp16"},
            {"device": "cpu"},
            "fp16 needs a GPU, and this would run on a CPU: choose bf16 or fp32",
        ),
        ({"distillation_alpha": 0.3}, {}, "--distillation-alpha 0.3 does nothing without a --teacher"),
        ({}, {"teacher_checkpoint": "file"}, "--teacher-checkpoint file does nothing without a --teacher"),
        (
            {"mixup_prob": 0.5},
            {},
            "--mixup-prob 0.5 does nothing without --mixup or --cutmix: add that, or leave the option out",
        ),
        (
            {"mixup": 0.8, "mixup_switch_prob": 0.1},
            {},
            "--mixup-switch-prob 0.1 does nothing without both --mixup and --cutmix",
        ),
        ({}, {"dataset": {"train_num_samples": 5}}, "--train-num-samples 5 does nothing without a streamed data set"),
        ({}, {"dataset": {"shuffle_buffer": 0}}, "--shuffle-buffer 0 does nothing without .* .its default is 10000"),
        ({}, {"out": ""}, "out .--out. is empty: is a variable of the shell unset"),
        ({"warmup_ratio": 0.0, "warmup_lr": 1e-6}, {}, "--warmup-lr 1e-06 does nothing without a warm-up"),
        ({}, {"dataset": {"data_dir": "photos"}}, "--data-dir. 'photos' does nothing with the data set '.*as data"),
        ({}, {"dataset": {"data": "digits", "data_dir": "photos"}}, "--data-dir. 'photos' .* the data set 'digits'"),
    ],
)  # fmt: skip
def test_invalid_options_are_rejected_before_anything_is_written(config, tmp_path, recipe, options, message):
    options = {**options, "dataset": replace(config.dataset, **options.get("dataset", {}))}
    with pytest.raises(ValueError, match=message):
        train(replace(config, optim=replace(config.optim, **recipe), **options))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "recipe", [{"mixup_prob": 0.5, "mixup": 0.8}, {"mixup_switch_prob": 0.1, "mixup": 0.8, "cutmix": 1.0}]
)
def test_an_option_with_an_effect_is_accepted(config, tiny_folder, recipe):
    check(replace(config, optim=replace(config.optim, **recipe)), open_data(str(tiny_folder)))


def test_an_unwritable_folder_is_rejected_before_anything_is_read(config, tmp_path):
    (tmp_path / "file").write_text("mine")
    config = replace(config, dataset=DataConfig("nowhere"))
    for out in ("file", "file/run/deep"):
        with pytest.raises(ValueError, match=f"cannot write to '.*/{out}': '.*/file' is a file; choose another"):
            train(replace(config, out=str(tmp_path / out)))
    with pytest.raises(ValueError, match="unknown data set 'nowhere'"):
        train(config)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "images"}


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write to")
def test_a_folder_without_permission_is_rejected(config):
    with pytest.raises(ValueError, match="cannot write to '/proc/run' .*choose another --out"):
        train(replace(config, out="/proc/run"))


def test_a_folder_with_other_files_is_accepted_but_no_weights_are_overwritten(config, tmp_path):
    folder = Path(config.out)
    folder.mkdir()
    (folder / "train.log").write_text("where the shell sends what is said")
    (folder / "model.safetensors").write_text("of somebody else")
    with pytest.raises(ValueError, match="holds model.safetensors but no checkpoint.json, so it is not a run"):
        train(config)
    assert (folder / "model.safetensors").read_text() == "of somebody else"
    (folder / "checkpoint.json").write_text('{"model": "theirs"}')
    with pytest.raises(ValueError, match="not written by `cpvt train`: it lacks class_names"):
        train(config)
    (folder / "model.safetensors").unlink()
    (folder / "checkpoint.json").unlink()
    train(replace(config, optim=replace(config.optim, epochs=1)))
    assert (folder / "train.log").read_text() == "where the shell sends what is said"


@pytest.mark.parametrize("absolute", ["fade", "drop"])
def test_options_incompatible_with_a_retrofit_are_rejected_before_anything_is_built(config, monkeypatch, absolute):
    vit = replace(config, model="timm:vit_tiny_patch16_224(patch_size=4, embed_dim=16, depth=1, num_heads=2)")
    with pytest.raises(ValueError, match="--layer-decay does not work with a retrofit"):
        train(replace(vit, optim=replace(config.optim, layer_decay=0.5), retrofit=Retrofit()))
    with pytest.raises(ValueError, match="our own models take PEG by name"):
        train(replace(config, retrofit=Retrofit()))
    monkeypatch.setattr("cpvt.runtime.distributed.is_distributed", lambda: True)
    monkeypatch.setattr("cpvt.training.build_model", lambda *given: pytest.fail("built"))
    with pytest.raises(
        ValueError, match=f"--absolute {absolute} changes the position table, .* leave --fsdp out, or keep"
    ):
        train(replace(vit, runtime=RuntimeConfig(fsdp=True), retrofit=Retrofit(absolute=absolute)))
    assert not Path(config.out).exists()


def test_the_transform_of_an_external_model_is_found_once(config, monkeypatch):
    opened = []
    before = build.open_adapter

    def record(name, checkpoint=None, pretrained=True):
        opened.append(name)
        return before(name, pretrained=False)

    monkeypatch.setattr(build, "open_adapter", record)
    monkeypatch.setattr("cpvt.results.checkpoints.open_adapter", lambda name: before(name, pretrained=False))
    vit = "timm:vit_tiny_patch16_224(patch_size=4, embed_dim=16, depth=1, num_heads=2, img_size=8, num_classes=2)"
    train(replace(config, model=vit, initial_checkpoint="published", optim=replace(config.optim, epochs=1)))
    assert opened == [vit]


def test_weights_of_a_file_for_another_library_see_grey_images_in_grey(config, tmp_path):
    (tmp_path / "weights.safetensors").touch()
    vit = "timm:vit_tiny_patch16_224(patch_size=4, embed_dim=16, depth=1, num_heads=2)"
    start = str(tmp_path / "weights.safetensors")
    setup = check(replace(config, model=vit, initial_checkpoint=start, dataset=DataConfig()), open_data("digits"))
    assert (setup.model.in_chans, setup.preprocessing.transform.mode) == (1, "L")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: CPUs do not train in float16")
def test_half_precision_trains_on_a_gpu(config, tmp_path):
    assert all(tensor.isfinite().all() for tensor in trained(config, tmp_path, "half", {"precision": "fp16"}).values())


@pytest.mark.parametrize("start", ["published", "cpvt_mini_peg5_gap"])
def test_a_training_starts_from_the_weights_of_the_package_for_other_classes(config, caplog, start):
    slow = {"lr": 1e-12, "min_lr": 1e-13, "weight_decay": 0.0, "epochs": 1}
    recipe = replace(config.optim, **slow)
    with caplog.at_level("INFO", "cpvt"):
        run = train(replace(config, model="cpvt_mini_peg5_gap", initial_checkpoint=start, img_size=None, optim=recipe))
    known, found = cpvt.load("cpvt_mini_peg5_gap"), cpvt.load(run)
    torch.testing.assert_close(found.model.state_dict()["norm.weight"], known.model.state_dict()["norm.weight"])
    assert found.model.head.out_features == 2
    assert found.transform.mean == known.transform.mean
    assert any("the head starts afresh" in message for message in caplog.messages)


def test_a_scale_needs_pegs(config):
    vit = replace(config, model="timm:vit_tiny_patch16_224(patch_size=4, embed_dim=16, depth=1, num_heads=2)")
    with pytest.raises(ValueError, match=r"has no PEG, so it takes no scale \(1.5\); leave --scale out, or add"):
        train(replace(vit, scale="1.5"))
    train(replace(vit, scale="paper", optim=replace(config.optim, epochs=1)))
