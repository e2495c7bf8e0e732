"""Predictions: each image at its own size."""

import pytest
import torch
from PIL import Image

import cpvt
from cpvt.evaluation.predict import split_names
from cpvt.models.pretrained import DEFAULT


@pytest.fixture
def image(tmp_path):
    def make(width, height, name="image.png"):
        Image.effect_noise((width, height), 80).convert("RGB").save(tmp_path / name)
        return tmp_path / name

    return make


def test_the_top_classes_are_those_of_the_whole_image(tiny_run, image):
    path = image(17, 11)
    prediction = next(cpvt.predict(tiny_run, [path]))
    checkpoint = cpvt.load(tiny_run)
    with torch.no_grad():
        probabilities = checkpoint.model(checkpoint.transform(Image.open(path))[None])[0].softmax(0)
    assert prediction.size == (11, 17)
    assert prediction.shrunk_from is None
    assert dict(prediction.classes) == pytest.approx(
        {"cat": probabilities[0].item(), "dog": probabilities[1].item()}, abs=1e-5
    )
    assert prediction.classes[0][1] >= prediction.classes[1][1]


def test_the_default_model_comes_with_the_package(image):
    path = image(40, 29)
    checkpoint = cpvt.load(DEFAULT)
    (default,), (named,) = cpvt.predict(None, [path], top=10), cpvt.predict(DEFAULT, [path], top=10)
    with torch.no_grad():
        probabilities = checkpoint.model(checkpoint.transform(Image.open(path))[None])[0].softmax(0)
    assert default == named
    assert dict(default.classes) == pytest.approx(dict(zip(checkpoint.class_names, probabilities.tolist())), abs=1e-5)


def test_the_first_name_is_a_run_or_an_image(tiny_run, image):
    path = str(image(8, 8))
    assert split_names([path]) == (DEFAULT, (path,))
    assert split_names([path, str(tiny_run)]) == (DEFAULT, (path, str(tiny_run)))
    assert split_names([str(tiny_run), path]) == (str(tiny_run), (path,))
    assert split_names([DEFAULT, path, path]) == (DEFAULT, (path, path))
    assert split_names([DEFAULT]) == (DEFAULT, ())
    with pytest.raises(ValueError, match=rf"'nowhere.png' is no image, no run's folder and no model .*\({DEFAULT}\)"):
        split_names(["nowhere.png", path])


def test_a_large_image_is_shrunk_in_proportion_and_reported(tiny_run, image):
    path = image(200, 100)
    prediction = next(cpvt.predict(tiny_run, [path], top=1))
    assert (prediction.size, prediction.shrunk_from) == ((16, 32), (100, 200))  # four times the training size of 8
    assert len(prediction.classes) == 1
    assert next(cpvt.predict(tiny_run, [path], longest_side=200)).size == (100, 200)


def test_images_that_cannot_be_read(tiny_run, image, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    with pytest.raises(ValueError, match=r"bad.jpg.*does not decode"):
        list(cpvt.predict(tiny_run, [bad]))
    found = list(cpvt.predict(tiny_run, [bad, image(8, 8)], on_bad_image="skip"))
    assert found[0].error.endswith("; fix or remove the file")  # and not to pass what was passed
    assert found[1].error is None
    with pytest.raises(ValueError, match="no such image"):
        list(cpvt.predict(tiny_run, [tmp_path / "absent.png"]))


@pytest.mark.parametrize("token_budget", [1, 20, 4096])
def test_a_batch_gives_each_image_the_answer_it_gets_alone(tiny_run, image, token_budget):
    sizes = [(17, 11), (8, 8), (30, 5), (17, 11), (12, 29)]
    paths = [image(*size, f"{number}.png") for number, size in enumerate(sizes)]
    found = list(cpvt.predict(tiny_run, paths, token_budget=token_budget))
    assert [(prediction.image, prediction.size[::-1]) for prediction in found] == list(zip(map(str, paths), sizes))
    for path, prediction in zip(paths, found):
        alone = next(cpvt.predict(tiny_run, [path]))
        assert dict(prediction.classes) == pytest.approx(dict(alone.classes), abs=1e-5)


def test_predictions_before_a_bad_image_are_not_lost(tiny_run, image):
    paths = [image(9, 9, "good.png"), image(40, 3, "thin.png")]
    predictions = cpvt.predict(tiny_run, paths, longest_side=40)
    assert next(predictions).image.endswith("good.png")
    with pytest.raises(ValueError, match=r"thin.png' has 3x40 pixels, and the model takes 4x4 or more"):
        next(predictions)
    (good, thin) = cpvt.predict(tiny_run, paths, longest_side=40, on_bad_image="skip")
    assert good.error is None
    assert "3x40" in thin.error
