"""Predictions: each picture at its own size."""

import pytest
import torch
from PIL import Image

import cpvt


@pytest.fixture
def picture(tmp_path):
    def make(width, height, name="picture.png"):
        Image.effect_noise((width, height), 80).convert("RGB").save(tmp_path / name)
        return tmp_path / name

    return make


def test_the_top_classes_are_those_of_the_whole_picture(tiny_run, picture):
    path = picture(17, 11)
    prediction = next(cpvt.predict(tiny_run, [path]))
    checkpoint = cpvt.load(tiny_run)
    with torch.no_grad():
        shares = checkpoint.model(checkpoint.transform(Image.open(path))[None])[0].softmax(0)
    assert prediction.size == (11, 17)
    assert prediction.shrunk_from is None
    assert dict(prediction.classes) == pytest.approx({"cat": shares[0].item(), "dog": shares[1].item()}, abs=1e-5)
    assert prediction.classes[0][1] >= prediction.classes[1][1]


def test_a_large_picture_is_shrunk_in_proportion_and_it_is_said(tiny_run, picture):
    path = picture(200, 100)
    prediction = next(cpvt.predict(tiny_run, [path], top=1))
    assert (prediction.size, prediction.shrunk_from) == ((16, 32), (100, 200))  # four times the training size of 8
    assert len(prediction.classes) == 1
    assert next(cpvt.predict(tiny_run, [path], longest_side=200)).size == (100, 200)


def test_pictures_that_cannot_be_read(tiny_run, picture, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    with pytest.raises(ValueError, match=r"bad.jpg.*does not decode"):
        list(cpvt.predict(tiny_run, [bad]))
    found = list(cpvt.predict(tiny_run, [bad, picture(8, 8)], on_bad_picture="skip"))
    assert "does not decode" in found[0].error
    assert found[1].error is None
    with pytest.raises(ValueError, match="no such picture"):
        list(cpvt.predict(tiny_run, [tmp_path / "absent.png"]))
