"""Counts by class: those of a loop over the images, whatever is skipped; compact for many classes."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

import cpvt
import cpvt.config
from cpvt.data import open_data


@pytest.fixture
def uneven(image_folder):
    """Three classes with four, two and one test images, and one file that is no image."""
    folder = image_folder({"train/ant": 1, "test/ant": 4, "train/bee": 1, "test/bee": 2, "train/cat": 1, "test/cat": 1})
    (folder / "test" / "ant" / "bad.jpg").write_text("no image")
    return folder


def by_brightness(classes):
    """A model whose answers depend on the image."""
    return lambda images: torch.nn.functional.one_hot((images.mean((1, 2, 3)) * 1000).long() % 3, classes).float()


def test_counts_by_class_are_those_of_a_loop(uneven):
    data, seen = open_data(str(uneven)), []

    def model(images):
        seen.extend(by_brightness(3)(images).argmax(1).tolist())
        return by_brightness(3)(images)

    (row,) = cpvt.sweep(model, data, [8], on_bad_image="skip", batch_size=2)
    pairs = Counter(zip([0, 0, 0, 0, 1, 1, 2], seen))
    assert (row.class_names, row.class_totals, row.skipped) == (("ant", "bee", "cat"), (4, 2, 1), 1)
    assert row.class_correct == tuple(pairs[each, each] for each in range(3))
    assert row.confusion == tuple(sorted((*pair, count) for pair, count in pairs.items() if pair[0] != pair[1]))
    assert sum(row.class_correct) == row.correct
    assert sum(count for _, _, count in row.confusion) == row.total - row.correct > 0
    assert row.majority == 4 / 7


@pytest.mark.parametrize("protocol", ["canvas", "native"])
def test_every_protocol_counts_by_class(tiny_run, protocol):
    (row,) = cpvt.sweep(tiny_run, None, [8], protocols=(protocol,))
    assert (row.class_totals, row.class_names) == ((3, 3), ("cat", "dog"))
    assert sum(row.class_correct) == row.correct


def test_many_classes_are_counted_without_their_confusion(uneven):
    data = replace(open_data(str(uneven)), class_names=tuple(map(str, range(101))))
    (row,) = cpvt.sweep(by_brightness(101), data, [8], on_bad_image="skip")
    assert (len(row.class_totals), row.class_totals[:3], row.confusion, row.class_names) == (101, (4, 2, 1), None, ())


def test_a_class_that_the_data_does_not_have_is_refused(uneven):
    data = replace(open_data(str(uneven)), class_names=("ant", "bee"))
    with pytest.raises(ValueError, match="has class number 2, but the data set names 2 classes"):
        next(cpvt.sweep(lambda images: images.mean((2, 3))[:, :2], data, [8], on_bad_image="skip"))


def test_rows_say_what_a_training_started_from_and_at_which_sizes(tiny_run, tiny_folder, tmp_path):
    config = cpvt.TrainConfig(
        out=str(tmp_path / "more"), img_size=8, train_sizes=(8, (8, 12)), initial_checkpoint=str(tiny_run),
        dataset=cpvt.config.DataConfig(str(tiny_folder)), optim=cpvt.config.OptimConfig(epochs=1, batch_size=4),
    )  # fmt: skip
    (row,) = cpvt.sweep(cpvt.train(config), None, [8])
    assert (row.train_size, row.train_sizes, row.initial_weights) == (8, (8, (8, 12)), str(tiny_run))
    (row,) = cpvt.sweep(tiny_run, None, [8])
    assert (row.train_sizes, row.initial_weights) == ((), "")
