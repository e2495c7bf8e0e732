"""Training on a stream: a part for each process, resumed within an epoch, tested exactly."""

from dataclasses import replace

import pytest

import cpvt
from cpvt.config import DataConfig, OptimConfig, RuntimeConfig, TrainConfig
from cpvt.training import train
from tests.training.runs import assert_same, history, weights

pytest.importorskip("datasets")


@pytest.fixture
def config(tmp_path, tiny_folder):
    source = DataConfig(
        f"hfids/{tiny_folder}", data_dir=str(tmp_path / "cache"), shuffle_buffer=4, train_num_samples=11
    )
    recipe = OptimConfig(epochs=3, batch_size=4, augment="resized-crop")
    return TrainConfig(out=str(tmp_path / "run"), img_size=8, dataset=source, optim=recipe)


def test_a_stream_is_read_completely_and_resumes_to_the_same_bits(config, tmp_path):
    whole = train(replace(config, out=str(tmp_path / "whole")))
    assert [line["images"] for line in history(whole)] == [11, 11, 11]
    saving = replace(config, runtime=RuntimeConfig(save_minutes=0))

    def interrupt(what, done, total, message):
        if done == 6:  # the last step of epoch 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(saving, interrupt)
    assert_same(weights(train(saving)), weights(whole))


def test_a_stream_is_tested_as_a_folder_is(config, tiny_folder):
    run = train(config)
    streamed = next(cpvt.sweep(run, None, [8], data_dir=config.dataset.data_dir))
    read = next(cpvt.sweep(run, str(tiny_folder), [8]))
    assert (streamed.correct, streamed.total, streamed.hits) == (read.correct, 6, read.hits)
    with pytest.raises(ValueError, match="read as it comes, which 'native' cannot do"):
        next(cpvt.sweep(run, None, [8], protocols=("native",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": OptimConfig(aug_repeats=3)}, "each image once and at one size"),
        ({"train_sizes": (8, 12)}, "each image once and at one size"),
        ({"dataset": {"train_num_samples": None}}, "does not say how many images it has: pass --train-num-samples"),
    ],
)
def test_options_without_stream_support_are_rejected(config, change, message):
    if "dataset" in change:
        change = {"dataset": replace(config.dataset, **change["dataset"])}
    with pytest.raises(ValueError, match=message):
        train(replace(config, **change))


def test_a_test_split_that_cannot_be_reached_is_not_taken_for_none(config, monkeypatch):
    import datasets

    opened = datasets.load_dataset

    def unreachable(name, split, **options):
        if split == "test":
            raise ConnectionError("no route to the hub")
        return opened(name, split=split, **options)

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"does not open to test .no route to the hub"):
        train(config)


def test_a_stream_shorter_than_configured_warns(config):
    source = replace(config.dataset, train_num_samples=20)
    with pytest.warns(
        UserWarning, match=r"the stream ended after 11 of 20 images.*give its length by --train-num-samples"
    ):
        train(replace(config, dataset=source, optim=replace(config.optim, epochs=1)))
