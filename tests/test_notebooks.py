"""The notebooks run from the first cell to the last, and what is committed is what a run left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
SHORT = {"any_size": {"EPOCHS": 1}, "your_images": {"EPOCHS": 1}}  # what a run in the tests changes
LINES = {  # beginnings of lines that every run prints
    "any_size": ("tokens (2, 140, 64) ->", "zeros: 9 different", "circular: 1 different", "logits: (4, 10)"),
    "your_images": ("10 classes:", "agrees with the model", "60 of 60 answers are the same", "{'label':"),
}
RUN = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import execute, nbformat
nbformat.write(execute.execute(Path(sys.argv[2]), Path.cwd(), **json.loads(sys.argv[3])), "done.ipynb")
"""


def read(path):
    """The code cells of a notebook, and all text that they printed."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    streams = [each for cell in cells for each in cell["outputs"] if each["output_type"] == "stream"]
    return cells, streams, "".join("".join(each["text"]) for each in streams).splitlines()


def check(path, name):
    """A whole run, without errors or warnings: every cell in order, and the lines that every run prints."""
    cells, streams, lines = read(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {each["name"] for each in streams} == {"stdout"}
    assert not [each for cell in cells for each in cell["outputs"] if each["output_type"] == "error"]
    assert sum("image/png" in each.get("data", {}) for cell in cells for each in cell["outputs"]) >= 3
    assert [begin for begin in LINES[name] if not any(line.startswith(begin) for line in lines)] == []


def test_every_notebook_is_known():
    assert {path.stem for path in NOTEBOOKS} == set(LINES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_notebook_is_a_small_clean_run(path):
    check(path, path.stem)
    text = path.read_text()
    assert len(text) < 200_000
    assert [word for word in ("/work", "/home", "/root", "/Users", "Warning", "Traceback") if word in text] == []
    metadata = json.loads(text)["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert set(metadata) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path, tmp_path):
    pytest.importorskip("nbclient")
    given = [sys.executable, "-c", RUN, str(ROOT / "examples"), str(path), json.dumps(SHORT[path.stem])]
    done = subprocess.run(given, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "done.ipynb", path.stem)
    assert read(tmp_path / "done.ipynb")[0][-1]["source"] == read(path)[0][-1]["source"]
