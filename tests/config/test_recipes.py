"""Recipes: every committed one is complete, and mistakes in a recipe are explained."""

import json
import re
from pathlib import Path

import pytest

from cpvt.cli import main, parse
from cpvt.config import OptimConfig, Retrofit
from cpvt.config.recipes import deit, read_recipe
from cpvt.data import open_data
from cpvt.models.sizes import model_config
from cpvt.training import check

RECIPES = sorted(Path("recipes").glob("[a-z]*_*.py"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_committed_recipe_states_its_command_its_result_and_a_known_model(path, monkeypatch):
    config = read_recipe(path)
    text = path.read_text()
    assert re.search(rf"cpvt train recipes/{path.name}", text)
    assert re.search(r"(Published|Expected)", text)
    assert config.out == f"runs/{path.stem}"
    model = model_config(config.model)
    if path.stem.startswith("imagenet_"):
        assert model.num_classes == 1000
        assert "arXiv 2102.10882" in text
        assert "reproduced here" in text or "measured here" in text


def test_deit_matches_the_paper():
    recipe = deit()
    assert recipe.lr == 5e-4 * 2048 / 512
    assert (recipe.epochs, recipe.warmup_ratio * recipe.epochs, recipe.warmup_lr, recipe.min_lr) == (300, 5, 1e-6, 1e-5)
    assert (recipe.mixup, recipe.cutmix, recipe.reprob, recipe.aug_repeats) == (0.8, 1.0, 0.25, 3)
    assert recipe.drop_path == 0.1
    assert recipe.clip_grad is None
    assert deit(batch_size=512, mixup=0.0) == deit(batch_size=512, mixup=0.0)
    assert deit(512).lr == 5e-4


def test_deit_takes_fewer_epochs_and_refuses_unknown_options(tmp_path):
    assert [deit(epochs=epochs).warmup_ratio for epochs in (1, 5, 10, 20)] == [0.5, 0.5, 0.5, 0.25]
    with pytest.raises(ValueError, match="epochs must be 1 or more; got 0"):
        deit(epochs=0)
    path = tmp_path / "mistaken.py"
    for call, words in {
        "deit(epoch=5)": "line 3: .*unexpected keyword argument 'epoch'.*`cpvt train --help`",
        "deit(grad_accum_steps=2)": "line 3: OptimConfig.* unexpected keyword argument 'grad_accum_steps'",
        "deit(erasing=0.5)": "line 3: .*\\('erasing' is now 'reprob'\\)",
        "deit(512, 300, 1e-3)": "deit\\(\\) takes .* 3 were given.*Pass options by name, as in epochs=3",
        "OptimConfig(3, epochs=3)": "got multiple values for argument 'epochs'",
        "TrainConfig()": "missing 1 required positional argument: 'out'",
    }.items():
        imports = "from cpvt.config import *\nfrom cpvt.config.recipes import deit\n"
        path.write_text(f"{imports}config = TrainConfig('x', optim={call})\n")
        with pytest.raises(ValueError, match=f"recipe '.*mistaken.py'.*{words}"):
            read_recipe(path)


def test_options_on_the_command_line_override_the_recipe(tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from cpvt.config import *\n"
        "config = TrainConfig(out='here', model='cpvt_tiny', optim=OptimConfig(epochs=7, lr=1e-4))\n"
    )
    config = parse(["train", str(recipe), "--epochs", "9", "--train-sizes", "160", "224", "--no-fsdp"])
    assert (config.out, config.model, config.optim.epochs, config.optim.lr) == ("here", "cpvt_tiny", 9, 1e-4)
    assert config.train_sizes == (160, 224)


def test_a_retrofit_is_set_in_a_recipe_not_by_flags_of_train(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from cpvt.config import Retrofit, TrainConfig\n"
        "config = TrainConfig(out='out', model='timm:vit', retrofit=Retrofit(at=(2,)))\n"
    )
    assert parse(["train", str(tmp_path / "mine.py")]).retrofit == Retrofit(at=(2,))
    assert parse(["train", "--out", "out"]).retrofit is None
    with pytest.raises(SystemExit):
        parse(["train", "--out", "out", "--at", "2"])
    assert "--at" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["--epochs 9 RECIPE --no-fsdp", "RECIPE --epochs 9", "--train-sizes 160 RECIPE --epochs 9"]
)
def test_the_recipe_may_stand_anywhere_among_the_options(tmp_path, command):
    recipe = tmp_path / "mine.py"
    recipe.write_text("from cpvt.config import *\nconfig = TrainConfig(out='here', optim=OptimConfig(lr=1e-4))\n")
    config = parse(["train", *command.replace("RECIPE", str(recipe)).split()])
    assert (config.out, config.optim.epochs, config.optim.lr) == ("here", 9, 1e-4)
    with pytest.raises(ValueError, match="train takes one recipe; got 2: a.py, b.py"):
        parse(["train", "a.py", "--epochs", "9", "b.py"])
    with pytest.raises(ValueError, match="no such recipe: 'a.py'"):
        parse(["train", "--epochs", "9", "a.py"])


def test_a_recipe_trains_from_the_command_line(tmp_path, tiny_folder, capsys):
    recipe = tmp_path / "whole.py"
    recipe.write_text(
        "from cpvt.config import TrainConfig\nfrom cpvt.config.recipes import deit\n"
        "optim = deit(batch_size=4, epochs=10, lr=1e-3, precision='fp32')\n"
        f"config = TrainConfig(out={str(tmp_path / 'run')!r}, img_size=8, optim=optim)\n"
    )
    main(["train", str(recipe), "--data", str(tiny_folder), "--epochs", "2", "--workers", "0"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["run"] == str(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "checkpoint.json").read_text())
    assert record["training"]["optim"]["aug_repeats"] == 3
    assert record["training"]["optim"]["epochs"] == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config = TrainConfig(out='x', optim=OptimConfig(epoch=3))",
         "line 2: OptimConfig.* got an unexpected keyword argument 'epoch'.*`cpvt train --help`"),
        ("config = TrainConfig(out='x', batch_size=3)",
         "line 2: batch_size is an option of OptimConfig, not of TrainConfig: pass optim=OptimConfig"),
        ("config = TrainConfig(out='x', optim=OptimConfig(lr=-1))", "lr must be above 0; got -1"),
        ("recipe = OptimConfig()", "must define config = TrainConfig.*it defines nothing of that name"),
        ("config = OptimConfig()", "it defines OptimConfig"),
        ("config = TrainConfig(out=", "line 2: "),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe_are_explained(tmp_path, text, words, capsys):
    path = tmp_path / "mistaken.py"
    path.write_text(f"from cpvt.config import *\n{text}\n")
    with pytest.raises(ValueError, match=f"recipe '.*mistaken.py'.*{words}"):
        read_recipe(path)
    with pytest.raises(SystemExit) as stop:
        main(["train", str(path)])
    assert stop.value.code == 2
    with pytest.raises(ValueError, match="no such recipe: 'nowhere.py'"):
        read_recipe("nowhere.py")


def test_a_committed_recipe_passes_the_checks_of_training(tmp_path, tiny_folder):
    config = read_recipe("recipes/imagenet_cpvt_tiny_distilled.py")
    assert config.teacher == "timm:regnety_160.deit_in1k"
    assert config.optim == deit()
    model = check(config, open_data(str(tiny_folder))).model
    assert model.distilled
    assert model.drop_path_rate == 0.1
    assert isinstance(config.optim, OptimConfig)
