"""Exports: one file for all sizes, checked and described, or no file."""

import contextlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image

import cpvt
from cpvt.adapters import adapter_of
from cpvt.config import ExternalConfig
from cpvt.config.scale import parse_scale
from cpvt.encodings import TABLE
from cpvt.evaluation import export as exporting
from cpvt.results.checkpoints import build_model, save_checkpoint
from tests.pairs import pairs


def build(encoding, pool):
    """A small model with weights large enough that logits are of order 1 and positions matter."""
    torch.manual_seed(0)
    model = cpvt.create_model("cpvt_micro", encoding=encoding, global_pool=pool, depth=2, num_classes=5)
    for parameter in (*model.encoding.parameters(), *model.head.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    ("encoding", "pool", "suffix"), pairs([*TABLE, "learned+peg"], ["token", "avg"], [".onnx", ".pt2"])
)
def test_every_encoding_and_pool_exports_for_all_sizes(encoding, pool, suffix, tmp_path):
    model = build(encoding, pool)
    exported = cpvt.export(model, tmp_path / f"model{suffix}")
    assert exported.error < 1e-4
    assert len({shape[1:] for shape in exported.checked}) == 5
    assert list(tmp_path.iterdir()) == [exported.path]
    images = torch.randn(2, 3, 50, 33)
    expected = model(images).detach()
    assert expected.abs().max() > 0.5
    if suffix == ".pt2":
        torch.testing.assert_close(torch.export.load(exported.path).module()(images), expected, atol=1e-4, rtol=1e-4)
        return
    graph = onnx.load(exported.path).graph
    assert [dim.HasField("dim_param") for dim in graph.input[0].type.tensor_type.shape.dim] == [True, False, True, True]
    assert "Resize" not in {node.op_type for node in graph.node}  # given the scale, a table is read by products
    session = onnxruntime.InferenceSession(exported.path)
    for each in (images, torch.randn(1, 3, 4, 4)):
        (logits,) = session.run(None, {"images": each.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(each).detach(), atol=1e-4, rtol=1e-4)


def test_onnx_runtime_adds_the_bias_of_every_linear_layer_within_its_product(tmp_path):
    path = cpvt.export(build("peg", "avg"), tmp_path / "model.onnx").path
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("Gemm") == 2 * 4 + 1  # qkv, proj, fc1, fc2 and the head
    assert kinds.count("FusedMatMul") == 2  # queries and keys, with the factor
    assert kinds.count("Transpose") <= 2 * 4 + 1  # of queries, keys, values and the output, and of the patches


def test_a_run_exports_its_class_names_and_normalisation(tiny_run, tmp_path):
    cpvt.export(tiny_run, tmp_path / "model.onnx")
    held = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    transform = cpvt.load(tiny_run).transform
    normalisation = {"mean": list(transform.mean), "std": list(transform.std)}
    reading = {"crop_ratio": 0.875, "interpolation": "bicubic", "size": [8, 8]}
    expected = {"class_names": ["cat", "dog"], "training_size": [8, 8], **normalisation, **reading}
    expected["scale"] = "fit"
    assert held == {**expected, "smallest_side": 4}
    cpvt.export(tiny_run, tmp_path / "model.pt2")
    files = {"metadata.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=files)
    assert json.loads(files["metadata.json"]) == {**expected, "smallest_side": 8}


def read_file(path):
    """What an exported file computes, and its metadata."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        held = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), held
    files = {"metadata.json": ""}
    module = torch.export.load(path, extra_files=files).module()
    return module, json.loads(files["metadata.json"])


SIZES = [(32, 32), (24, 32), (48, 64), (96, 40), (20, 100)]  # of a model trained at 32: smaller, equal and larger


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize(
    ("encoding", "rule", "held"),
    [
        ("rope+peg", "fit", "fit"), ("relative+peg", "fit*0.9", "fit*0.9"), ("peg5", "pixels", "pixels"),
        ("learned+peg", "paper", "paper"), ("peg", "2.5", 2.5), ("sincos+peg", "1x2", [1.0, 2.0]),
    ],
)  # fmt: skip
def test_a_file_follows_the_rule_at_every_size(encoding, rule, held, suffix, tmp_path):
    torch.manual_seed(0)
    model = build(encoding, "avg")
    for block in model.blocks:  # sharp attention, so that the temperature is seen
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.4)
    exported = cpvt.export(model, tmp_path / f"model{suffix}", scale=rule)
    assert (model.scale, exported.scale) == ("fit", tuple(held) if isinstance(held, list) else held)
    run, metadata = read_file(exported.path)
    assert metadata["scale"] == held
    assert any(min(height, width) > 8 * 4 for _, height, width in exported.checked)
    for size in SIZES:
        images = torch.randn(2, 3, *size)
        told, other = (
            model(images, parse_scale(each)).detach() for each in (rule, "pixels" if rule == "paper" else "paper")
        )
        torch.testing.assert_close(run(images), told, atol=2e-4, rtol=2e-4)
        if min(size) > 32:
            assert (told - other).abs().max() > 0.02  # what a file without the rule would answer


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize(("rule", "held"), [(None, "fit*0.8"), ("pixels", "pixels"), ("2.0", 2.0)])
def test_a_file_of_a_retrofitted_model_follows_the_rule(rule, held, suffix, tmp_path):
    run = external_run(tmp_path / "run", TIMM, {**FADED, "scale": "fit*0.8"})
    exported = cpvt.export(run, tmp_path / f"model{suffix}", scale=rule)
    model, (file, metadata) = cpvt.load(run), read_file(exported.path)
    assert (exported.fixed_size, exported.scale, metadata["scale"]) == (None, held, held)
    assert model.model.scale == "fit*0.8"
    for size in ((32, 32), (16, 24), (64, 48), (40, 80), (96, 56)):
        images = torch.randn(2, 3, *size)
        told, other = (
            model.adapter.at_size(size).with_scale(each).logits(images)
            for each in (rule, "pixels" if rule != "pixels" else "fit")
        )
        torch.testing.assert_close(file(images), told, atol=2e-4, rtol=2e-4)
        assert min(size) <= 40 or (told - other).abs().max() > 0.003  # ten times what may differ


def test_a_scale_that_a_file_cannot_have(tmp_path, capsys):
    from cpvt.cli import main

    with pytest.raises(ValueError, match=r"scale must be paper, pixels, fit, .*; got 'auto'"):
        cpvt.export(build("peg", "avg"), tmp_path / "model.pt2", scale="auto")
    with pytest.raises(ValueError, match="has no PEG, so it takes no scale"):
        cpvt.export(torch.nn.Conv2d(3, 2, 1), tmp_path / "model.pt2", scale="fit")
    run = external_run(tmp_path / "run", TIMM)
    with pytest.raises(SystemExit):
        main(["export", str(run), "--scale", "2.0"])
    assert "has no PEG, so it takes no scale (2.0)" in capsys.readouterr().err
    assert not list(tmp_path.glob("**/model.[op]*"))


def test_the_command_says_the_scale_in_the_file(capsys, tiny_run, tmp_path):
    from cpvt.cli import main

    main(["export", str(tiny_run), "--out", str(tmp_path / "model.pt2"), "--scale", "1x2.5"])
    printed = capsys.readouterr().out
    assert ", scale 1x2.5" in printed
    assert json.loads(printed.splitlines()[-1])["scale"] == [1.0, 2.5]
    assert read_file(tmp_path / "model.pt2")[1]["smallest_side"] == 12  # three tokens: no fewer can hold the scale


def test_an_export_that_disagrees_is_not_kept(tmp_path, monkeypatch):
    (tmp_path / "model.pt2").write_text("the earlier file")
    real = exporting._pt2_runner
    monkeypatch.setattr(exporting, "_pt2_runner", lambda path: lambda images: real(path)(images) + 0.01)
    with pytest.raises(ValueError, match=r"differs from eager by \d\.\de-03, more than 0.0001; no file was kept"):
        cpvt.export(build("peg", "avg"), tmp_path / "model.pt2")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the earlier file"]


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"suffix decides the format: .onnx, .pt2; got 'model.pb'"):
        cpvt.export(build("peg", "avg"), tmp_path / "model.pb")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install 'cpvt\[onnx\]'"):
        cpvt.export(build("peg", "avg"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_exports(capsys, tiny_run, tmp_path):
    from cpvt.cli import main

    out = tmp_path / "made" / "model.pt2"
    main(["export", str(tiny_run), "--format", "torch-export", "--out", str(out)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["file"] == str(out)
    assert out.exists()
    with pytest.raises(SystemExit):
        main(["export", str(tiny_run), "--format", "onnx", "--out", str(out)])
    assert "does not go with" in capsys.readouterr().err


TIMM = "timm:vit_tiny_patch16_224(patch_size=8, embed_dim=24, depth=2, num_heads=3)"
HF = "hf:vit(patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48)"

SWIN = "timm:swin_tiny_patch4_window7_224(embed_dim=12, depths=(1, 1), num_heads=(1, 2), window_size=4)"


def external_run(folder, name, retrofit=None):
    """A run with another library's model, whose weights are large enough that logits are of order 1."""
    folder.mkdir()
    config = ExternalConfig(name, 5, 32, 3, retrofit)
    model = build_model(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    transform = {"mean": [0.5] * 3, "std": [0.25] * 3}
    record = {"model": vars(config), "class_names": list("abcde"), "transform": transform, "training": {"out": "run"}}
    save_checkpoint(folder, model.state_dict(), record)
    return folder


FADED = {"at": [1], "absolute": "fade", "kernel_size": 3, "padding_mode": "zeros"}


@pytest.mark.parametrize(
    ("name", "retrofit", "suffix", "any_size"),
    [
        (TIMM, None, ".onnx", True),
        (TIMM, FADED, ".pt2", True),
        (TIMM, FADED, ".onnx", True),
        (HF, {**FADED, "absolute": "keep"}, ".pt2", True),
        (SWIN, None, ".pt2", False),
    ],
)
def test_a_run_of_another_library_exports(name, retrofit, suffix, any_size, tmp_path):
    run = external_run(tmp_path / "run", name, retrofit)
    exported = cpvt.export(run, tmp_path / f"model{suffix}")
    assert exported.fixed_size == (None if any_size else (32, 32))
    size, model = (16, 56) if any_size else (32, 32), cpvt.load(run).model
    images = torch.randn(3, 3, *size)
    adapter = adapter_of(model).at_size(size)
    expected = adapter.logits(images)
    if suffix == ".onnx":
        held = {each.key: json.loads(each.value) for each in onnx.load(exported.path).metadata_props}
        (found,) = onnxruntime.InferenceSession(exported.path).run(None, {"images": images.numpy()})
        found = torch.from_numpy(found)
    else:
        files = {"metadata.json": ""}
        found = torch.export.load(exported.path, extra_files=files).module()(images)
        held = json.loads(files["metadata.json"])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (held["class_names"], held["std"], held["training_size"]) == (list("abcde"), [0.25] * 3, [32, 32])
    assert (held.get("fixed_size"), held.get("multiple_of")) == ((None, 8) if any_size else ([32, 32], None))


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_trains_on_after_an_export(fails, tmp_path, monkeypatch):
    model = build("peg", "avg").train()
    model.blocks[0].eval()
    if fails:
        monkeypatch.setattr(exporting, "_check", lambda *_: (1.0, []))
    with pytest.raises(ValueError, match="no file was kept") if fails else contextlib.nullcontext():
        cpvt.export(model, tmp_path / "model.pt2")
    assert (model.training, model.blocks[0].training, model.blocks[1].training) == (True, False, True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_answered_with_what_to_do(dtype, tmp_path):
    with pytest.raises(ValueError, match=rf"writes float32 weights, and the model has {dtype}: export model.float\(\)"):
        cpvt.export(build("peg", "avg").to(dtype), tmp_path / "model.onnx")


class Never(torch.nn.Module):
    def forward(self, images):
        return torch.from_numpy(images.numpy()).mean((2, 3))


def test_a_model_that_exports_at_no_size_is_told_so(tmp_path):
    with pytest.raises(ValueError, match=r"'Never' cannot be exported as .pt2, at any size; no other is known: "):
        cpvt.export(Never(), tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"export takes a model \(torch.nn.Module\), a run or a name; got function"):
        cpvt.export(lambda images: images, tmp_path / "model.pt2")
    with pytest.raises(ValueError, match=r"'cpvt_small' .* without trained weights. Train it .*; .* with weights"):
        cpvt.export("cpvt_small")


def test_the_command_says_where_one_size_is_exported(capsys, tmp_path):
    from cpvt.cli import main

    run = external_run(tmp_path / "run", SWIN)
    main(["export", str(run), "--out", str(tmp_path / "model.pt2")])
    printed = capsys.readouterr().out
    assert "it takes 32x32 pixels only" in printed
    assert json.loads(printed.splitlines()[-1])["fixed_size"] == [32, 32]


def test_a_name_of_another_library_exports(tmp_path):
    name = TIMM.replace(")", ", img_size=32, num_classes=5, dynamic_img_size=True, pretrained=False)")
    exported = cpvt.export(name, tmp_path / "model.pt2")
    assert exported.fixed_size is None
    with pytest.raises(ValueError, match="out is needed for a model without a folder"):
        cpvt.export(name)


def answers_of(path, images):
    return torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize(("encoding", "pool"), [("rope+peg", "avg"), ("relative", "token")])
def test_a_quantised_file_is_small_and_answers_at_every_size(encoding, pool, tmp_path):
    model = build(encoding, pool)
    exported = cpvt.export(model, tmp_path / "model.onnx", int8=True)
    assert list(tmp_path.iterdir()) == [exported.path]
    int8 = exported.int8
    assert (int8.images, int8.bytes) == (40, exported.path.stat().st_size)
    weights = sum(each.weight.numel() for each in model.modules() if isinstance(each, torch.nn.Linear))
    assert int8.bytes_before - int8.bytes > 0.7 * 4 * weights  # three of four bytes, but for the nodes that are added
    assert int8.agreement > 0.9
    assert 1e-3 < int8.error < 0.1
    graph = onnx.load(exported.path).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulInteger") == 2 * 4 + 1  # qkv, proj, fc1, fc2 and the head
    scales = [each.dims[0] for each in graph.initializer if each.name.endswith("_scale")]  # one for an output channel
    assert sorted(scales) == sorted([3 * 64, 64, 4 * 64, 64] * 2 + [5])
    worst = 0.0
    for size in ((32, 32), (50, 33), (20, 96)):
        images = torch.randn(16, 3, *size)
        expected, found = model(images).detach(), answers_of(exported.path, images)
        assert (expected.argmax(1) == found.argmax(1)).float().mean() > 0.8
        worst = max(worst, float((expected - found).abs().max() / expected.abs().max()))
    assert 1e-3 < worst < 0.15


def test_a_quantised_file_keeps_its_metadata_and_its_neighbour(tiny_run, capsys, recwarn, caplog):
    from cpvt.cli import main

    main(["export", str(tiny_run)])
    plain = capsys.readouterr().out
    assert "quantised to" not in plain
    assert json.loads(plain.splitlines()[-1])["int8"] is None
    whole = (tiny_run / "model.onnx").read_bytes()
    main(["export", str(tiny_run), "--int8"])
    printed, last = capsys.readouterr().out.splitlines()[-2:]
    path = tiny_run / "model-int8.onnx"
    found = json.loads(last)
    assert (found["file"], found["int8"]["images"]) == (str(path), 40)
    agreement, before, after = (found["int8"][name] for name in ("agreement", "bytes_before", "bytes"))
    assert f"then quantised to int8: {agreement:.1%} of the answers to 40 random images are the model's" in printed
    assert before == pytest.approx(len(whole), abs=100)  # but for its metadata
    assert after == path.stat().st_size
    assert f"{before / 2**20:.1f} MiB became {after / 2**20:.1f} MiB" in printed
    held, other = (read_file(tiny_run / name)[1] for name in ("model.onnx", "model-int8.onnx"))
    assert other == {**held, "precision": "int8"}
    assert (tiny_run / "model.onnx").read_bytes() == whole
    assert {each.name for each in tiny_run.iterdir() if "onnx" in each.name} == {"model.onnx", "model-int8.onnx"}
    assert (list(recwarn), [each for each in caplog.records if each.levelname != "DEBUG"]) == ([], [])


def test_what_is_not_quantised(tmp_path, monkeypatch, capsys, tiny_run):
    from cpvt.cli import main

    model = build("peg", "avg")
    with pytest.raises(ValueError, match=r"quantises .onnx files, and 'model.pt2' is none: leave --int8 out"):
        cpvt.export(model, tmp_path / "model.pt2", int8=True)
    with pytest.raises(SystemExit):
        main(["export", str(tiny_run), "--format", "torch-export", "--int8"])
    assert "quantises .onnx files, and 'model.pt2' is none" in capsys.readouterr().err
    (tmp_path / "model.onnx").write_text("the earlier file")
    with pytest.raises(ValueError, match="model.onnx' exists; choose another --out, or remove it"):
        cpvt.export(model, tmp_path / "model.onnx", int8=True)
    assert (tmp_path / "model.onnx").read_text() == "the earlier file"
    real = exporting._onnx_runner
    runners = iter([real, lambda path: lambda images: -real(path)(images)])
    monkeypatch.setattr(exporting, "_onnx_runner", lambda path: next(runners)(path))
    with pytest.raises(ValueError, match=r"answers \d+% of 40 images as the model does, less than 50%; no file was"):
        cpvt.export(model, tmp_path / "new.onnx", int8=True)
    assert not list(tmp_path.glob("*new*"))


def test_a_model_of_another_library_is_quantised(tmp_path):
    run = external_run(tmp_path / "run", TIMM, FADED)
    exported = cpvt.export(run, tmp_path / "model.onnx", int8=True)
    assert (exported.fixed_size, exported.int8.images) == (None, 40)
    images = torch.randn(4, 3, 40, 24)
    expected = cpvt.load(run).adapter.at_size((40, 24)).logits(images)
    assert float((answers_of(exported.path, images) - expected).abs().max() / expected.abs().max()) < 0.15


def test_the_code_of_the_docs_reads_images_as_predict_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
    code = next(each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in each)
    cpvt.export("cpvt_mini_peg5_gap", "model.onnx")
    run = cpvt.load("cpvt_mini_peg5_gap", "cpu")
    for size in ((90, 61), (64, 64), (33, 120)):
        values = np.random.default_rng(size[0]).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
        Image.fromarray(values).resize(size, Image.Resampling.BICUBIC).save("photo.jpg", "PNG")
        names = {}
        exec(compile(code, "deployment", "exec"), names)
        with Image.open("photo.jpg") as image:
            expected = run.transform(image)
        torch.testing.assert_close(torch.from_numpy(names["read"]("photo.jpg", 40, 40)[0]), expected)
        assert capsys.readouterr().out.split()[-1] == run("photo.jpg").label


def test_a_file_says_how_images_of_another_shape_are_fitted(tmp_path):
    model = timm.create_model(
        "vit_tiny_patch16_224", patch_size=4, embed_dim=16, depth=1, num_heads=2, img_size=8, num_classes=3,
        pretrained_cfg_overlay={"crop_mode": "squash"},
    )  # fmt: skip
    exported = cpvt.export(model, out=str(tmp_path / "model.onnx"))
    held = {each.key: json.loads(each.value) for each in onnx.load(exported.path).metadata_props}
    assert held["crop_mode"] == "squash"


def test_an_export_says_nothing_where_an_application_shows_its_own_progress(tiny_run, tmp_path, caplog):
    with caplog.at_level("INFO"):
        cpvt.export(str(tiny_run), tmp_path / "model.onnx")
    assert not [each for each in caplog.records if each.name.startswith("onnxscript")]
