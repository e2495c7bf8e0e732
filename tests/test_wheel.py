"""The wheel holds the package, its page, its weights and its type marker, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

from cpvt.models.pretrained import DEFAULT

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    source = ROOT / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "cpvt").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == expected
    assert {"cpvt/py.typed", "cpvt/reporting/page.html", "cpvt/reporting/sortable.js"} <= packed
    weights = {f"cpvt/models/weights/{name}" for name in ("README.md", f"{DEFAULT}.json", f"{DEFAULT}.safetensors")}
    assert weights <= packed
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("entry_points.txt") for name in names)
