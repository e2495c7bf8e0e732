"""Predictions: images are read as in the tests of the model, whatever they come as."""

import csv
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cpvt
from cpvt.cli import main
from cpvt.data.finding import find_images
from cpvt.evaluation.predict import split_names
from cpvt.models.pretrained import DEFAULT
from cpvt.results.rows import read_rows, unpack_hits


@pytest.fixture
def image(tmp_path):
    def make(width, height, name="image.png"):
        Image.effect_noise((width, height), 80).convert("RGB").save(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def tested(tmp_path, image_folder, capsys):
    """A run that the command line trained and tested, and the folder of its images."""
    data = image_folder({"train/cat": 8, "train/dog": 8, "test/cat": 30, "test/dog": 30})
    options = "--img-size 8 --crop-pct 0.6 --interpolation bilinear --epochs 20 --batch-size 8"
    main(["train", "--out", str(tmp_path / "run"), "--data", str(data), *options.split()])
    capsys.readouterr()
    return tmp_path / "run", data


def read_table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def probabilities_of(checkpoint, tensor):
    with torch.no_grad():
        return dict(zip(checkpoint.class_names, checkpoint.model(tensor[None])[0].softmax(0).tolist()))


def test_predictions_are_right_exactly_where_the_rows_say(tested):
    run, data = tested
    (row,) = read_rows(run / "rows.jsonl")
    files = [path for name in ("cat", "dog") for path in find_images([data / "test" / name])]
    found = list(cpvt.predict(run, files))
    right = [prediction.label == path.parent.name for prediction, path in zip(found, files)]
    assert right == unpack_hits(row.hits, row.total)
    assert 0 < sum(right) < len(right)  # else any reading of the images would do
    assert {prediction.size for prediction in found} == {(8, 8)}
    other = [each.label == path.parent.name for each, path in zip(cpvt.predict(run, files, protocol="native"), files)]
    assert other != right


def test_the_command_line_tells_the_accuracy_of_images_in_class_folders(tested, capsys):
    run, data = tested
    (row,) = read_rows(run / "rows.jsonl")
    main(["predict", str(run), str(data / "test")])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["accuracy_by_folder"] == round(row.accuracy, 4)
    assert summary["images"] == row.total == sum(summary["classes"].values())
    assert "predictions" not in summary


def test_the_transform_of_a_run_gives_the_tested_tensor(tested):
    run, data = tested
    checkpoint = cpvt.load(run)
    path = find_images([data / "test"])[0]
    tensor = checkpoint.transform(Image.open(path))
    assert tensor.shape == (3, 8, 8)
    resized = Image.open(path).resize((17, 13), Image.Resampling.BILINEAR)  # shorter side 8 / 0.6, rounded down
    expected = np.asarray(resized)[2:10, 4:12] / 255  # the centre
    mean, std = np.array(checkpoint.transform.mean), np.array(checkpoint.transform.std)
    expected = torch.from_numpy(((expected - mean) / std).transpose(2, 0, 1)).float()
    torch.testing.assert_close(tensor, expected, atol=1e-5, rtol=0)
    assert dict(checkpoint(path).classes) == pytest.approx(probabilities_of(checkpoint, tensor), abs=1e-5)


def test_a_run_is_callable_on_a_path_an_image_an_array_and_a_list_of_them(tiny_run, image):
    path, run = image(40, 29), cpvt.load(tiny_run)
    alone = run(path)
    pixels = np.asarray(Image.open(path))
    found = run([path, Image.open(path), pixels, str(path)])
    assert alone.image == str(path)
    assert [each.image for each in found] == [str(path), "image 1", "image 2", str(path)]
    for each in found:
        assert dict(each.classes) == pytest.approx(dict(alone.classes), abs=1e-5)
        assert (each.size, each.original_size) == ((8, 8), (40, 29))
    assert run(path, size=16).size == (16, 16)
    assert run(path, size=(8, 12), top=1).size == (12, 8)
    assert run(path, protocol="native").size == (32, 23)
    grey = pixels[..., 0]
    assert run(grey).classes == run(np.stack([grey] * 3, 2)).classes


def test_a_rotated_image_is_turned_upright_as_its_file_is(tiny_run, tmp_path):
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    run = cpvt.load(tiny_run)
    assert run(Image.open(tmp_path / "turned.png")).classes == run(tmp_path / "turned.png").classes
    assert run(tmp_path / "turned.png").classes == run(np.rot90(pixels, -1)).classes
    assert run(tmp_path / "turned.png").classes != run(pixels).classes


def test_a_replaced_head_needs_names_of_its_classes(tiny_run, image, tmp_path):
    path, run = image(40, 30), cpvt.load(tiny_run)
    for count in (1, 3):
        run.model.reset_classifier(count)
        message = rf"gives {count} classes.* and has names of 2 \(cat, dog\): .*replace"
        with pytest.raises(ValueError, match=message):
            run(path)
        with pytest.raises(ValueError, match=message):
            cpvt.export(run, tmp_path / "model.pt2")
        with pytest.raises(ValueError, match=message):
            run.save_pretrained(tmp_path / "hub")
    assert [*tmp_path.glob("hub"), *tmp_path.glob("*.pt2")] == []
    named = replace(run, class_names=("cat", "dog", "eel"))
    assert {name for name, _ in named(path).classes} == {"cat", "dog", "eel"}
    named.save_pretrained(tmp_path / "hub")
    again = cpvt.load(tmp_path / "hub")
    assert (again.class_names, again(path).classes) == (named.class_names, named(path).classes)
    assert '"eel"' in (tmp_path / "hub" / "config.json").read_text()
    assert "eel" in (tmp_path / "hub" / "README.md").read_text()


def test_predicting_leaves_a_model_in_the_mode_that_it_was_in(tiny_run, image):
    path, run = image(40, 30), cpvt.load(tiny_run)
    expected = run(path)
    run.model.head_drop.p = 0.9
    run.model.train()
    modes = [part.training for part in run.model.modules()]
    images = torch.stack([run.transform(Image.open(path))] * 2)
    found = [run(path), next(cpvt.predict(run, [path])), next(cpvt.predict(run, [path], precision="bf16", top=1))]
    assert found[:2] == [expected] * 2
    assert found[2].classes[0][1] == pytest.approx(expected.classes[0][1], abs=0.02)
    cpvt.estimate_scale(run, images)
    next(cpvt.sweep(run, sizes=[8]))
    next(cpvt.probe(run, probes=["order"], images=2))
    run.adapter.logits(images)
    with pytest.raises(ValueError, match="does not exist"):
        run("nowhere.png")
    assert [part.training for part in run.model.modules()] == modes
    assert all(modes)


def test_links_into_nowhere_are_named_and_other_files_are_told(tiny_run, image, tmp_path, caplog):
    path, run = image(40, 30), cpvt.load(tiny_run)
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(path, folder / "a.png")
    (folder / "dead.png").symlink_to("/nope/x.png")
    (folder / "b.heic").write_bytes(b"heic")
    for names in ([folder / "dead.png"], [str(folder / "d*.png")]):
        with pytest.raises(ValueError, match="dead.png' is a link to '/nope/x.png', which does not exist"):
            list(cpvt.predict(run, names))
    caplog.set_level("INFO", "cpvt")
    list(cpvt.predict(run, [folder], on_bad_image="skip"))
    assert f"left out of '{folder}', as not of a format that is read: 1 .heic" in caplog.text
    with pytest.raises(ValueError, match="the name of an image is empty"):
        cpvt.predict(run, [""])


def test_uploads_are_read_as_files_are(tiny_run, image):
    path, run = image(40, 30), cpvt.load(tiny_run)
    content = Path(path).read_bytes()
    with open(path, "rb") as file:
        forms = [content, io.BytesIO(content), file, Image.open(path)]
        assert [each.classes for each in run(forms)] == [each.classes for each in run([path] * 4)]
    for form in (io.BytesIO(content), Image.open(io.BytesIO(content)), content, path):
        with pytest.raises(ValueError, match="has 1,200 pixels, and 1,199 are allowed"):
            next(cpvt.predict(run, [form], max_image_pixels=1199))
    photo = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).save(photo, "JPEG")
    for broken in (photo.getvalue()[:-500], Image.open(io.BytesIO(photo.getvalue()[:-500]))):
        first, second = cpvt.predict(run, [broken, path], on_bad_image="skip")
        assert "image 'image 0' does not decode" in first.error
        assert second.classes == run(path).classes
        with pytest.raises(ValueError, match="image 'image 0' does not decode .*skip"):
            next(cpvt.predict(run, [broken]))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (torch.zeros(3, 8, 8), r"image 0: expected a path, an open file or its bytes, .* got Tensor of float32"),
        (np.zeros((8, 8, 2), dtype=np.uint8), r"got ndarray of uint8, \(8, 8, 2\)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"got ndarray of uint8, \(3, 8, 8\)"),
        ("nowhere.png", r"image .nowhere.png. does not exist"),
    ],
)
def test_what_is_no_image_is_refused(tiny_run, what, message):
    with pytest.raises(ValueError, match=message):
        cpvt.load(tiny_run)(what)


def test_the_shipped_model_is_read_at_its_recommended_size(image):
    path = image(40, 29)
    checkpoint = cpvt.load(DEFAULT)
    assert (checkpoint.transform.size, checkpoint.train_size) == (128, 64)
    (default,), (named,) = cpvt.predict(None, [path], top=10), cpvt.predict(DEFAULT, [path], top=10)
    assert default == named
    assert (default.size, default.scale) == ((128, 128), (2.0, 2.0))
    expected = probabilities_of(checkpoint, checkpoint.transform(Image.open(path)))
    assert dict(default.classes) == pytest.approx(expected, abs=1e-5)
    assert cpvt.create_model(DEFAULT, pretrained=True).pretrained_cfg["test_input_size"] == (3, 128, 128)


def test_an_older_run_is_read_at_its_training_size(tiny_run):
    record = json.loads((tiny_run / "checkpoint.json").read_text())
    assert record["transform"].pop("size") == 8
    (tiny_run / "checkpoint.json").write_text(json.dumps(record))
    assert cpvt.load(tiny_run).transform.size == 8


def test_the_first_name_is_a_run_or_an_image(tiny_run, image, tmp_path):
    path = str(image(8, 8))
    assert split_names([path]) == (DEFAULT, (path,))
    comparison = tmp_path / "comparison"
    shutil.copytree(tiny_run, comparison / "runs" / "peg-cls-seed0")
    (comparison / "rows.jsonl").touch()
    for folder in (comparison, comparison / "runs"):  # whose figures are no photographs
        with pytest.raises(ValueError, match=r"holds results of cpvt, .* its runs are .*peg-cls-seed0"):
            split_names([str(folder), path])
        with pytest.raises(ValueError, match=r"holds no checkpoint: .*\. Its runs are .*peg-cls-seed0"):
            cpvt.load(folder)
    (comparison / "runs" / "peg-cls-seed0" / "checkpoint.json").unlink()
    with pytest.raises(ValueError, match="it has no trained model"):
        split_names([str(comparison), path])
    shutil.rmtree(comparison)
    assert split_names([str(tiny_run), path]) == (str(tiny_run), (path,))
    with pytest.raises(ValueError, match="is a run; the model comes first"):
        split_names([path, str(tiny_run)])
    assert split_names([DEFAULT, path, path]) == (DEFAULT, (path, path))
    assert split_names([DEFAULT]) == (DEFAULT, ())
    assert split_names([str(tmp_path)]) == (DEFAULT, (str(tmp_path),))
    assert split_names(["*.png"]) == (DEFAULT, ("*.png",))
    with pytest.raises(ValueError, match=rf"'nowhere.png' is no image, no run's folder and no model .*\({DEFAULT}, "):
        split_names(["nowhere.png", path])
    with pytest.raises(ValueError, match=r"model\.safetensors' is part of a run; name its folder: cpvt predict .*run"):
        split_names([str(tiny_run / "model.safetensors"), path])


def test_folders_are_walked_and_patterns_expanded_in_natural_order(tiny_run, image, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / ".hidden").mkdir()
    names = ["deep/10.png", "deep/9.png", "deep/er/1.jpg", "deep/.hidden/2.png", "deep/._3.png"]
    for name in names:
        image(8, 8, name)
    (tmp_path / "deep" / "notes.txt").write_text("no image")
    found = [each.image for each in cpvt.predict(tiny_run, [tmp_path / "deep"])]
    assert found == [str(tmp_path / "deep" / name) for name in ("9.png", "10.png", "er/1.jpg")]
    assert [each.image for each in cpvt.predict(tiny_run, [str(tmp_path / "deep" / "*.png")])] == found[:2]
    assert [each.image for each in cpvt.predict(tiny_run, [str(tmp_path / "**" / "*.jpg")])] == found[2:]
    assert [each.image for each in cpvt.predict(tiny_run, [tmp_path / "deep"], limit=1)] == found[:1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("https://example.org/cat.jpg", r"'https://example.org/cat.jpg' is a URL, and predict reads files"),
        ("absent.png", r"no such image: 'absent.png'"),
        ("absent/*.png", r"no such image: 'absent/\*.png'"),
    ],
)
def test_names_without_an_image_are_refused_before_anything_is_loaded(name, message, monkeypatch):
    monkeypatch.setattr("cpvt.evaluation.predict.load", None)
    with pytest.raises(ValueError, match=message):
        list(cpvt.predict("runs/peg", [name]))


def test_a_folder_without_images_is_refused(tiny_run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty' holds no images"):
        list(cpvt.predict(tiny_run, [tmp_path / "empty"]))


def test_a_whole_image_is_shrunk_in_proportion_and_reported(tiny_run, image):
    path = image(200, 100)
    prediction = next(cpvt.predict(tiny_run, [path], top=1, protocol="native"))
    assert (prediction.size, prediction.original_size) == ((32, 16), (200, 100))  # four times the training size of 8
    assert len(prediction.classes) == 1
    assert next(cpvt.predict(tiny_run, [path], protocol="native", size=200)).size == (200, 100)
    assert "image.png  200x100 read at 32x16  " in str(prediction)  # width x height


def test_options_change_how_images_are_read(tiny_run, image):
    path = image(31, 18)
    plain, cropped = cpvt.load(tiny_run)(path), next(cpvt.predict(tiny_run, [path], crop_pct=0.5, interpolation="box"))
    assert plain.size == cropped.size == (8, 8)
    assert plain.classes != cropped.classes
    with pytest.raises(ValueError, match="under native crop_pct has no effect; leave it out"):
        next(cpvt.predict(tiny_run, [path], crop_pct=0.5, protocol="native"))
    with pytest.raises(ValueError, match=r"under native a size is the longest side allowed, such as 224; got \(8, 9\)"):
        next(cpvt.predict(tiny_run, [path], size="8x9", protocol="native"))
    with pytest.raises(ValueError, match="size 3 is smaller than a patch; the smallest side is 4"):
        next(cpvt.predict(tiny_run, [path], size=3))
    with pytest.raises(ValueError, match="protocol must be one of canvas, resize, native; got 'nativ'"):
        next(cpvt.predict(tiny_run, [path], protocol="nativ"))


def test_images_that_cannot_be_read(tiny_run, image, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    with pytest.raises(ValueError, match=r"bad.jpg.*does not decode"):
        list(cpvt.predict(tiny_run, [bad]))
    found = list(cpvt.predict(tiny_run, [bad, image(8, 8)], on_bad_image="skip"))
    assert found[0].error.endswith("; fix or remove the file")  # and not to pass what was passed
    assert found[1].error is None


@pytest.mark.parametrize("token_budget", [1, 20, 4096])
@pytest.mark.parametrize("protocol", ["native", "resize"])
def test_a_batch_gives_each_image_the_answer_it_gets_alone(tiny_run, image, token_budget, protocol):
    sizes = [(17, 11), (8, 8), (30, 5), (17, 11), (12, 29)]
    paths = [image(*size, f"{number}.png") for number, size in enumerate(sizes)]
    found = list(cpvt.predict(tiny_run, paths, token_budget=token_budget, protocol=protocol))
    assert [(prediction.image, prediction.original_size) for prediction in found] == list(zip(map(str, paths), sizes))
    for path, prediction in zip(paths, found):
        alone = next(cpvt.predict(tiny_run, [path], protocol=protocol))
        assert dict(prediction.classes) == pytest.approx(dict(alone.classes), abs=1e-5)


def test_predictions_before_a_bad_image_are_not_lost(tiny_run, image, tmp_path, capsys):
    paths = [image(9, 9, "good.png"), image(40, 3, "thin.png")]
    predictions = cpvt.predict(tiny_run, paths, protocol="native", size=40)
    assert next(predictions).image.endswith("good.png")
    with pytest.raises(ValueError, match=r"thin.png' has 3x40 pixels, and the model takes 4x4 or more"):
        next(predictions)
    (good, thin) = cpvt.predict(tiny_run, paths, protocol="native", size=40, on_bad_image="skip")
    assert good.error is None
    assert "3x40" in thin.error
    table = tmp_path / "table.csv"
    with pytest.raises(SystemExit):
        main(["predict", str(tiny_run), *map(str, paths), "--protocol", "native", "--csv", str(table)])
    assert [line["image"] for line in read_table(table)] == [str(paths[0])]


def test_json_is_printed_alone(tiny_run, image, capsys):
    main(["predict", str(tiny_run), str(image(30, 20)), "--json"])
    printed = json.loads(capsys.readouterr().out)
    (prediction,) = printed["predictions"]
    assert (prediction["size"], prediction["original_size"]) == ([8, 8], [30, 20])
    assert dict(prediction["classes"]).keys() == {"cat", "dog"}


def test_a_table_has_a_line_for_each_image(tiny_run, image, tmp_path, capsys):
    paths = [image(30, 20, "a, b.png"), image(9, 9, "c.png"), tmp_path / "bad.png"]
    paths[2].write_text("no image")
    table = tmp_path / "table.csv"
    command = ["predict", str(tiny_run), *map(str, paths), "--top", "1", "--on-bad-image", "skip", "--csv", str(table)]
    main(command)
    lines = read_table(table)
    assert [line["image"] for line in lines] == list(map(str, paths))
    assert [lines[0][name] for name in ("width", "height", "input_width", "input_height")] == ["30", "20", "8", "8"]
    first = cpvt.load(tiny_run)(paths[0])
    assert (lines[0]["class_1"], float(lines[0]["probability_1"])) == (first.label, pytest.approx(first.classes[0][1]))
    assert "does not decode" in lines[2]["error"]
    assert "--on-bad-image" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(command)
    assert "exists; choose another --csv, or remove it" in capsys.readouterr().err


def test_a_moved_run_still_predicts(tiny_run, tiny_folder, image, tmp_path):
    path = image(20, 30)
    before = next(cpvt.predict(tiny_run, [path]))
    shutil.rmtree(tiny_folder)
    shutil.move(tiny_run, tmp_path / "moved")
    assert next(cpvt.predict(tmp_path / "moved", [path])) == before


def test_a_prediction_at_another_size_is_told_the_scale_as_the_tests_are(tested):
    run, data = tested
    files = find_images([data / "test"])
    (row,) = cpvt.sweep(run, None, [20])
    found = list(cpvt.predict(run, files, size=20))
    assert {each.scale for each in found} == {row.scale} == {(2.5, 2.5)}
    assert sum(each.label == path.parent.name for each, path in zip(found, files)) == row.correct
    probabilities = [dict(each.classes) for each in found]
    for scale, told in (("paper", None), ("1.5", (1.5, 1.5))):
        other = cpvt.load(run)(files, size=20, scale=scale)
        assert {each.scale for each in other} == {told}
        assert [dict(each.classes) for each in other] != probabilities
    auto = list(cpvt.predict(run, files, size=20, scale="auto"))
    assert {each.scale for each in auto} <= {(1, 1), (1.5, 1.5), (2, 2), (2.5, 2.5)}
    with pytest.raises(ValueError, match="scale must be paper, pixels, fit"):
        cpvt.predict(run, files, scale="big")


def test_names_of_files_that_are_not_utf_8_are_kept(tiny_run, image, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    name = os.fsencode(folder) + b"/caf\xe9.png"
    try:
        shutil.copy(image(9, 9), name)
    except OSError:
        pytest.skip("this file system takes names of UTF-8 alone")
    main(["predict", str(tiny_run), str(folder), "--csv", str(tmp_path / "found.csv")])
    assert b"caf\xe9.png" in (tmp_path / "found.csv").read_bytes()


@pytest.mark.parametrize("size", ["12", "12x12", [12, 12], np.int64(12)])
def test_sizes_are_read_as_everywhere(tiny_run, image, size):
    run, path = cpvt.load(tiny_run), image(9, 9)
    assert run(path, size=size) == run(path, size=12)
    with pytest.raises(ValueError, match="a size is a side such as 48, or height x width such as 48x64; got '0'"):
        run(path, size=0)


def test_what_has_no_class_has_no_label(tiny_run, tmp_path):
    run = cpvt.load(tiny_run)
    (tmp_path / "broken.png").write_bytes(b"no image")
    empty = np.zeros((0, 10, 3), np.uint8)
    with pytest.raises(ValueError, match=r"image 'image 0' is an array without pixels, \(0, 10, 3\)"):
        run(empty)
    for each in cpvt.predict(run, [str(tmp_path / "broken.png"), empty], on_bad_image="skip"):
        with pytest.raises(ValueError, match="has no class: image '.*' (does not decode|is an array without pixels)"):
            _ = each.label
