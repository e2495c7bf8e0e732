"""The command line: output ends with JSON, a mistake is one message, help imports nothing heavy."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cpvt
from cpvt.cli import VERBS, main, parse
from cpvt.config.describe import describe_options
from cpvt.data import describe_datasets
from cpvt.data.protocols import describe_protocols
from cpvt.encodings import TABLE, markdown_table
from cpvt.encodings.table import groups
from cpvt.evaluation.sweep import sweep
from cpvt.models import describe_models
from cpvt.models.pretrained import DEFAULT
from cpvt.results.checkpoints import load
from cpvt.results.rows import read_rows
from cpvt.runtime.files import append_rows


def test_list_prints_every_name_and_ends_with_json(capsys):
    main(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == {
        "encodings": list(TABLE), "groups": list(groups()), "models": list(describe_models()),
        "data sets": list(describe_datasets()), "protocols": list(describe_protocols()),
    }  # fmt: skip
    assert f"  rotary       {', '.join(groups()['rotary'])}" in lines
    for name in (*TABLE, *groups(), *describe_models(), *describe_datasets(), *describe_protocols()):
        assert any(line.startswith(f"  {name} ") for line in lines)


def test_list_prints_the_encodings_as_a_table(capsys):
    main(["list", "--markdown"])
    table, _, last = capsys.readouterr().out.strip().rpartition("\n")
    assert table == markdown_table()
    assert json.loads(last) == {"encodings": list(TABLE)}


def test_report_prints_a_table_and_ends_with_json(capsys, tmp_path, make_row):
    append_rows(tmp_path / "rows.jsonl", [make_row(correct=61), make_row(encoding="learned", pool="gap", correct=5)])
    main(["report", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == {
        "report": str(tmp_path / "report.html"), "rows": 2, "summary": str(tmp_path / "summary.csv"),
    }  # fmt: skip
    assert any(re.match(r" ?peg\b.*\b61\.0", line) for line in lines)
    assert any(re.match(r" ?learned · gap\b.*\b5\.0", line) for line in lines)


MISTAKES = [  # (command, message); OUT does not exist, EMPTY is a folder without files, UNTESTED has only train/
    ("train --out OUT --encoding pge", r"unknown encoding 'pge' \(did you mean peg\?\); known: none, learned"),
    ("train --out OUT --model cpvt_mikro", r"unknown model 'cpvt_mikro'\. Did you mean cpvt_micro.*Known: cpvt_micro"),
    ("train --out OUT --data nowhere", r"unknown data set 'nowhere'.*Known:.*digits.*torch/NAME"),
    ("train --out OUT --pool max", r"pool must be one of cls, gap; got 'max'"),
    (
        "train --out OUT --augment mixup",
        r"unknown protocol or augmentation 'mixup'; known: canvas, resize, native, resized-crop, crop",
    ),
    ("train --out OUT --interpolation cubic", r"unknown interpolation 'cubic'; known: nearest, bilinear, bicubic"),
    ("train --out OUT --crop-pct 0", r"crop_ratio must be above 0 and at most 1; got 0"),
    ("train --out OUT --device gpu", r"device 'gpu' cannot be used here.*try --device cpu"),
    ("compare --out OUT --parallel 1 --encodings learned pge", r"unknown encoding 'pge' \(did you mean peg\?\); known"),
    ("compare --out OUT --parallel 1 --model cpvt_mikro", r"unknown model 'cpvt_mikro'\. Did you mean cpvt_micro"),
    ("compare --out OUT --parallel 1 --data nowhere", r"unknown data set 'nowhere'.*Known:.*digits"),
    ("compare --out OUT --parallel 1 --pool cls max", r"pool must be one of cls, gap; got 'max'"),
    (
        "compare --out OUT --parallel 1 --augment mixup",
        r"unknown protocol or augmentation 'mixup'; known: canvas, resize",
    ),
    ("compare --out OUT --parallel 1 --interpolation cubic", r"unknown interpolation 'cubic'; known: nearest"),
    ("compare --out OUT --parallel 1 --data UNTESTED", r"'.*' has no test/ \(or val/\) to test on"),
    ("compare --out OUT --parallel 1 --canvas-sizes 32 12y", r"a side such as 48, or .* such as 48x64; got '12y'"),
    ("compare --out OUT --parallel 1 --protocols zoom", r"protocols must be among canvas, resize; got 'zoom'"),
    ("sweep EMPTY", r"'.*' holds no checkpoint: expected checkpoint\.json and model\.safetensors"),
    ("sweep cpvt_mini_peg5_gap --data UNTESTED", r"'.*' has no test/ \(or val/\) to test on"),
    ("predict", r"predict needs images: files, folders or patterns"),
    ("tran --out OUT", r"there is no verb 'tran'\. Did you mean train\? Known: compare, train"),
    ("predict EMPTY", r"'.*' holds no images"),
    ("predict cat.jpg", r"no such image: 'cat\.jpg'"),
    ("predict cpvt_mini_peg5_gap", r"predict needs images: files, folders or patterns, after the model"),
    ("export cpvt_mini_peg5", r"'cpvt_mini_peg5' holds no checkpoint"),
    ("report EMPTY", r"'.*' holds no rows: expected rows\.jsonl"),
]


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_one_message_and_leaves_nothing_behind(capsys, tmp_path, image_folder, command, words):
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    folders = {"OUT": out, "EMPTY": empty, "UNTESTED": image_folder({"train/cat": 1})}
    with pytest.raises(SystemExit) as exit:
        main([str(folders.get(word, word)) for word in command.split()])
    assert exit.value.code == 2
    said = capsys.readouterr()
    assert re.match(f"cpvt: .*{words}", said.err, re.DOTALL)
    assert said.out == ""
    assert not out.exists()
    assert not list(empty.iterdir())


QUICK = {  # mistakes that are told before anything heavy is imported, and a word of their message
    "train --out OUT --encoding pge": "unknown encoding 'pge'",
    "train --out OUT --encoding learned+pge(at=(1,))": "unknown encoding 'pge(at=(1,))'",
    "train --out OUT --data nowhere": "unknown data set 'nowhere'",
    "train --out OUT --augment mixup": "unknown protocol or augmentation 'mixup'",
    "train --out OUT --epochs 0": "epochs must be 1 or more",
    "train --out OUT --initial-checkpoint runs/nothere": "'runs/nothere' is no run's folder",
    "compare --out OUT --encodings peg pge": "unknown encoding 'pge'",
    "compare --out OUT --protocols reszie": "protocols must be among canvas, resize; got 'reszie'",
    "sweep cpvt_mini_peg5_gap --protocols reszie": "protocols must be among canvas, resize, native; got 'reszie'",
    "sweep runs/nothere": "'runs/nothere' is no run's folder",
    "probe runs/nothere": "'runs/nothere' is no run's folder",
    "predict nothere.jpg": "no such image: 'nothere.jpg'",
    "predict": "predict needs images",
    "info runs/nothere": "'runs/nothere' is no run's folder",
    "export runs/nothere": "'runs/nothere' is no run's folder",
}


def test_mistakes_in_names_are_told_before_anything_heavy_is_imported(tmp_path):
    code = f"""
import sys
from cpvt.cli import main
for command in {list(QUICK)!r}:
    try:
        main(command.split())
    except SystemExit as exit:
        assert exit.code == 2
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    said = [line for line in done.stderr.splitlines() if line.startswith("cpvt: ")]
    assert [words in line for words, line in zip(QUICK.values(), said, strict=True)] == [True] * len(QUICK), said
    assert not {"torch", "timm", "torchvision", "sklearn"} & set(done.stdout.split())
    assert not list(tmp_path.iterdir())


def test_an_encoding_is_imported_from_the_current_folder(capsys, tmp_path, tiny_folder, monkeypatch):
    """Unlike `python -m cpvt`, the console script starts without the current folder on sys.path."""
    (tmp_path / "my_encodings.py").write_text("""
from cpvt import PositionalEncoding

class Mine(PositionalEncoding):
    at = (0,)

    def __init__(self, shape):
        super().__init__()

    def tokens(self, x, grid, depth):
        return x + 1.0
""")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    main(["train", "--encoding", "my_encodings:Mine", "--data", str(tiny_folder), "--img-size", "8", "--epochs", "1",
          "--out", "run"])  # fmt: skip
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["run"] == "run"
    assert load("run").config.encoding == "my_encodings:Mine"


@pytest.mark.parametrize("command", [["tran"], ["sweep"], ["train", "--out", "x", "--epoks", "3"], ["train", "--lr=x"]])
def test_an_invalid_command_is_refused(capsys, command):
    with pytest.raises(SystemExit) as exit:
        main(command)
    assert exit.value.code == 2
    said = capsys.readouterr()
    assert said.err or said.out


def test_no_verb_prints_ten_lines_with_commands_that_parse(capsys):
    main([])
    said = capsys.readouterr().out
    assert len(said.splitlines()) == 10
    commands = [line.split("  ")[1].split() for line in said.splitlines() if line.startswith("  cpvt ")]
    assert len(commands) == 6
    for command in commands:
        parse(command[1:])
    assert all(re.search(rf"\b{verb}\b", said) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_holds_every_option_that_is_parsed_with_its_meaning(capsys, verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    main([verb, "--help"])
    page = capsys.readouterr().out
    assert "\x1b" not in page
    assert max(map(len, page.splitlines())) <= 100
    with pytest.raises(SystemExit):
        parse([verb, "--help"])  # tyro's own page
    parsed = re.findall(r"^[^-]{1,2}(--[a-z][\w-]*)", capsys.readouterr().out, re.MULTILINE)
    shown = describe_options(VERBS[verb][0])
    named = [f"--{each.name.replace('_', '-')}" for each in shown if each.flag]
    assert sorted(named) == sorted(flag.replace("--no-", "--") for flag in parsed)
    assert all(each.text for each in shown)
    for each in shown:
        assert re.search(rf"^  {re.escape(each.invocation)}(  |$)", page, re.MULTILINE)


def test_the_help_of_a_verb_is_in_groups_with_the_common_options_first(capsys):
    main(["train", "-h"])
    page = capsys.readouterr().out
    groups = ("Common options", "More options", "Data", "Optimisation and augmentation", "Runtime and memory")
    assert [line for line in page.splitlines() if line in groups] == list(groups)
    assert page.index("--epochs INT") < page.index("More options") < page.index("--warmup-ratio FLOAT")
    assert re.search(r"--crop-scale FLOAT FLOAT .*\n.*\[default: 0\.35 1\.0\]", page)


def test_the_help_of_a_recipe_shows_its_defaults(capsys, tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text("from cpvt.config import *\nconfig = TrainConfig(out='x', optim=OptimConfig(epochs=77))")
    main(["train", str(recipe), "--help"])
    assert re.search(r"--epochs INT +Passes over the training images\. \[default: 77\]", capsys.readouterr().out)


def test_a_mistake_is_a_box_with_what_to_do_in_a_terminal_and_a_line_in_a_log(capsys, monkeypatch):
    for force, first in (("1", "\x1b"), ("", "cpvt: there is")):
        monkeypatch.setenv("FORCE_COLOR", force) if force else monkeypatch.delenv("FORCE_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")
        with pytest.raises(SystemExit):
            main(["predict", "nowhere.jpg"] if force else ["nonsense"])
        said = capsys.readouterr().err
        assert said.startswith(first)
        assert ("Options: cpvt predict --help" in said) == bool(force)
        assert ("no such image: 'nowhere.jpg'" in said) == bool(force)
        assert ("╭" in said) == bool(force)


def test_help_fits_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "44")
    for command in (["train", "-h"], []):
        main(command)
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines[2:] if len(line) > 44 and "cpvt" not in line] == []


def test_words_that_look_like_emoji_stay(capsys):
    with pytest.raises(SystemExit):
        main(["info", "runs/a:dog:b"])
    assert "'runs/a:dog:b'" in capsys.readouterr().err


def test_options_are_listed_where_the_source_is_not_installed(monkeypatch):
    def fail(kind):
        raise OSError("could not get source code")

    monkeypatch.setattr("inspect.getsource", fail)
    assert [each.name for each in describe_options(VERBS["list"][0])] == ["markdown"]


def test_a_name_that_the_terminal_cannot_show_and_a_closed_pipe_are_no_mistakes(tmp_path, image_folder):
    image_folder({"Kätzchen": 1}, tmp_path / "images")
    command = [sys.executable, "-m", "cpvt", "predict", str(tmp_path / "images" / "Kätzchen")]
    told = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=told)
    assert done.returncode == 0, done.stderr
    assert r"K\xe4tzchen" in done.stdout
    listing = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.readline(); from cpvt.cli import main; main(['list'])"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    listing.stdout.close()
    errors = listing.communicate(b"go\n")[1]
    assert (listing.returncode, errors) == (141, b"")


def test_help_names_every_verb_and_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "cpvt", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for verb in VERBS:
        assert re.search(rf"\b{verb}\b", done.stdout)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "cpvt" in imported
    assert not imported & {"torch", "timm", "torchvision", "matplotlib", "scipy", "sklearn", "PIL"}


def test_predict_without_a_run_uses_the_shipped_model(capsys, tiny_folder):
    image = str(next((tiny_folder / "test").rglob("*.png")))
    main(["predict", image, "--top", "1"])
    default = capsys.readouterr()
    line = default.err.splitlines()[0]
    assert re.match(
        rf"{DEFAULT}, which comes with the package, knows the 10 classes of imagenette.*cassette_player.*: (.*)$", line
    )
    assert Path(line.rpartition(": ")[2]).read_text().startswith("# The weights")
    summary = json.loads(default.out.splitlines()[-1])
    assert summary["model"] == DEFAULT
    assert summary["images"] == sum(summary["classes"].values()) == 1
    main(["predict", DEFAULT, image, "--top", "1"])
    named = capsys.readouterr()
    assert named.out == default.out
    assert "which comes with the package" not in named.err


def test_the_version_is_that_of_the_package(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"cpvt {cpvt.__version__}\n"


def test_info_describes_a_run(capsys, tiny_run, tiny_folder):
    append_rows(tiny_run / "rows.jsonl", list(sweep(tiny_run, sizes=[8, "8x12"])))
    main(["info", str(tiny_run)])
    *lines, last = capsys.readouterr().out.splitlines()
    told = dict(re.split(r"  +", line, maxsplit=1) for line in lines)
    parameters = sum(each.numel() for each in load(tiny_run).model.parameters())
    parts = "encoding peg, pool cls, width 64, 4 blocks, 4 heads, patch 4, scale fit, attention temperature"
    assert told["model"] == f"cpvt_micro: {parts}"
    assert told["parameters"] == f"{parameters:,}"
    assert told["classes"] == "2: cat, dog"
    assert told["images"].startswith("resized to 8 pixels (crop ratio 0.875, bicubic), mean (0.485")
    assert told["training"] == "1 of 1 epochs, batches of 4, adamw, lr 0.003, at 8 pixels, seed 0"
    assert told["data"] == str(tiny_folder)
    assert {"last epoch", "made by", "command"} <= set(told)
    tested = [title for title in told if title.startswith("tested on ")]
    assert [title.rpartition(", ")[2] for title in tested] == ["8", "8x12"]
    rows = read_rows(tiny_run / "rows.jsonl")
    assert [told[title] for title in tested] == [f"{row.accuracy:.1%} of 6 images" for row in rows]
    assert json.loads(last)["class_names"] == ["cat", "dog"]


def test_info_describes_a_model_that_comes_with_weights(capsys):
    main(["info", DEFAULT])
    assert "resized to 128 pixels" in capsys.readouterr().out


def test_a_model_that_comes_with_weights_replaces_a_run(capsys, tmp_path, image_folder, monkeypatch):
    classes = load(DEFAULT).class_names
    data = image_folder({f"test/{name}": 1 for name in classes})
    monkeypatch.chdir(tmp_path)
    main(["sweep", DEFAULT, "--data", str(data), "--sizes", "8", "12x16"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(result["accuracy"]) == ["8", "12x16"]
    assert result["rows"] == "runs/sweep/rows.jsonl"
    (row, _) = read_rows(tmp_path / result["rows"])
    assert (row.model, row.encoding, row.pool, row.total) == (DEFAULT, "peg5", "gap", 10)
    main(["probe", DEFAULT, "--data", str(data), "--probes", "order", "--images", "4", "--out", "probed"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["model"] == DEFAULT
    main(["export", DEFAULT, "--format", "torch-export"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["file"] == f"{DEFAULT}.pt2"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{DEFAULT}.pt2", "images", "probed", "runs"]


def test_a_run_from_training_to_report(capsys, tmp_path, tiny_folder):
    def run(command):
        main([word.replace("DATA", str(tiny_folder)).replace("OUT", str(tmp_path / "out")) for word in command.split()])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    recipe = "--img-size 8 --epochs 1 --batch-size 4"
    trained = run(f"train --encoding peg --pool gap --data DATA {recipe} --out OUT/peg")
    assert trained["run"] == str(tmp_path / "out" / "peg")
    assert 0 <= trained["test_accuracy"] <= 1
    swept = run("sweep OUT/peg --protocols resize --sizes 8 12 8x12")
    assert list(swept["accuracy"]) == ["8", "12", "8x12"]
    both = run("sweep OUT/peg --protocols resize canvas --sizes 8 12 --out OUT/both")
    assert list(both["accuracy"]) == ["resize 8", "resize 12", "canvas 8", "canvas 12"]
    images = sorted((tiny_folder / "test").rglob("*.png"))
    main(["predict", str(tmp_path / "out" / "peg"), *map(str, images[:2]), "--json"])
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [each["image"] for each in found] == list(map(str, images[:2]))
    assert all(each["classes"][0][0] in ("cat", "dog") for each in found)
    compared = run(f"compare --data DATA --encodings learned peg --pool cls gap --seeds 0 1 --parallel 1 {recipe} "
                   "--protocols canvas --canvas-sizes 8 --out OUT/all")  # fmt: skip
    assert compared["rows"] == 8
    assert run("report OUT/all") == compared
    assert run("report OUT/peg")["rows"] == 3
