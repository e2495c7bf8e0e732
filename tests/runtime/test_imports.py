"""One module is imported right after another, in whichever order a program imports them; nothing else changes."""

import copy
import importlib
import importlib.resources
import subprocess
import sys
import zipfile
import zipimport
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

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


@pytest.fixture
def packed(modules, tmp_path, monkeypatch):
    """A zip file, so one loader, with a package `packed` and a module `beside`."""
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for name in ("packed/__init__.py", "packed/text.txt", "beside.py"):
            archive.writestr(name, "done = True\n")
    monkeypatch.syspath_prepend(tmp_path / "packed.zip")
    yield
    for name in ("packed", "beside"):
        sys.modules.pop(name, None)


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


def test_a_loader_of_several_modules_runs_the_follower_after_its_own_package_alone(packed):
    import_after("packed", "guest")
    loader = find_spec("packed").loader
    assert importlib.import_module("beside").done
    assert "guest" not in sys.modules
    assert (copy.copy(loader).is_package("packed"), "done" in loader.get_source("packed")) == (True, True)
    package = importlib.import_module("packed")
    assert sys.modules["guest"].saw
    assert type(package.__loader__) is type(package.__spec__.loader) is zipimport.zipimporter
    assert "exec_module" not in vars(package.__loader__)
    assert importlib.resources.files("packed").joinpath("text.txt").read_text() == "done = True\n"


class OldFinder:
    """A finder of before Python 3.4, which Python skips, or asks until 3.11."""

    def find_module(self, name, path=None):
        return None


class OldLoader:
    """A loader of before Python 3.4."""

    def load_module(self, name):
        module = sys.modules[name] = ModuleType(name)
        return module


class OldLoaders:
    """A finder that gives the package an old loader."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, OldLoader()) if name == "host" else None


@pytest.mark.filterwarnings("ignore:OldFinder.find_spec:ImportWarning")
def test_old_finders_and_loaders_are_left_to_python(modules):
    sys.meta_path.insert(0, OldFinder())
    import_after("host", "guest")
    sys.meta_path.insert(1, OldLoaders())
    assert type(find_spec("host").loader) is OldLoader
    del sys.meta_path[1]
    importlib.import_module("host")
    assert sys.modules["guest"].saw


@pytest.mark.parametrize("first", [True, False])
def test_a_module_that_fails_costs_one_warning_and_not_the_package(modules, tmp_path, first):
    (tmp_path / "guest.py").write_text("import nowhere_at_all\n")
    steps = [lambda: importlib.import_module("host"), lambda: import_after("host", "guest")]
    before, warns = steps if first else steps[::-1]
    before()
    with pytest.warns(UserWarning, match="'host' goes without 'guest'.*ModuleNotFoundError: .*nowhere") as warned:
        warns()
    assert len(warned) == 1
    assert importlib.import_module("host").done  # without another: warnings are errors here
    importlib.import_module("host.part")


@pytest.mark.parametrize("imports", ["import cpvt\nfrom timm import create_model", "import timm\nimport cpvt"])
def test_importing_cpvt_is_enough_for_timm(imports):
    code = f"{imports}\nimport timm\nprint(timm.create_model('cpvt_micro_gap', num_classes=3).head.out_features)"
    done = subprocess.run([sys.executable, "-W", "error::UserWarning:timm", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("3\n", "")
