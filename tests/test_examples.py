"""The examples run, without a warning, and are short."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted(path for path in (Path(__file__).parents[1] / "examples").glob("*.py") if path.stem != "execute")
TRAINED = {  # those that train for a published number, with arguments for a run of a few steps; they may be longer
    "audio_1d": ["--steps", "2"],
    "dense_prediction": ["--steps", "2", "--digits", "36"],
    "masked_autoencoder": ["--steps", "2"],
    "slides": ["--steps", "2", "--slides", "1"],
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(path, tmp_path, tiny_folder):
    assert len(path.read_text().splitlines()) <= (110 if path.stem in TRAINED else 40)
    given = TRAINED.get(path.stem, ["out", tiny_folder] if path.stem == "compare_on_your_images" else [])
    done = subprocess.run([sys.executable, path, *given], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Warning" not in done.stderr


def test_every_example_is_in_the_docs():
    page = (Path(__file__).parents[1] / "docs" / "examples.md").read_text()
    assert [path.name for path in EXAMPLES if f"](../examples/{path.name})" not in page] == []


def test_the_table_of_dense_prediction_is_that_of_its_rows():
    figures = str(Path(__file__).parents[1] / "docs" / "figures")
    code = f"import json, sys; sys.path.insert(0, {figures!r}); import dense; rows = open(dense.HERE / 'dense.jsonl')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(dense.table([json.loads(row) for row in rows]))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout in (Path(__file__).parents[1] / "docs" / "examples.md").read_text()
