"""The examples run as they are, and are short."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(path, tmp_path, tiny_folder):
    assert len(path.read_text().splitlines()) <= 40
    given = ["out", tiny_folder] if path.stem == "compare_on_your_images" else []
    done = subprocess.run([sys.executable, path, *given], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
