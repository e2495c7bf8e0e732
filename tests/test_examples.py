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
    assert len(path.read_text().splitlines()) <= (100 if path.stem in TRAINED else 40)
    given = TRAINED.get(path.stem, ["out", tiny_folder] if path.stem == "compare_on_your_images" else [])
    done = subprocess.run([sys.executable, path, *given], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Warning" not in done.stderr


def test_every_example_is_in_the_docs():
    page = (Path(__file__).parents[1] / "docs" / "examples.md").read_text()
    assert [path.name for path in EXAMPLES if f"](../examples/{path.name})" not in page] == []
