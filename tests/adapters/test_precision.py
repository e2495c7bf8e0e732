"""Precision: answers close to float32, the given model untouched, rows that say it."""

import copy
import json
import warnings
from dataclasses import replace

import pytest
import timm
import torch

import cpvt
from cpvt.adapters import adapter_of
from cpvt.adapters.precision import check_precision, in_precision, precision_of
from cpvt.cli import main
from cpvt.config import OptimConfig, TrainConfig
from cpvt.data import open_data
from cpvt.reporting.summary import summarise
from cpvt.results.rows import read_rows, unpack_hits


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A run trained for a little on digits."""
    recipe = OptimConfig(epochs=6, batch_size=16, lr=5e-3, augment="none", smoothing=0.0)
    out, model = str(tmp_path_factory.mktemp("digits") / "run"), "cpvt_micro(depth=1)"
    return cpvt.train(TrainConfig(out=out, model=model, encoding="rope+peg", pool="gap", img_size=16, optim=recipe))


def test_answers_in_bf16_are_those_of_float32_but_for_rounding(digits_run):
    checkpoint, data = cpvt.load(digits_run), open_data("digits")
    before = copy.deepcopy(checkpoint.model.state_dict())
    for protocol in ("resize", "native"):
        plain, half = (
            next(cpvt.sweep(checkpoint, data, [24], protocols=(protocol,), precision=precision))
            for precision in ("fp32", "bf16")
        )
        assert (plain.precision, half.precision) == ("fp32", "bf16")
        answers = zip(unpack_hits(plain.hits, plain.total), unpack_hits(half.hits, half.total))
        assert sum(one != other for one, other in answers) < 0.05 * plain.total  # two classes are about equally likely
        assert plain.accuracy > 0.15  # of ten classes
    torch.testing.assert_close(checkpoint.model.state_dict(), before, rtol=0, atol=0)  # dtypes too
    images = [torch.randn(1, 16, 16), torch.randn(1, 12, 24)]
    adapter = in_precision(checkpoint.adapter, "bf16")
    assert {each.dtype for each in adapter.model.parameters()} == {torch.bfloat16}
    for found, expected in (
        (adapter.logits(images[0][None]), checkpoint.adapter.logits(images[0][None])),
        (adapter.logits_of_list(images), checkpoint.adapter.logits_of_list(images)),
        (adapter.with_scale(1.5).logits(images[0][None]), checkpoint.adapter.with_scale(1.5).logits(images[0][None])),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=0.15, rtol=0.05)
        assert not torch.equal(found, expected)


def test_fp32_is_the_model_itself(digits_run):
    adapter = cpvt.load(digits_run).adapter
    assert in_precision(adapter, "fp32") is adapter


def test_predictions_in_bf16_are_close(tiny_run, tiny_folder):
    images, checkpoint = [tiny_folder / "test"], cpvt.load(tiny_run)
    plain, half = (list(cpvt.predict(checkpoint, images, precision=each)) for each in ("fp32", "bf16"))
    first, second = (torch.tensor([dict(each.classes)["cat"] for each in found]) for found in (plain, half))
    torch.testing.assert_close(first, second, atol=0.02, rtol=0)
    assert not torch.equal(first, second)


def test_the_command_adds_rows_of_each_precision(tiny_run, capsys):
    rows = len(read_rows(tiny_run / "rows.jsonl"))
    for precision in ("bf16", "fp32", "bf16"):
        main(["sweep", str(tiny_run), "--sizes", "8", "12", "--precision", precision])
    found = read_rows(tiny_run / "rows.jsonl")[rows:]
    assert [(row.size, row.precision) for row in found] == [(8, "bf16"), (12, "bf16"), (8, "fp32"), (12, "fp32")]
    assert {cell.label for cell in summarise(found)} == {"peg", "peg (bf16)"}
    assert "computed in bf16" in capsys.readouterr().out
    image = next((tiny_run.parent / "images" / "test" / "cat").iterdir())
    main(["predict", str(tiny_run), str(image), "--json", "--precision", "bf16"])
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["classes"] == [list(each) for each in next(cpvt.predict(tiny_run, [image], precision="bf16"))[3]]


class Fixed(torch.nn.Module):
    """Adds positions that no cast reaches, above 16 pixels."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 10)
        self.positions = torch.ones(3)

    def forward(self, images):
        tokens = images.mean((2, 3))
        return self.head(tokens if images.shape[2] <= 16 else tokens + self.positions)


def test_models_of_other_libraries_are_cast_where_they_run_so():
    external = adapter_of(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, dynamic_img_size=True))
    cast = in_precision(external, "bf16", [(32, 48)])
    assert (cast.dtype, cast.autocast, precision_of(cast)) == (torch.bfloat16, None, "bf16")
    assert external.dtype == torch.float32
    fixed = replace(adapter_of(Fixed()), train_size=16)
    assert in_precision(fixed, "bf16").dtype == torch.bfloat16
    auto = in_precision(fixed, "bf16", [16, 24])  # with cast weights 24 fails
    assert (auto.dtype, auto.autocast, precision_of(auto)) == (torch.float32, torch.bfloat16, "bf16")
    assert auto.model is fixed.model
    images = torch.rand(2, 3, 24, 24)
    assert auto.logits(images).dtype == torch.float32
    torch.testing.assert_close(auto.logits(images), fixed.logits(images), atol=0.02, rtol=0.02)
    assert not torch.equal(auto.logits(images), fixed.logits(images))
    weight = torch.randn(10, 3)
    function = in_precision(adapter_of(lambda images: images.mean((2, 3)) @ weight.T), "bf16")
    assert (function.autocast, function.logits(images).dtype) == (torch.bfloat16, torch.float32)
    for unknown in (replace(adapter_of(torch.nn.Flatten()), train_size=16), adapter_of(Fixed())):
        assert in_precision(unknown, "bf16").autocast == torch.bfloat16  # no weights, or no size to try them at


def test_what_a_machine_cannot_do(monkeypatch, tiny_run):
    adapter = cpvt.load(tiny_run, "cpu").adapter
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16; got 'int8'"):
        next(cpvt.sweep(tiny_run, None, [8], precision="int8"))
    with pytest.raises(ValueError, match="fp16 needs a GPU, and this would run on a CPU: choose bf16 or fp32"):
        in_precision(adapter, "fp16")
    for capabilities, count in (({}, 1), ({"avx512_bf16": False}, 1), ({"amx_bf16": True}, 0)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            in_precision(adapter, "bf16")
            in_precision(adapter, "fp32")
            check_precision("bf16", on_cpu=False)
        assert ["--precision bf16 is slower here than fp32" in str(each.message) for each in caught] == [True] * count
