"""One module is imported right after another, in whichever order a program imports them; nothing else changes."""

import importlib
import subprocess
import sys
from importlib.util import find_spec

import pytest

from cpvt.runtime.imports import import_after


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A package `host` with a module, and a module `guest`, which notes what of the package was there."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "__init__.py").write_text("from host import part\ndone = True\n")
    (tmp_path / "host" / "part.py").write_text("")
    (tmp_path / "guest.py").write_text("import host\nsaw = host.done\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    yield
    for name in ("host", "host.part", "guest"):
        sys.modules.pop(name, None)
    sys.meta_path[:] = before


def test_it_waits_for_the_package(modules):
    before = list(sys.meta_path)
    import_after("host", "guest")
    import_after("host", "guest")
    assert len(sys.meta_path) == len(before) + 1, "asked for twice, it is done once"
    assert find_spec("host").origin.endswith("__init__.py")
    assert not {"host", "guest"} & sys.modules.keys(), "who only looks imports nothing"
    importlib.import_module("host.part")
    assert sys.modules["guest"].saw
    assert sys.meta_path == before
    del sys.modules["guest"]
    importlib.reload(sys.modules["host"])
    assert "guest" not in sys.modules


def test_a_package_that_is_there_already_is_followed_at_once(modules):
    importlib.import_module("host")
    before = list(sys.meta_path)
    import_after("host", "guest")
    assert sys.modules["guest"].saw
    assert sys.meta_path == before


def test_the_module_may_come_first_and_the_package_may_be_missing(modules):
    import_after("host", "guest")
    import_after("nowhere", "guest")
    importlib.import_module("guest")
    assert sys.modules["guest"].saw
    with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere'"):
        importlib.import_module("nowhere")


@pytest.mark.parametrize("imports", ["import cpvt\nfrom timm import create_model", "import timm\nimport cpvt"])
def test_importing_cpvt_is_enough_for_timm(imports):
    code = f"{imports}\nimport timm\nprint(timm.create_model('cpvt_micro_gap', num_classes=3).head.out_features)"
    done = subprocess.run([sys.executable, "-W", "error::UserWarning:timm", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("3\n", "")
