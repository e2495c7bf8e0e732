"""An encoding from outside the package is accepted wherever a name is."""

import functools
import json
import subprocess
import sys

import pytest
import timm
import torch

import cpvt
from cpvt.adapters import adapter_of
from cpvt.config import CompareConfig, ModelConfig, OptimConfig, TrainConfig, encoding_name
from cpvt.encodings import ModelShape, PositionalEncoding, create_encoding, parse_encoding
from cpvt.encodings.compose import SumEncoding
from cpvt.encodings.learned import LearnedEncoding
from cpvt.encodings.peg import PEGEncoding
from cpvt.models import VisionTransformer
from cpvt.testing import SHAPE, check_encoding

MODULE = '''
import torch
from torch import nn
from cpvt import PositionalEncoding


class Corner(PositionalEncoding):
    """A learned vector that grows with the distance from the upper left corner."""

    at = (0,)

    def __init__(self, shape, strength=1.0):
        super().__init__()
        self.strength = strength
        self.directions = nn.Parameter(torch.randn(2, shape.dim))

    def tokens(self, x, grid, depth):
        rows, columns = (torch.arange(side, device=x.device, dtype=torch.float32) for side in grid)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
        return x + (self.strength * places @ self.directions.float()).to(x.dtype)


nothing = 3


def wrong(shape):
    return nothing
'''
NAME = "somewhere_else.mine:Corner"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of one's own, on the path of this process and of those that it starts."""
    (tmp_path / "somewhere_else").mkdir()
    (tmp_path / "somewhere_else" / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield NAME
    for name in [name for name in sys.modules if name.startswith("somewhere_else")]:
        del sys.modules[name]


def test_a_name_finds_it_with_options_and_in_sums(mine):
    assert parse_encoding(f"learned+{mine}(strength=2.5)") == [("learned", {}), (mine, {"strength": 2.5})]
    assert create_encoding(f"{mine}(strength=2.5)", SHAPE).strength == 2.5
    check_encoding(f"{mine}+peg")
    model = cpvt.create_model("cpvt_micro", encoding=f"learned+{mine}", num_classes=3)
    assert model(torch.randn(1, 3, 20, 24)).shape == (1, 3)
    assert model.config.encoding == f"learned+{mine}"


def test_a_class_is_the_same_as_its_name(mine):
    from somewhere_else.mine import Corner

    models = []
    for given in (mine, Corner):
        torch.manual_seed(0)
        models.append(cpvt.create_model("cpvt_micro", encoding=given, num_classes=3).eval())
    torch.manual_seed(0)
    models.append(timm.create_model("cpvt_micro", encoding=Corner, num_classes=3).eval())
    x = torch.randn(1, 3, 20, 24)
    assert all(torch.equal(model(x), models[0](x)) for model in models)
    assert {model.config.encoding for model in models} == {mine}


def test_an_instance_is_used_as_it_is(mine):
    from somewhere_else.mine import Corner

    instance = Corner(SHAPE._replace(dim=64), strength=3.0)
    model = cpvt.create_model("cpvt_micro", encoding=instance)
    assert model.encoding is instance
    assert model.config.encoding == mine


def test_a_class_of_a_function_works_in_a_model_and_not_in_a_training():
    class Local(PositionalEncoding):
        symmetries = frozenset({"permutation"})

        def __init__(self, shape):
            super().__init__()

    assert isinstance(cpvt.create_model("cpvt_micro", encoding=Local).encoding, Local)
    with pytest.raises(ValueError, match="defined inside a function and cannot be imported; move it to a module"):
        TrainConfig(out="", encoding=Local)
    with pytest.raises(ValueError, match="pass the class or its name, not an instance of Local"):
        CompareConfig(encodings=(Local(SHAPE),))


def test_a_training_takes_a_class(mine):
    from somewhere_else.mine import Corner

    assert TrainConfig(out="", encoding=Corner).encoding == mine
    assert CompareConfig(encodings=(Corner, "peg")).encodings == (mine, "peg")
    assert encoding_name(Corner) == mine


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "nowhere_at_all:Corner",
            "cannot be imported here \\(No module named 'nowhere_at_all'\\); install its package, or put",
        ),
        ("somewhere_else.mine:Missing", "cannot be imported here .*has no attribute 'Missing'"),
        ("somewhere_else.mine:nothing", "must be a class or a function that builds an encoding; got int"),
        ("somewhere_else.mine:wrong", "must build a cpvt.PositionalEncoding; it gave int"),
        (f"{NAME}(colour='red')", "does not take option 'colour'; known options: strength"),
        ("Corner", "one's own as mypackage.module:MyEncoding"),
    ],
)
def test_what_cannot_be_found_or_built_is_said(mine, name, words):
    with pytest.raises(ValueError, match=words):
        cpvt.create_model("cpvt_micro", encoding=name)


def test_a_checkpoint_loads_where_the_module_is_and_says_what_is_missing_elsewhere(mine, tmp_path, tiny_folder):
    from cpvt.config import DataConfig

    config = TrainConfig(
        out=str(tmp_path / "run"),
        img_size=8,
        encoding=mine,
        dataset=DataConfig(str(tiny_folder)),
        optim=OptimConfig(epochs=1),
    )
    folder = cpvt.train(config)
    assert cpvt.load(folder).config.encoding == mine
    load = f"import cpvt; cpvt.load({str(folder)!r})"
    elsewhere = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=False, cwd="/")
    assert f"the encoding '{mine}' cannot be imported here" in elsewhere.stderr
    here = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert here.returncode == 0, here.stderr


def test_two_processes_compare_it(mine, tmp_path, tiny_folder):
    words = ["compare", "--data", str(tiny_folder), "--encodings", mine, "peg", "--pool", "cls", "--epochs", "1",
             "--parallel", "2",
             "--protocols", "resize", "--resize-sizes", "32", "--out", str(tmp_path / "out")]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "from cpvt.cli import main; main()", *words], capture_output=True, text=True,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["encoding"] for row in sorted(rows, key=lambda row: row["encoding"])] == ["peg", mine]


@pytest.mark.parametrize("made", ["instance", "lambda", "partial"])
def test_an_encoding_that_no_name_describes_is_not_saved_as_another(made, tmp_path):
    config = ModelConfig(img_size=32, embed_dim=16, depth=2, num_heads=2, num_classes=3)
    options = {"dilation": 2, "at": (1, 2)}
    shape = ModelShape(16, 2, 2, (8, 8))
    encoding = {
        "instance": lambda: PEGEncoding(shape, **options),
        "lambda": lambda: lambda shape: PEGEncoding(shape, **options),
        "partial": lambda: functools.partial(PEGEncoding, **options),
    }[made]()
    model = VisionTransformer(config, encoding=encoding).eval()
    with pytest.raises(ValueError, match=r"name it with its options, such as 'peg\(dilation=2\)'"):
        model.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    untrained = adapter_of(model).untrained().model.encoding
    assert untrained.at == (1, 2)
    assert untrained.peg["1"].dilation == 2
    assert not torch.equal(untrained.peg["1"].weight, model.encoding.peg["1"].weight)


def test_a_builder_of_several_encodings_follows_another_size():
    model = cpvt.create_model("cpvt_micro", encoding=two_encodings, num_classes=3, img_size=32).eval()
    images = torch.randn(1, 3, 48, 48)
    expected = model(images)
    model.set_input_size(48)
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-4)
    again = VisionTransformer(model.config).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(images), expected, atol=1e-5, rtol=1e-4)


def two_encodings(shape):
    return SumEncoding([PEGEncoding(shape), LearnedEncoding(shape)])


class NoHook(PositionalEncoding):
    """A hook whose name is misspelt."""

    def __init__(self, shape):
        super().__init__()

    def token(self, x, grid, depth):
        return x + 1.0


class Nowhere(NoHook):
    """Tokens at no depth."""

    def tokens(self, x, grid, depth):
        return x + 1.0


class Shorter(Nowhere):
    """Tokens of another shape."""

    at = (0,)

    def tokens(self, x, grid, depth):
        return x[:, :1]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (NoHook, "overrides none of tokens, rotation, .* so it encodes nothing: is one of its methods misspelt"),
        (NoHook(SHAPE), "'NoHook' overrides none of tokens"),
        (Nowhere, "overrides `tokens`, which is never called as `at` is empty: set at = \\(0,\\)"),
        (["rope", "peg"], "joined by \\+, such as 'rope\\+peg'"),
        (cpvt.PEG, "must be a subclass of cpvt.PositionalEncoding.*the encoding of ours is 'peg'"),
        ("cpvt:PEG", "must be a subclass of cpvt.PositionalEncoding"),
        (3, "must be a class or a function that builds an encoding; got int"),
    ],
)
def test_what_would_encode_nothing_or_is_no_encoding_is_refused(what, message):
    with pytest.raises(ValueError, match=message):
        cpvt.create_model("cpvt_micro", encoding=what)


def test_tokens_of_another_shape_are_refused():
    model = cpvt.create_model("cpvt_micro", encoding=Shorter)
    with pytest.raises(
        ValueError, match=r"of Shorter must return tokens of the shape .* \(2, 64, 64\); got \(2, 1, 64\)"
    ):
        model(torch.randn(2, 3, 32, 32))
