"""Sweeps: correct counts, correct preprocessing, errors that say what to do."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image

import cpvt
from cpvt.adapters import adapter_of, open_adapter
from cpvt.cli import main
from cpvt.config import OptimConfig, TrainConfig
from cpvt.data import Transform, open_data
from cpvt.data.protocols import find_protocol
from cpvt.reporting.summary import summarise
from cpvt.results.rows import read_rows, unpack_hits
from cpvt.runtime.files import append_rows
from cpvt.training import train


def test_rows_describe_the_measurement(tiny_run, tiny_folder):
    rows = list(cpvt.sweep(tiny_run, None, [8, (12, 16), "6x10"], protocols=("resize",)))
    assert [row.size for row in rows] == [8, (12, 16), (6, 10)]
    row = rows[0]
    assert (row.model, row.encoding, row.pool, row.protocol) == ("cpvt_micro", "peg", "cls", "resize")
    assert (row.total, row.train_size, row.crop_ratio, row.at) == (6, 8, 0.875, (1,))
    assert row.data == str(tiny_folder)
    assert row.parameters == sum(p.numel() for p in cpvt.load(tiny_run).model.parameters())


def test_the_count_is_that_of_a_loop_over_images(tiny_run, tiny_folder):
    checkpoint, data = cpvt.load(tiny_run), open_data(str(tiny_folder))
    row = next(cpvt.sweep(checkpoint, None, [12], protocols=("canvas",), batch_size=4))
    correct = 0
    for index in range(len(data.test)):
        draw = np.random.default_rng((0, 0, index))
        image, label = data.test.read(index, draw)
        seen = find_protocol("canvas")(checkpoint.transform, (12, 12))(image, draw)
        with torch.no_grad():
            correct += int(checkpoint.model(seen[None]).argmax()) == label
    assert row.correct == correct
    assert row.fill == pytest.approx(1 - 6 * 8 / 144, abs=1e-4)


def test_default_sizes_are_half_to_three_times_the_training_size(tiny_run):
    assert [row.size for row in cpvt.sweep(tiny_run)] == [4, 8, 12, 16, 24]


def test_default_sizes_of_a_model_that_is_not_square_have_its_proportions(tiny_folder):
    model = cpvt.create_model("cpvt_micro(patch_size=2)", img_size=(4, 8), num_classes=2)
    rows = list(cpvt.sweep(model, str(tiny_folder), limit=2))
    assert [row.size for row in rows] == [(2, 4), (4, 8), (6, 12), (8, 16), (12, 24)]
    (whole, *_) = cpvt.sweep(model, str(tiny_folder), limit=2, protocols=("native",))
    assert whole.size == 4, "the longest side"


def test_several_protocols_are_tested_one_after_the_other(tiny_run):
    both = list(cpvt.sweep(tiny_run, None, [8, "8x12"], protocols=["canvas", "resize"]))
    assert [(row.protocol, row.size) for row in both] == [
        ("canvas", 8), ("canvas", (8, 12)), ("resize", 8), ("resize", (8, 12)),
    ]  # fmt: skip
    (alone,) = cpvt.sweep(tiny_run, None, [(8, 12)], protocols=("resize",))
    assert both[-1].hits == alone.hits


def test_larger_images_are_shrunk_for_a_canvas_and_counted(tiny_run, tiny_folder):
    Image.new("RGB", (300, 100)).save(tiny_folder / "test" / "cat" / "large.png")
    assert next(cpvt.sweep(tiny_run, None, [8], protocols=("canvas",))).shrunk == 1
    assert next(cpvt.sweep(tiny_run, None, [8], protocols=("canvas",), longest_side=300)).shrunk == 0
    assert next(cpvt.sweep(tiny_run, None, [8], protocols=("resize",))).shrunk == 0


def test_native_reads_whole_images_and_gives_the_count_of_a_loop(tiny_run, tiny_folder):
    for number, (width, height) in enumerate([(30, 10), (5, 17), (40, 40)]):
        noise = np.random.default_rng(number).integers(0, 256, (height, width), dtype=np.uint8)
        Image.fromarray(noise).save(tiny_folder / "test" / "dog" / f"noise{number}.png")
    checkpoint, data = cpvt.load(tiny_run), open_data(str(tiny_folder))
    rows = list(cpvt.sweep(checkpoint, None, [20, 100], protocols=("native",), token_budget=30))
    for row, longest in zip(rows, (20, 100)):
        limited = replace(checkpoint.transform, longest_side=longest)
        correct = shrunk = 0
        for index in range(len(data.test)):
            whole, label = data.test.read(index, None)
            image = limited.limit(whole)
            shrunk += image is not whole
            with torch.no_grad():
                correct += int(checkpoint.model(limited(image)[None]).argmax()) == label
        assert (row.correct, row.total, row.shrunk, row.longest_side) == (correct, 9, shrunk, 32)
    assert [row.shrunk for row in rows] == [2, 0]
    with pytest.raises(ValueError, match="the longest side allowed, such as 224; got"):
        next(cpvt.sweep(tiny_run, None, ["8x12"], protocols=("native",)))
    for options in ({"longest_side": 20}, {"crop_pct": 1.0}):
        with pytest.raises(ValueError, match="nothing is cropped: leave longest_side and crop_pct out"):
            next(cpvt.sweep(tiny_run, None, [8], protocols=("native",), **options))
    cells = summarise(rows)
    assert [(cell.encoding, cell.size) for cell in cells] == [("peg", 20), ("peg", 100)]  # one curve, not two


def test_bad_images_are_an_error_or_counted(tiny_run, tiny_folder):
    (tiny_folder / "test" / "cat" / "bad.jpg").write_text("no image")
    with pytest.raises(ValueError, match="bad.jpg"):
        list(cpvt.sweep(tiny_run, None, [8]))
    row = next(cpvt.sweep(tiny_run, None, [8], on_bad_image="skip"))
    assert (row.total, row.skipped) == (6, 1)


def test_a_test_shows_its_accuracy_when_it_ends_and_not_before(tiny_run):
    steps = []
    (row,) = cpvt.sweep(tiny_run, None, [8], batch_size=2, on_progress=lambda *step: steps.append(step))
    assert steps == [
        ("resize 8", 2, 6, ""),
        ("resize 8", 4, 6, ""),
        ("resize 8", 6, 6, f"accuracy {row.accuracy:.1%}"),
    ]


def test_sweeps_that_are_refused(tiny_run, image_folder, tmp_path):
    with pytest.raises(ValueError, match="canvas, resize, native; got 'zoom'"):
        next(cpvt.sweep(tiny_run, None, [8], protocols=("zoom",)))
    with pytest.raises(ValueError, match="size 3 is smaller than a patch; the smallest side of this model is 4"):
        next(cpvt.sweep(tiny_run, None, [8, 3]))
    with pytest.raises(ValueError, match="got '12y'"):
        next(cpvt.sweep(tiny_run, None, ["12y"]))
    other = image_folder({"train/bird": 1, "train/cat": 1, "test/bird": 1}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"not the model's: the model has 2 \(cat, dog\), the data 2 \(bird, cat\)"):
        next(cpvt.sweep(tiny_run, str(other), [8]))
    untested = image_folder({"train/cat": 1, "train/dog": 1}, tmp_path / "untested")
    with pytest.raises(ValueError, match="has no test/"):
        next(cpvt.sweep(tiny_run, str(untested), [8]))


def test_a_run_whose_images_are_elsewhere_asks_for_them(tiny_run, tiny_folder, tmp_path):
    expected = list(cpvt.sweep(tiny_run, None, [8]))
    moved = tiny_folder.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=f"trained on '{tiny_folder}', which is not there .*give .* by --data"):
        next(cpvt.sweep(tiny_run, None, [8]))
    (tiny_folder / "cat").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"which does not open here \('.*' holds neither train/.*\): give .* by --data"
    ):
        next(cpvt.sweep(tiny_run, None, [8]))
    with pytest.raises(ValueError, match="^unknown data set '.*nowhere'"):
        next(cpvt.sweep(tiny_run, str(tmp_path / "nowhere"), [8]))
    (row,) = cpvt.sweep(tiny_run, str(moved), [8])
    assert row.hits == expected[0].hits


TIMM = "timm:vit_tiny_patch16_224(img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=2)"


def weights_of(name, tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(open_adapter(name, pretrained=False).model.state_dict(), path)
    return path


def test_a_model_of_another_library_has_its_own_transform(tmp_path, tiny_folder):
    path = weights_of(TIMM, tmp_path)
    first, second = cpvt.sweep(TIMM, str(tiny_folder), [8, (12, 16)], checkpoint=path)
    assert (first.model, first.encoding, first.pool, first.at) == (TIMM, "", "", ())
    assert (first.takes_sizes, second.takes_sizes) == ("as it is", "set_input_size")
    assert (first.train_size, first.crop_ratio, first.interpolation) == (8, 0.9, "bicubic")  # timm's for this model
    assert first.mean == (0.5, 0.5, 0.5)
    assert first.refused is None
    model, data = open_adapter(TIMM, path).model, open_data(str(tiny_folder))
    preprocessing = find_protocol("resize")(Transform((0.5,) * 3, (0.5,) * 3, 0.9), (8, 8))
    correct_mask = []
    for index in range(6):
        image, label = data.test.read(index, None)
        with torch.no_grad():
            correct_mask.append(int(model(preprocessing(image, None)[None]).argmax()) == label)
    assert unpack_hits(first.hits, 6) == correct_mask
    assert (first.correct, first.top5) == (sum(correct_mask), 6)


def test_the_transform_can_be_overridden(tiny_folder):
    data = open_data(str(tiny_folder))
    options = dict(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop_pct=0.5, interpolation="bilinear")
    seen = []
    (row,) = cpvt.sweep(lambda images: seen.append(images) or images.mean((2, 3))[:, :2], data, [8], **options)
    assert (row.mean, row.std, row.crop_ratio, row.interpolation) == tuple(options.values())
    image, _ = data.test.read(0, None)
    transform = Transform((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.5, "bilinear")
    expected = find_protocol("resize")(transform, (8, 8))(image, None)
    torch.testing.assert_close(seen[0][0], expected)
    for wrong in ({"mean": (0.5, 0.5)}, {"mean": (0.5, 0.5, 0.5), "std": (1, 1, 0)}):
        with pytest.raises(ValueError, match="mean and std must be one number each, or three"):
            next(cpvt.sweep(lambda images: images, data, [8], **wrong))


def test_any_module_or_callable_is_tested(tiny_folder):
    class Brightest(torch.nn.Module):
        def forward(self, images):
            mean = images.mean((1, 2, 3))
            return torch.stack([mean, -mean], 1)

    data, seen = open_data(str(tiny_folder)), []
    (row,) = cpvt.sweep(Brightest(), data, [12], protocols=("canvas",))
    (same,) = cpvt.sweep(lambda images: seen.append(images) or Brightest()(images), data, [12], protocols=("canvas",))
    assert (row.model, same.model) == ("Brightest", "function")
    assert (row.hits, row.train_size, row.mean) == (same.hits, None, data.mean)
    assert row.correct == sum(unpack_hits(row.hits, 6)) > 0
    assert seen[0].shape == (6, 3, 12, 12)
    assert row.peak_memory >= 0


def test_a_refused_size_is_a_row_with_the_models_message(tiny_folder):
    model = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 16, num_classes=2)
    first, second = cpvt.sweep(model, open_data(str(tiny_folder)), [32, 48])
    assert (first.total, first.refused) == (6, None)
    assert (second.total, second.correct) == (0, 0)
    assert second.refused == "AssertionError: Wrong image height! Expected 32 but got 48!"
    (cell,) = [cell for cell in summarise([first, second]) if cell.size == 48]
    assert cell.refused == second.refused


def test_mismatches_are_errors(tiny_folder, tiny_run, tmp_path):
    data = open_data(str(tiny_folder))
    with pytest.raises(ValueError, match=r"must give logits of shape \(6, classes\).*got \(6, 3, 8, 8\)"):
        next(cpvt.sweep(lambda images: images, data, [8]))
    with pytest.raises(ValueError, match="'function' has 3 classes, the data has 2"):
        next(cpvt.sweep(lambda images: images.mean((2, 3)), data, [8]))
    with pytest.raises(ValueError, match=r"data= \(--data\) is needed to test 'function'"):
        next(cpvt.sweep(lambda images: images))
    with pytest.raises(ValueError, match="does not state its training size"):
        next(cpvt.sweep(lambda images: images, data))
    with pytest.raises(ValueError, match="size 3 is smaller than a patch"):
        next(cpvt.sweep(TIMM, data, [3], checkpoint=weights_of(TIMM, tmp_path)))
    with pytest.raises(ValueError, match="goes with timm:, hf: or torchvision: names"):
        next(cpvt.sweep(tiny_run, None, [8], checkpoint=tmp_path / "weights.safetensors"))
    with pytest.raises(ValueError, match="has no labels"):
        next(cpvt.sweep(lambda images: images, replace(data, class_names=()), [8]))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tim:vit_small", "Did you mean timm:vit_small"),
        ("vit_small_patch16_224", "Did you mean timm:vit_small_patch16_224"),
        ("runs/none", "is no folder of a run"),
    ],
)
def test_unknown_names_are_errors_with_near_ones(name, hint, tiny_folder):
    with pytest.raises(ValueError, match=hint):
        next(cpvt.sweep(name, str(tiny_folder)))


def test_a_given_training_size_does_not_change_the_resize_method(tmp_path, tiny_folder):
    (row,) = cpvt.sweep(TIMM, str(tiny_folder), [12], checkpoint=weights_of(TIMM, tmp_path), img_size=12)
    assert (row.refused, row.takes_sizes, row.train_size) == (None, "set_input_size", 12)


def test_the_command_line_adds_rows_of_any_model_to_one_folder(tmp_path, tiny_folder, capsys):
    path, out = weights_of(TIMM, tmp_path), tmp_path / "rows"
    for extra in ([], ["--protocols", "canvas", "--longest-side", "9"]):
        data = ["--data", str(tiny_folder), "--sizes", "8"]
        main(["sweep", TIMM, "--checkpoint", str(path), *data, "--out", str(out), *extra])
    assert [row.protocol for row in read_rows(out / "rows.jsonl")] == ["resize", "canvas"]
    output = capsys.readouterr().out
    assert "normalised by mean 0.5/0.5/0.5" in output
    assert "zero-shot, trained at 8, crop ratio 0.9, bicubic" in output


@pytest.mark.parametrize("protocol", ["resize", "native"])
def test_images_read_by_other_processes_are_the_same(tiny_run, protocol, monkeypatch):
    here = next(cpvt.sweep(tiny_run, None, [12], protocols=(protocol,)))
    workers = []
    build = torch.utils.data.DataLoader.__init__
    monkeypatch.setattr(
        torch.utils.data.DataLoader,
        "__init__",
        lambda self, *a, **how: (workers.append(how["num_workers"]), build(self, *a, **how))[1],
    )
    there = next(cpvt.sweep(tiny_run, None, [12], protocols=(protocol,), workers=1))
    assert workers == [1]
    assert (there.hits, there.total) == (here.hits, here.total)


def pooled():
    """A classifier of grey digits."""
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 10))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("protocol", ["resize", "native"])
def test_a_model_in_another_dtype_gets_its_images_in_it(dtype, protocol):
    model = cpvt.create_model("cpvt_micro", in_chans=1, num_classes=10, depth=2).to(dtype)
    for tested in (model, pooled().to(dtype)):
        (row,) = cpvt.sweep(tested, open_data("digits"), [16], protocols=(protocol,))
        assert (row.refused, row.total > 0) == (None, True)
        logits = adapter_of(tested).logits(torch.rand(2, 1, 16, 16))
        assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


class Picky(torch.nn.Module):
    """Takes images of 24 pixels, and fails otherwise."""

    def forward(self, images):
        assert images.shape[-1] == 24, "only 24"
        return images.mean((2, 3)).repeat(1, 10)


def test_a_size_is_refused_only_where_another_one_runs():
    rows = list(cpvt.sweep(Picky(), open_data("digits"), [16, 24, 32]))
    assert [row.refused for row in rows] == ["AssertionError: only 24", None, "AssertionError: only 24"]
    known = replace(adapter_of(Picky()), train_size=24)
    assert [row.refused for row in cpvt.sweep(known, open_data("digits"), [16])] == ["AssertionError: only 24"]
    with pytest.raises(AssertionError, match="only 24"):
        list(cpvt.sweep(Picky(), open_data("digits"), [16, 32]))


class Broken(torch.nn.Module):
    def forward(self, images):
        return images.view(3, 5, 7)


def colours():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, num_heads=2, depth=1, num_classes=10
    )
    return replace(adapter_of(model), transform=None)


@pytest.mark.parametrize(
    ("make", "words"),
    [(Broken, r"shape '\[3, 5, 7\]' is invalid"), (colours, r"expected input\[64, 1, 16, 16\] to have 3 channels")],
)
def test_an_error_of_the_models_own_is_raised(make, words):
    with pytest.raises(RuntimeError, match=words):
        list(cpvt.sweep(make(), open_data("digits"), [16, 24]))


def test_a_probe_raises_an_error_of_the_models_own():
    with pytest.raises(RuntimeError, match=r"shape '\[3, 5, 7\]' is invalid"):
        list(cpvt.probe(Broken(), open_data("digits"), images=4))


def test_a_limited_test_is_a_row_of_its_own(tiny_run, tiny_folder, tmp_path):
    (whole,), (some,) = cpvt.sweep(tiny_run, sizes=[8]), cpvt.sweep(tiny_run, sizes=[8], limit=2)
    assert (whole.total, some.total) == (6, 2)
    assert (whole.data, some.data) == (str(tiny_folder), f"{tiny_folder}, 2 images of each part")
    append_rows(tmp_path / "rows.jsonl", [whole, some])
    assert read_rows(tmp_path / "rows.jsonl") == [whole, some]


def test_rows_say_what_the_model_was_told_of_the_scale(tiny_run):
    rows = list(cpvt.sweep(tiny_run, None, [8, (16, 24), 6], protocols=("resize", "canvas")))
    assert [row.scale_rule for row in rows] == ["protocol"] * 6
    assert [row.scale for row in rows] == [(1, 1), (2, 3), (1, 1), (1, 1), (1, 1), (1, 1)]
    asked = {scale: next(cpvt.sweep(tiny_run, None, [16], scale=scale)) for scale in ("fit", "pixels", "paper", "1x2")}
    assert {scale: row.scale for scale, row in asked.items()} == {
        "fit": (2, 2), "pixels": (1, 1), "paper": None, "1x2": (1, 2),
    }  # fmt: skip
    assert all(row.scale_rule == scale for scale, row in asked.items())
    (native,) = cpvt.sweep(tiny_run, None, [16], protocols=("native",))
    assert (native.scale_rule, native.scale) == ("protocol", None)  # the model's own rule, by each image's size


def test_a_model_is_told_what_its_rows_say(tiny_run, tiny_folder):
    checkpoint, data = cpvt.load(tiny_run), open_data(str(tiny_folder))
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():  # so that a scale is seen in the logits
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    images = [data.test.read(index, np.random.default_rng(0)) for index in range(len(data.test))]
    asked = (("resize", "protocol", "fit"), ("canvas", "protocol", "pixels"), ("resize", "3", 3.0))
    for protocol, scale, told in asked:
        (row,) = cpvt.sweep(checkpoint, None, [24], protocols=(protocol,), scale=scale)
        show = find_protocol(protocol)(checkpoint.transform, (24, 24))
        right = []
        for index, (image, label) in enumerate(images):
            seen = show(image, np.random.default_rng((0, 0, index)))
            with torch.no_grad():
                right.append(int(checkpoint.model(seen[None], scale=told).argmax()) == label)
        assert unpack_hits(row.hits, row.total) == right


def test_auto_tells_a_whole_test_the_scale_at_which_its_first_images_are_surest(tiny_run):
    checkpoint = cpvt.load(tiny_run)
    (row,) = cpvt.sweep(checkpoint, None, [24], scale="auto", batch_size=2)
    told = {scale: next(cpvt.sweep(checkpoint, None, [24], scale=scale)) for scale in (1, 1.5, 2, 3)}
    assert row.scale_rule == "auto"
    assert row.scale[0] in told
    assert row.hits == told[row.scale[0]].hits
    with pytest.raises(
        ValueError, match="'auto' estimates one scale for images of one size; under native pass fit or a number"
    ):
        list(cpvt.sweep(checkpoint, None, [24], scale="auto", protocols=("native",)))


def test_only_a_model_with_pegs_can_be_told(tiny_folder):
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    (row,) = cpvt.sweep(model, str(tiny_folder), [8], img_size=8)
    assert (row.scale_rule, row.scale) == ("", None)
    for scale in ("fit", "auto", "2"):
        with pytest.raises(ValueError, match="'Sequential' has no PEG, so it takes no scale"):
            list(cpvt.sweep(model, str(tiny_folder), [8], img_size=8, scale=scale))
    with pytest.raises(ValueError, match="scale must be paper, pixels, fit.*got 'sure'"):
        cpvt.sweep(model, str(tiny_folder), [8], scale="sure")


def test_a_scale_is_for_models_with_pegs(tiny_folder, tmp_path, capsys):
    from cpvt.cli import main

    model = open_adapter(TIMM, pretrained=False).model
    rows = list(cpvt.sweep(cpvt.retrofit(model), str(tiny_folder), [8, 16], protocols=("resize", "canvas")))
    assert [(row.scale_rule, row.scale) for row in rows] == [
        ("protocol", (1.0, 1.0)), ("protocol", (2.0, 2.0)), ("protocol", (1.0, 1.0)), ("protocol", (1.0, 1.0)),
    ]  # fmt: skip
    (row,) = cpvt.sweep(model, str(tiny_folder), [16])
    assert (row.scale_rule, row.scale) == ("", None)
    (same,) = cpvt.sweep(model, str(tiny_folder), [16], scale="paper")  # nothing is told to whom nothing can be
    assert (same.scale_rule, same.scale, same.hits) == ("", None, row.hits)
    for scale in ("fit", "2.0", "auto"):
        with pytest.raises(ValueError, match=r"has no PEG, so it takes no scale \((fit|2.0)\); leave scale"):
            next(cpvt.sweep(model, str(tiny_folder), [16], scale=scale))
    options = ["--data", str(tiny_folder), "--checkpoint", "random", "--out", str(tmp_path), "--sizes", "8"]
    with pytest.raises(SystemExit):
        main(["sweep", TIMM, *options, "--scale", "1.5"])
    assert "has no PEG, so it takes no scale (1.5); leave scale (--scale) out" in capsys.readouterr().err


def test_of_class_folders_alone_a_model_trained_on_others_is_tested_on_all(tiny_run, image_folder, tmp_path, caplog):
    root = image_folder({"cat": 30, "dog": 30}, tmp_path / "alone")
    (row,) = cpvt.sweep(lambda images: images.mean((2, 3))[:, :2], str(root), [8], img_size=8)
    assert row.total == 60
    with caplog.at_level("INFO", "cpvt"):
        (row,) = cpvt.sweep(tiny_run, str(root), [8])  # a run may have been trained on them under another path
    assert 3 <= row.total <= 20
    assert f"has no test/: the model is tested on {row.total} images, about a fifth of each class" in caplog.text


def test_a_size_at_which_the_scale_is_refused_is_a_row_and_the_others_are_tested(tiny_run):
    rows = list(cpvt.sweep(tiny_run, None, [8, 24], scale="3"))
    assert ["scale must be" in (row.refused or "") for row in rows] == [True, False]
    assert [row.scale for row in rows] == [None, (3.0, 3.0)]


def test_logits_that_are_not_finite_are_said_and_not_scored(tiny_run, tiny_folder):
    run = cpvt.load(tiny_run, "cpu")
    at_8 = run.model.forward

    def overflowing(images, **options):
        return at_8(images, **options) * (float("inf") if images.shape[-1] > 8 else 1.0)

    run.model.forward = overflowing
    good, bad = cpvt.sweep(run, None, [8, 12])
    assert (good.refused, good.total) == (None, 6)
    assert "'tiny_run'" not in bad.refused
    assert "gives logits that are not finite for 6 of 6 images" in bad.refused
    image = str(tiny_folder / "test" / "cat" / "0.png")
    with pytest.raises(ValueError, match="not finite for 1 of 1 images: its weights may be damaged"):
        run(image, size=12)
    with pytest.raises(ValueError, match="not finite for 1 of 1 images"):
        cpvt.estimate_scale(run, torch.randn(1, 3, 12, 12))


def test_a_model_is_left_in_the_modes_it_was_in(tiny_folder):
    model = cpvt.create_model("cpvt_micro", img_size=8, num_classes=2).train()
    model.blocks[0].eval()
    modes = [part.training for part in model.modules()]
    list(cpvt.sweep(model, str(tiny_folder), [8], limit=2))
    assert [part.training for part in model.modules()] == modes
    cpvt.estimate_scale(model, torch.randn(2, 3, 16, 16))
    assert [part.training for part in model.modules()] == modes
    list(cpvt.probe(model, str(tiny_folder), probes=("order",), images=2))
    assert [part.training for part in model.modules()] == modes
    assert 0 < sum(modes) < len(modes)


@pytest.mark.parametrize(
    ("protocols", "options", "message"),
    [
        (("canvas",), {"crop_pct": 0.5, "interpolation": "nearest"}, "under canvas crop_pct and interpolation has no"),
        (("resize",), {"longest_side": 9}, "under resize longest_side has no effect; leave it out"),
        (("resize",), {"img_size": 16}, "was trained at 8 pixels, and img_size says 16: leave img_size"),
        (("resize",), {"std": (float("nan"),) * 3}, "with std above 0"),
    ],
)
def test_options_that_would_do_nothing_or_make_rows_wrong_are_refused(tiny_run, protocols, options, message):
    with pytest.raises(ValueError, match=message):
        next(cpvt.sweep(tiny_run, None, [12], protocols=protocols, **options))
    assert len(list(cpvt.sweep(tiny_run, None, [12], protocols=("canvas", "resize"), crop_pct=0.5, img_size=8))) == 2


def test_a_second_training_tested_into_a_folder_does_not_replace_the_first_in_silence(tiny_run, tmp_path, capsys):
    out = ["--out", str(tmp_path / "swept")]
    for _ in range(2):
        main(["sweep", str(tiny_run), "--sizes", "8", *out])
        assert "different answers" not in capsys.readouterr().out
    state = safetensors.torch.load_file(tiny_run / "model.safetensors")
    state["head.weight"], state["head.bias"] = -state["head.weight"], -state["head.bias"]  # as of another training
    safetensors.torch.save_file(state, tiny_run / "model.safetensors")
    main(["sweep", str(tiny_run), "--sizes", "8", *out])
    assert "rows.jsonl: peg (resize at 8; seed 0): tests with different answers share" in capsys.readouterr().out


def test_a_model_that_several_devices_share_is_told_as_it_is_alone(tiny_folder):
    model = cpvt.create_model("cpvt_micro", encoding="peg", num_classes=2, img_size=8)
    alone, shared = (
        next(cpvt.sweep(each, str(tiny_folder), [16], protocols=("canvas",)))
        for each in (model, torch.nn.DataParallel(model))
    )
    assert (shared.scale_rule, shared.scale, shared.hits) == (alone.scale_rule, alone.scale, alone.hits)
    assert shared.scale == (1.0, 1.0)


def test_a_set_passed_in_python_is_not_taken_for_the_one_of_the_options(tmp_path, image_folder, tiny_folder):
    config = TrainConfig(
        tmp_path / "run", img_size=8, optim=OptimConfig(epochs=1, batch_size=4)
    )  # whose data is digits
    data = open_data(str(tiny_folder))
    run = train(config, data=data)
    for measure in (cpvt.sweep(run, sizes=[8]), cpvt.probe(run, probes=["order"])):
        with pytest.raises(
            ValueError, match=f"was trained on '{tiny_folder}', a DataSet that was passed in Python: pass"
        ):
            next(measure)
    (row,) = cpvt.sweep(run, data, sizes=[8])
    assert (row.data, row.total) == (str(tiny_folder), 6)


def test_a_class_without_test_images_is_named(image_folder, caplog):
    caplog.set_level("INFO", "cpvt")
    open_data(str(image_folder({"train/cat": 2, "train/dog": 2, "test/cat": 1})))
    assert "has no images of dog: these classes are not tested" in caplog.text


def test_a_sweep_of_a_set_that_changed_says_so_until_all_is_tested_again(tiny_run, tiny_folder, tmp_path, capsys):
    line = ["sweep", str(tiny_run), "--out", str(tmp_path / "swept"), "--sizes"]
    main([*line, "8"])
    next((tiny_folder / "test" / "cat").iterdir()).unlink()
    main([*line, "12"])
    output = capsys.readouterr().out
    assert f"'{tiny_folder}' had 6 images (resize at 8) and 5 images (resize at 12): it changed" in output
    main([*line, "8", "12"])
    assert "it changed" not in capsys.readouterr().out
