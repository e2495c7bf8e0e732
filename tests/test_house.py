"""The structure of the code: imports go down without cycles, light parts stay light, files and functions stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
ROOMS = (  # from the ground up: a room imports only from rooms before it
    "grids", "config", "runtime", "ops", "encodings", "models", "data", "adapters", "results", "reporting",
    "evaluation", "training", "experiments", "demo", "testing", "cli", "__main__",
    "benchmarks",  # outside the package, which never imports it
)  # fmt: skip
LIGHT = {  # module or room -> the packages that it may import, besides the standard library
    "cpvt.grids": {"torch"},
    "cpvt.config": set(),
    "cpvt.runtime.files": set(),
    "cpvt.results.folders": set(),
    "cpvt.results.rows": set(),
    "cpvt.results.probe_results": set(),
    "cpvt.ops": {"torch", "triton"},
    "cpvt.encodings": {"torch"},
    "cpvt.reporting": {"numpy", "scipy", "matplotlib", "jinja2", "markupsafe", "rich"},
}
FILE_LINES, FUNCTION_LINES, PARAMETERS, CONSTRUCTOR_PARAMETERS, COLUMNS = 400, 70, 9, 8, 120  # the most there may be
OPERATORS = {  # signatures that torch's own operators share, or that PyTorch dictates
    "cpvt.ops.fused: _peg_backward",
    "cpvt.ops.fused: _",
}
TRITON = "cpvt.ops.kernels"  # kernels take pointers, strides and sizes one by one


def read_modules():
    """Map module names of the package and the benchmarks to (path, syntax tree), the package's lazy __init__ aside."""
    found = {}
    for root, pattern in ((SOURCE, "cpvt/**/*.py"), (ROOT, "benchmarks/**/*.py")):
        for path in sorted(root.glob(pattern)):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name != "cpvt":
                found[name] = path, ast.parse(path.read_text())
    return found


MODULES = read_modules()


def room(module):
    """The top-level part of the package that a module belongs to; `benchmarks` is one, too."""
    return module.removeprefix("cpvt.").split(".")[0]


def imported(tree, known=MODULES):
    """Yield the modules that a file imports, at the top or in a function; `known` tells modules from their names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known or node.module == "cpvt" else str(node.module)


def climbs(name, tree):
    """Rooms that a module imports but that are not below its own."""
    targets = [each for each in imported(tree) if each.split(".")[0] in ("cpvt", "benchmarks")]
    rooms = [room(target) for target in targets if target not in ("cpvt", "cpvt.__version__")]
    own = ROOMS.index(room(name))
    return [each for each in rooms if each != room(name) and (each not in ROOMS or ROOMS.index(each) >= own)]


def cycles(graph):
    """Groups of nodes that reach each other."""

    def reach(start):
        seen, waiting = set(), [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reached = {name: reach(name) for name in graph}
    groups = {frozenset(each for each in graph if each in reached[name] and name in reached[each]) for name in graph}
    return groups - {frozenset()}


def test_imports_go_down_only():
    assert {room(name) for name in MODULES} - set(ROOMS) == set(), "a new room; add it to ROOMS"
    assert {name: found for name, (_, tree) in MODULES.items() if (found := climbs(name, tree))} == {}


def test_an_import_that_climbs_is_seen():
    assert climbs("cpvt.ops.dense", ast.parse("from cpvt.models import create_model")) == ["models"]
    assert climbs("cpvt.ops.dense", ast.parse("def later():\n    import cpvt.training")) == ["training"]
    assert climbs("cpvt.data.base", ast.parse("from cpvt import training")) == ["training"]
    assert climbs("cpvt.cli", ast.parse("from benchmarks.peg import run")) == ["benchmarks"]
    assert climbs("cpvt.models.vit", ast.parse("from cpvt.ops import peg")) == []
    assert climbs("benchmarks.peg", ast.parse("from cpvt import ops")) == []


def test_files_import_each_other_without_cycles():
    graph = {name: set(imported(tree)) - {name} for name, (_, tree) in MODULES.items()}
    assert sorted(map(sorted, cycles(graph))) == []


def test_a_cycle_is_seen():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {frozenset("abc")}
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": {"torch"}}) == set()
    known = {"cpvt.ops": None, "cpvt.ops.fused": None}
    assert list(imported(ast.parse("def later():\n    from cpvt.ops import fused, peg"), known)) == [
        "cpvt.ops.fused",
        "cpvt.ops",
    ]


def test_light_parts_import_little():
    allowed = set(sys.stdlib_module_names) | {"cpvt"}
    outside = {
        name: {target.split(".")[0] for target in imported(tree)} - allowed - LIGHT[light]
        for name, (_, tree) in MODULES.items()
        for light in LIGHT
        if f"{name}.".startswith(f"{light}.")
    }
    assert {name: found for name, found in outside.items() if found} == {}


def functions():
    """(module and function, syntax tree) of every function and method."""
    for name, (_, tree) in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{name}: {node.name}", node


def parameters(node):
    """Parameters of a function other than self, cls and torch's device and dtype."""
    given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return {each.arg for each in given} - {"self", "cls", "device", "dtype"}


def test_files_and_functions_stay_small():
    assert [name for name, (path, _) in MODULES.items() if len(path.read_text().splitlines()) > FILE_LINES] == []
    assert [name for name, node in functions() if node.end_lineno - node.lineno + 1 > FUNCTION_LINES] == []


def test_functions_take_few_parameters():
    many = {name for name, node in functions() if len(parameters(node)) > PARAMETERS}
    assert {name for name in many - OPERATORS if not name.startswith(TRITON)} == set()
    constructors = [(name, node) for name, node in functions() if node.name == "__init__"]
    assert [name for name, node in constructors if len(parameters(node)) > CONSTRUCTOR_PARAMETERS] == []


def test_lines_are_short():
    files = [
        path
        for folder in ("src", "benchmarks", "examples", "recipes", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    lines = [
        (path.name, number, line) for path in files for number, line in enumerate(path.read_text().splitlines(), 1)
    ]
    assert [(name, number) for name, number, line in lines if len(line) > COLUMNS] == []


def test_public_things_are_documented():
    assert [name for name, (_, tree) in MODULES.items() if not ast.get_docstring(tree)] == []
    public = [
        (f"{name}: {node.name}", node)
        for name, (_, tree) in MODULES.items()
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and name != "cpvt.cli.verbs"
    ]
    assert [name for name, node in public if not ast.get_docstring(node)] == []


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


def test_reports_and_protocols_need_no_torch():
    assert "torch" not in loaded_by("import cpvt.reporting, cpvt.data.protocols")


OTHERS = ("timm", "torchvision", "matplotlib", "sklearn", "scipy", "rich", "tyro", "safetensors", "PIL")


def test_ops_and_encodings_need_torch_alone():
    assert "torch" in loaded_by("import cpvt.ops, cpvt.encodings; cpvt.PEG(4)", OTHERS)


def test_triton_is_imported_on_use_and_may_be_missing():
    use = "ops.peg(torch.zeros(1, 4, 2), torch.zeros(2, 1, 3, 3), None, (2, 2){})"
    begin = "import torch; known = 'triton' in sys.modules; from cpvt import ops"
    loaded_by(f"{begin}; {use.format('')}; assert ('triton' in sys.modules) == known")
    with pytest.raises(
        AssertionError,
        match="(?s)plain is done.*ValueError: form 'fused' needs the package triton, which is not installed",
    ):
        plain, fused = use.format(""), use.format(", form='fused'")
        loaded_by(f"{begin}; {plain}; print('plain is done', file=sys.stderr); {fused}", ("triton",))


def test_a_blocked_package_is_missed_where_it_is_used():
    with pytest.raises(AssertionError, match="timm"):
        loaded_by("import cpvt.models", OTHERS)


def test_heavy_libraries_are_imported_on_use():
    assert not {"matplotlib", "sklearn", "scipy", "tyro"} & loaded_by("import cpvt.experiments.compare, cpvt.reporting")


def test_public_names_exist():
    import cpvt

    for name in cpvt.__all__:
        assert getattr(cpvt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'peg'"):
        cpvt.peg  # noqa: B018
    modules = {path.stem for path in (SOURCE / "cpvt").glob("*.py")}
    assert not modules & set(cpvt.__all__), "a module named like a public function would hide it"
