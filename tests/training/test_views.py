"""Steps that show each image at every training size, and the loss that draws their predictions together."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import cpvt
from cpvt.config import DataConfig, OptimConfig, RetrofitConfig, TrainConfig
from cpvt.data import open_data
from cpvt.training import check, train
from cpvt.training.loss import Criterion
from cpvt.training.trainer import resized
from tests.training.runs import history, weights

SIZES = (8, 12, 16)


@pytest.fixture
def config(tmp_path, tiny_folder):
    recipe = OptimConfig(
        epochs=1, batch_size=6, opt="sgd", lr=0.05, weight_decay=0.0, augment="resized-crop", sizes_per_step="all",
        consistency=0.5,
    )  # fmt: skip
    return TrainConfig(
        out=str(tmp_path / "run"), img_size=8, train_sizes=SIZES, dataset=DataConfig(str(tiny_folder)), optim=recipe
    )


def seen(config):
    """The training images of every forward pass."""
    images, forward = [], cpvt.models.VisionTransformer.forward

    def record(model, batch):
        if model.training:
            images.append(batch.clone())
        return forward(model, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpvt.models.VisionTransformer, "forward", record)
        train(config)
    return images


def test_a_step_shows_the_same_images_at_every_size(config):
    passes = seen(config)
    assert [each.shape[2:] for each in passes[:3]] == [(16, 16), (12, 12), (8, 8)]
    assert {len(each) for each in passes[:3]} == {6}
    largest, middle, smallest = passes[:3]
    torch.testing.assert_close(middle, F.interpolate(largest, (12, 12), mode="bicubic", antialias=True))
    torch.testing.assert_close(smallest, F.interpolate(largest, (8, 8), mode="bicubic", antialias=True))


@pytest.mark.parametrize(("augment", "one"), [("crop", "pixels"), ("none", "pixels"), ("resized-crop", "fit")])
def test_a_model_is_told_that_objects_shrink_with_the_views(config, tiny_folder, augment, one):
    data = open_data(str(tiny_folder))
    for sizes_per_step, told in {"all": "fit", "one": one}.items():
        recipe = replace(config.optim, augment=augment, sizes_per_step=sizes_per_step, consistency=0.0)
        assert check(replace(config, optim=recipe), data).model.scale == told


def test_mixed_images_are_mixed_alike_at_every_size(config):
    plain, mixed = seen(config), seen(replace(config, out=config.out + "-2", optim=replace(config.optim, mixup=0.8)))
    assert not torch.equal(plain[0], mixed[0])
    torch.testing.assert_close(mixed[1], resized(mixed[0], (12, 12)))


def test_one_step_is_one_of_the_mean_gradient_written_out(config, tmp_path):
    recipe = replace(config.optim, batch_size=64, warmup_ratio=0.0)  # all images in one step
    config = replace(config, optim=recipe)
    images = seen(replace(config, out=str(tmp_path / "seen")))
    labels = []
    with pytest.MonkeyPatch.context() as patch:
        call = Criterion.__call__
        patch.setattr(
            Criterion,
            "__call__",
            lambda self, out, pics, y, *more: (labels.append(y), call(self, out, pics, y, *more))[1],
        )
        run = cpvt.load(train(config), "cpu")
    torch.manual_seed(config.seed)
    model = cpvt.create_model("cpvt_micro", img_size=8, num_classes=len(run.class_names)).train()
    start = {name: each.detach().clone() for name, each in model.named_parameters()}
    logits = [model(batch) for batch in images]
    target = logits[0].detach().softmax(1)
    losses = [F.cross_entropy(each, labels[0], label_smoothing=0.1) for each in logits]
    for each in logits[1:]:
        divergence = (target * (target.log() - each.log_softmax(1))).sum(1).mean()
        losses.append(0.5 * divergence)
    (sum(losses) / 3).backward()
    assert history(config.out)[0]["loss"] == pytest.approx(float(sum(losses).detach()) / 3, abs=1e-5)
    trained = weights(config.out)
    for name, each in model.named_parameters():
        moved = trained[name] - start[name]
        gradient = torch.zeros_like(each) if each.grad is None else each.grad
        torch.testing.assert_close(moved, -0.05 * 1.9 * gradient, atol=2e-6, rtol=1e-3)  # timm's sgd: Nesterov's 0.9


@pytest.mark.parametrize("options", [{"grad_accum_steps": 3}], ids=str)
def test_accumulation_changes_nothing_but_rounding(config, options):
    train(config)
    again = replace(config, out=config.out + "-2", runtime=replace(config.runtime, **options))
    train(again)
    for name, each in weights(config.out).items():
        torch.testing.assert_close(each, weights(again.out)[name], atol=2e-5, rtol=0)


def test_history_counts_each_image_once(config, tiny_folder):
    train(config)
    epoch = history(config.out)[0]
    assert epoch["images"] == len(list(tiny_folder.glob("train/*/*")))
    assert 0 <= epoch["accuracy"] <= 1


def test_consistency_is_zero_for_equal_predictions_and_has_no_gradient_towards_the_larger():
    criterion = Criterion(OptimConfig(consistency=2.0, smoothing=0.0), 5)
    logits, labels = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 1, 2, 3])
    plain = criterion(logits, torch.zeros(4, 3, 8, 8), labels)
    assert not plain.logits.requires_grad
    same = criterion(logits, torch.zeros(4, 3, 8, 8), labels, plain.logits)
    torch.testing.assert_close(same.loss, plain.loss)
    other = criterion(logits, torch.zeros(4, 3, 8, 8), labels, plain.logits.roll(1, 1))
    assert other.loss > plain.loss + 0.01


@pytest.mark.parametrize(
    ("options", "recipe", "message"),
    [({"train_sizes": (8,)}, {}, "needs two --train-sizes or more"),
     ({"train_sizes": ()}, {}, "needs two --train-sizes or more"),
     ({"train_sizes": ((8, 20), 16)}, {}, "8x20 does not fit in 16x16"),
     ({}, {"sizes_per_step": "one"}, "--consistency 0.5 does nothing without --sizes-per-step all"),
     ({}, {"consistency": -1.0}, "consistency must be 0 or more")],
    ids=str,
)  # fmt: skip
def test_unusable_options_are_refused(config, options, recipe, message):
    with pytest.raises(ValueError, match=message):
        train(replace(config, **options, optim=replace(config.optim, **recipe)))


def test_comparisons_and_retrofits_train_at_the_sizes(config):
    from cpvt.config import CompareConfig
    from cpvt.experiments.compare import _tasks
    from cpvt.experiments.finetune import _training

    tasks = _tasks(CompareConfig("runs/x", encodings=("peg",), train_sizes=SIZES, optim=config.optim), quick=False)
    assert {task.training.train_sizes for task in tasks} == {SIZES}
    retrofit = RetrofitConfig("timm:vit_tiny_patch16_224", train_sizes=(224, 448))
    assert _training(retrofit).train_sizes == (224, 448)
