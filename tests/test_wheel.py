"""What is published: the wheel holds the package and nothing else, the source archive all that tests need."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import cpvt
from cpvt.models.pretrained import DEFAULT

ROOT = Path(__file__).parents[1]


def run(*command):
    done = subprocess.run([sys.executable, "-m", *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the source archive and of the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run("build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
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


def test_the_source_archive_holds_what_the_tests_need(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    for name in (
        "Makefile",
        "tests/conftest.py",
        "docs/commands.md",
        "recipes/ship.py",
        "docs/results/digits/rows.jsonl",
    ):
        assert name in packed
    assert not {name for name in packed if name.startswith((".venv", "runs/", ".git/"))}


def test_what_is_published_passes_twine(built):
    run("twine", "check", "--strict", *built.iterdir())


def test_extras_are_named_and_dev_has_them_all(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        metadata = next(name for name in packed.namelist() if name.endswith("METADATA"))
        message = Parser().parsestr(packed.read(metadata).decode())
    extras = set(message.get_all("Provides-Extra"))
    assert {"onnx", "hf", "track", "cluster", "stream", "demo", "docs", "notebooks", "dev"} == extras
    needed = [re.match(r"([\w-]+).*extra == '(\w+)'", each) for each in message.get_all("Requires-Dist")]
    packages = {extra: {each[1] for each in needed if each and each[2] == extra} for extra in extras}
    assert all(packages.values())
    assert set().union(*packages.values()) == packages["dev"]


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "title", "message", "authors", "type", "license"} <= set(citation)
    assert citation["version"] == cpvt.__version__
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:2102.10882"


def test_the_dockerfile_copies_what_the_build_needs_and_runs_the_main_job():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed
    assert lines[-2:] == ['ENTRYPOINT ["cpvt"]', 'CMD ["compare"]']
