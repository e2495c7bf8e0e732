"""The house: imports go down only, light parts stay light, files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FLOORS = {
    "shapes": 0, "config": 0, "files": -1, "folders": -1, "results": 0, "findings": 0, "recipes": 1, "progress": 1, "memory": 1, "ops": 1, "pool": 1, "processes": 1, "reporting": 1, "encodings": 2, "models": 3,
    "data": 3, "subjects": 4, "retrofitting": 4, "checkpoint": 5, "scoring": 5, "training": 6, "sweeping": 6, "predicting": 6, "looking": 6, "probing": 6, "exporting": 6, "comparing": 7, "finetuning": 7, "benchmarks": 7, "cli": 8, "__main__": 9,
}  # fmt: skip
LIGHT = {
    "shapes": {"torch"},
    "config": set(),
    "files": set(),
    "folders": set(),
    "results": set(),
    "findings": set(),
    "ops": {"torch", "triton"},
    "encodings": {"torch"},
}
LONGEST_FILE = 400


def modules():
    """(path below src, floor name, parsed) of every file of the package, the lazy front door excepted."""
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE / "cpvt")
        if relative.name != "__init__.py" or len(relative.parts) > 1:
            yield relative, relative.parts[0].removesuffix(".py"), ast.parse(path.read_text())


every_file = pytest.mark.parametrize(
    ("path", "name", "tree"), [pytest.param(*module, id=str(module[0])) for module in modules()]
)


def imported(tree):
    """Full names of every module a file imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield f"{node.module}.{alias.name}" if node.module == "cpvt" else str(node.module)


def climbs(name, tree):
    """Imports of this file that go up or sideways to another part of the same floor."""
    parts = [
        target.split(".")[1] for target in imported(tree) if target.startswith("cpvt.") and target != "cpvt.__version__"
    ]
    return [part for part in parts if part != name and FLOORS[part] >= FLOORS[name]]


@every_file
def test_imports_go_down_only(path, name, tree):
    assert name in FLOORS, f"{path} stands on no floor; give it one here"
    assert climbs(name, tree) == []


def test_an_import_that_climbs_is_seen():
    assert climbs("ops", ast.parse("from cpvt.models import create_model")) == ["models"]
    assert climbs("ops", ast.parse("def later():\n    import cpvt.training")) == ["training"]
    assert climbs("data", ast.parse("from cpvt import models")) == ["models"]
    assert climbs("models", ast.parse("from cpvt.ops import peg")) == []


@every_file
def test_light_parts_import_little(path, name, tree):
    if name in LIGHT:
        outside = {target.split(".")[0] for target in imported(tree)} - set(sys.stdlib_module_names) - {"cpvt"}
        assert outside <= LIGHT[name]


def loaded_by(statement, blocked=()):
    """Top-level modules in memory after a statement ran in a fresh interpreter, with some made impossible to import."""
    code = (
        f"import sys\nfor name in {list(blocked)!r}: sys.modules[name] = None\n{statement}\n"
        "print(*{name.split('.')[0] for name, module in sys.modules.items() if module is not None})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_imports_no_torch():
    assert not {"torch", "numpy", "timm", "tyro"} & loaded_by("import cpvt")


OTHERS = ("timm", "torchvision", "matplotlib", "sklearn", "scipy", "rich", "tyro", "safetensors", "PIL")


def test_ops_and_encodings_need_torch_alone():
    assert "torch" in loaded_by("import cpvt.ops, cpvt.encodings; cpvt.PEG(4)", OTHERS)


def test_triton_waits_until_it_is_asked_for_and_may_be_missing():
    use = "ops.peg(torch.zeros(1, 4, 2), torch.zeros(2, 1, 3, 3), None, (2, 2){})"
    begin = "import torch; known = 'triton' in sys.modules; from cpvt import ops"
    loaded_by(f"{begin}; {use.format('')}; assert ('triton' in sys.modules) == known")
    with pytest.raises(
        AssertionError,
        match="(?s)plain is done.*ValueError: form 'fused' needs the package triton, which is not installed",
    ):
        plain, fused = use.format(""), use.format(", form='fused'")
        loaded_by(f"{begin}; {plain}; print('plain is done', file=sys.stderr); {fused}", ("triton",))


def test_a_blocked_package_is_missed_where_it_is_needed():
    with pytest.raises(AssertionError, match="timm"):
        loaded_by("import cpvt.models", OTHERS)


def test_heavy_libraries_wait_until_they_are_used():
    assert not {"matplotlib", "sklearn", "scipy", "tyro"} & loaded_by("import cpvt.comparing, cpvt.reporting")


def test_public_names_are_all_there():
    import cpvt

    for name in cpvt.__all__:
        assert getattr(cpvt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'peg'"):
        cpvt.peg  # noqa: B018
    modules = {path.stem for path in (SOURCE / "cpvt").glob("*.py")}
    assert not modules & set(cpvt.__all__), "a module called like a public function would hide it"


@every_file
def test_files_functions_and_constructors_stay_small(path, name, tree):
    assert len((SOURCE / "cpvt" / path).read_text().splitlines()) <= LONGEST_FILE
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 70, f"{node.name} is long: look again"
            if node.name == "__init__":
                names = [each.arg for each in (*node.args.args, *node.args.kwonlyargs)]
                own = set(names) - {"self", "device", "dtype"}  # every torch layer takes the last two
                assert len(own) <= 8, "a constructor of many arguments"


@every_file
def test_public_things_are_documented(path, name, tree):
    assert ast.get_docstring(tree), path
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_") and name != "cli":
            assert ast.get_docstring(node), f"{path}: {node.name}"
