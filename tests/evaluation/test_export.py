"""Exports: one file for all sizes, checked and described, or no file."""

import json
import sys

import onnx
import onnxruntime
import pytest
import torch

import cpvt
from cpvt.encodings import TABLE
from cpvt.evaluation import export as exporting
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
    assert ("Resize" in {node.op_type for node in graph.node}) == ("learned" in encoding)
    session = onnxruntime.InferenceSession(exported.path)
    for each in (images, torch.randn(1, 3, 4, 4)):
        (logits,) = session.run(None, {"images": each.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), model(each).detach(), atol=1e-4, rtol=1e-4)


def test_a_run_exports_its_class_names_and_normalisation(tiny_run, tmp_path):
    cpvt.export(tiny_run, tmp_path / "model.onnx")
    held = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    transform = cpvt.load(tiny_run).transform
    normalisation = {"mean": list(transform.mean), "std": list(transform.std)}
    expected = {"class_names": ["cat", "dog"], "training_size": [8, 8], **normalisation}
    assert held == {**expected, "smallest_side": 4}
    cpvt.export(tiny_run, tmp_path / "model.pt2")
    files = {"metadata.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=files)
    assert json.loads(files["metadata.json"]) == {**expected, "smallest_side": 8}


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
