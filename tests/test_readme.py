"""The README and the docs are true: tables, Python, commands, links."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cpvt import adapters
from cpvt.data import protocols
from cpvt.encodings.table import groups

ROOT = Path(__file__).parents[1]
README, COMMANDS, EXTENDING = (
    (ROOT / name).read_text() for name in ("README.md", "docs/commands.md", "docs/extending.md")
)


def test_the_groups_of_the_readme_hold_what_they_say():
    lines = re.findall(
        r"^\| `(\w+)` \| (.*) \|$", README[README.index("| group |") : README.index("## Results")], re.MULTILINE
    )
    assert {group for group, _ in lines} == set(groups()) - {"all"}
    for group, words in lines:
        named = re.findall(r"`(\w+)`", re.sub(r": what .*", "", words))
        assert set(named) <= set(groups()[group]), group
        assert len(named) > 2


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("text", [README, COMMANDS, EXTENDING], ids=["README.md", "commands.md", "extending.md"])
def test_the_python_runs(text, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # what is exported stays there
    for table, name in ((protocols.TABLE, "tile"), (adapters.TABLE, "tiny"), (sys.modules, "tiny_models")):
        monkeypatch.setitem(table, name, None)  # extending.md adds them; they are gone afterwards
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "documentation", "exec"), {})


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_to_files_lead_somewhere(document):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target
    for target in re.findall(r'<img[^>]+src="(?!http)([^"]+)"', document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("text", [README, COMMANDS], ids=["README.md", "commands.md"])
def test_every_command_is_understood(text):
    from cpvt.cli import parse

    commands = re.findall(r"^cpvt (.*?)(?:\s+#.*)?$", text, flags=re.MULTILINE)
    assert commands
    for command in commands:
        parse(shlex.split(command))


def test_every_verb_has_a_command():
    from cpvt.cli import VERBS

    assert set(re.findall(r"^cpvt (\w+)", COMMANDS, flags=re.MULTILINE)) == set(VERBS)


def test_the_tables_of_results_are_those_of_the_rows():
    from cpvt.reporting.summary import as_markdown, summarise
    from cpvt.results.rows import read_rows

    quoted = {
        ("digits", "canvas"): "docs/results.md",
        ("digits", "resize"): "docs/results.md",
        ("makers", "resize"): "docs/any-model.md",
        ("makers", "canvas"): "docs/any-model.md",
    }
    for (folder, protocol), document in quoted.items():
        cells = summarise(read_rows(ROOT / "docs" / "results" / folder / "rows.jsonl"))
        assert as_markdown(cells, protocol) in (ROOT / document).read_text()


@pytest.mark.parametrize(
    ("folder", "pages"),
    [
        ("scale", ("docs/scale.md",)),
        ("imagenette", ("docs/imagenette.md", "README.md")),
        ("encodings", ("docs/encodings.md",)),
        ("retrofit", ("docs/retrofit.md",)),
    ],
)
def test_tables_between_markers_are_those_of_the_rows(folder, pages, tmp_path):
    results = tmp_path / "docs" / "results" / folder
    shutil.copytree(ROOT / "docs" / "results" / folder, results)
    shutil.copytree(ROOT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    for page in pages:
        text = (ROOT / page).read_text()
        bare = re.sub(r"(<!-- begin (.+?) -->).*?(<!-- end \2 -->)", r"\1\n\3", text, flags=re.DOTALL)
        assert bare != text
        (tmp_path / page).write_text(bare)
    subprocess.run([sys.executable, str(results / "tables.py")], check=True, capture_output=True)
    for page in pages:
        assert (tmp_path / page).read_text() == (ROOT / page).read_text(), f"run python docs/results/{folder}/tables.py"


def test_the_tables_of_positions_are_those_made_from_rows_and_findings(tmp_path):
    folder, text = ROOT / "docs" / "results" / "positions", (ROOT / "docs" / "positions.md").read_text()
    copy = tmp_path / "positions"
    shutil.copytree(folder, copy)
    (copy / "tables.md").unlink()
    subprocess.run([sys.executable, str(copy / "tables.py")], check=True, capture_output=True)
    tables = (copy / "tables.md").read_text()
    assert tables == (folder / "tables.md").read_text()
    assert all(table in text for table in tables.strip().split("\n\n"))


def test_the_tables_of_photographs_are_those_of_the_rows(tmp_path):
    pages, results = ("docs/photographs.md", "docs/results.md"), tmp_path / "docs" / "results"
    results.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "results" / "tables.py", results)
    for name in ("cifar10", "scenes", "ablations"):
        (results / name).mkdir()
        rows = ROOT / "docs" / "results" / name / "rows.jsonl"
        if rows.exists():
            shutil.copy(rows, results / name)
    for page in pages:
        text = (ROOT / page).read_text()
        bare = re.sub(r"(<!-- begin (.+?) -->).*?(<!-- end \2 -->)", r"\1\n\3", text, flags=re.DOTALL)
        assert bare != text
        (tmp_path / page).write_text(bare)
    subprocess.run([sys.executable, str(results / "tables.py")], check=True, capture_output=True)
    for page in pages:
        assert (tmp_path / page).read_text() == (ROOT / page).read_text(), "run `python docs/results/tables.py`"


def test_the_figures_of_speed_and_memory_are_those_measured():
    figures = [
        figure
        for path in (ROOT / "benchmarks" / "results").rglob("*.json")
        for figure in json.loads(path.read_text())["figures"]
    ]
    spreads = {tuple(f"{figure[key]:.{places}f}" for key in ("value", "low", "high")) for figure in figures
               if figure["low"] is not None for places in (2, 3)}  # fmt: skip
    plain = {f"{figure['value']:,.{places}f} {figure['unit']}" for figure in figures for places in (0, 1)}
    for document in (ROOT / "docs" / "speed.md", ROOT / "docs" / "any-size.md"):
        text = document.read_text()
        quoted = re.findall(r"(\d+\.\d+) \((\d+\.\d+) to (\d+\.\d+)\)", text)
        assert quoted
        assert set(quoted) <= spreads, document.name
        amounts = {amount for amount, _ in re.findall(r"(?<= )(([\d,.]*\d) (?:MiB|bytes a token|%))", text)}
        assert amounts <= plain, document.name
