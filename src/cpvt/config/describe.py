"""What every option is: its flag, values, default and meaning, read from the dataclasses for help pages and docs."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from cpvt.config.base import Options, Size, size_label
from cpvt.config.data import DataConfig

COMMON = "Common options"
GROUPS = {  # name of a nested configuration -> title of its group
    "retrofit": "PEGs",
    "dataset": "Data",
    "optim": "Optimisation and augmentation",
    "runtime": "Runtime and memory",
}
VALUES: dict[Any, str] = {str: "TEXT", int: "INT", float: "FLOAT"}
SHARED = {  # text of an option where its configuration has none, besides those of the data
    "device": "Device: auto (a GPU if there is one), cpu, cuda, ...",
    "seed": "Seed of everything that is drawn at random.",
    "protocols": "How larger images are made: resize (objects grow), canvas (the field of view grows).",
}
PATHS = ("out", "csv", "data_dir", "checkpoint", "teacher_checkpoint", "initial_checkpoint")


class OptionHelp(NamedTuple):
    """One option of a verb."""

    group: str
    name: str
    flag: str
    """--img-size, or --no-control for a switch that is on; empty for what is given without a flag."""
    values: str
    """What follows the flag: INT, SIZE ..., or a choice as in error|skip; empty for a switch."""
    default: str
    """The default as it is typed; empty for a switch, and for None, which the text explains."""
    required: bool
    text: str

    @property
    def invocation(self) -> str:
        """The flag and its values, as they are typed."""
        return " ".join(part for part in (self.flag, self.values) if part)


def describe_options(kind: type[Options], defaults: Options | None = None) -> list[OptionHelp]:
    """List the options of a verb by group: the common ones first, in the order of `kind.COMMON`.

    defaults: a configuration whose values are shown as the defaults, such as that of a recipe.
    """
    found = list(_options(kind, defaults, "More options" if kind.COMMON else "Options"))
    positional = positional_names(kind)
    found = [_without_flag(each) if each.name in positional else each for each in found]
    unknown = set(kind.COMMON) - {each.name for each in found}
    if unknown:
        raise ValueError(f"{kind.__name__}.COMMON names no option: {', '.join(sorted(unknown))}")
    common = [each._replace(group=COMMON) for name in kind.COMMON for each in found if each.name == name]
    order = list(GROUPS.values())
    rest = [each for each in found if each.name not in kind.COMMON]
    return common + sorted(rest, key=lambda each: order.index(each.group) if each.group in order else -1)


def positional_names(kind: type[Options]) -> tuple[str, ...]:
    """Options that are given without a flag: the required ones, unless the only one is the folder of a training."""
    required = [each.name for each in fields(kind) if _default(each) is MISSING]  # type: ignore[arg-type]
    return () if required == ["out"] else tuple(required)


def _options(kind: type[Options], defaults: Any, group: str) -> Any:
    texts, types = {**SHARED, **option_texts(DataConfig), **option_texts(kind)}, get_type_hints(kind)
    for each in fields(kind):  # type: ignore[arg-type]
        wanted = types[each.name]
        inner = [part for part in (wanted, *get_args(wanted)) if isinstance(part, type) and issubclass(part, Options)]
        if inner and inner[0] is wanted:
            value = getattr(defaults, each.name) if defaults is not None else _default(each)
            yield from _options(inner[0], value, GROUPS[each.name])
        if inner:
            continue  # an optional one, such as the PEGs of a retrofit in a plain training, is set from Python
        default = _default(each)
        value = default if defaults is None or default is MISSING else getattr(defaults, each.name)
        dashed = each.name.replace("_", "-")
        switch = wanted is bool
        values = "" if switch else "PATH" if each.name in PATHS else _values(wanted)
        yield OptionHelp(
            group, each.name, f"--no-{dashed}" if switch and value is True else f"--{dashed}",
            values, "" if switch or value is MISSING else _typed(value),
            value is MISSING, texts.get(each.name, ""),
        )  # fmt: skip


def _without_flag(option: OptionHelp) -> OptionHelp:
    return option._replace(flag="", values=option.name.upper() + (" ..." if option.values.endswith("...") else ""))


def _default(each: Any) -> Any:
    return each.default_factory() if each.default_factory is not MISSING else each.default


def _values(wanted: Any) -> str:
    """What is typed for a type."""
    if wanted == Size or wanted == Size | None:
        return "SIZE"
    kind, parts = get_origin(wanted), get_args(wanted)
    if kind is Literal:
        return "|".join(map(str, parts))
    if kind is tuple:
        return f"{_values(parts[0])} ..." if Ellipsis in parts else " ".join(map(_values, parts))
    if kind in (Union, UnionType):
        (wanted,) = [part for part in parts if part is not type(None)]
        return "True|False" if wanted is bool else _values(wanted)
    return VALUES[wanted]


def _typed(value: Any) -> str:
    """A default as it is typed."""
    if value is None or value == () or value == "":
        return ""
    if isinstance(value, tuple):
        return " ".join(size_label(each) if isinstance(each, (int, tuple)) else str(each) for each in value)
    return str(value)


def option_texts(kind: type[Options]) -> dict[str, str]:
    """The docstring below each field of a dataclass, on one line; none where the source is not installed."""
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except OSError:
        return {}
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for here, below in zip(body.body, body.body[1:]):
        if isinstance(here, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            texts[ast.unparse(here.target)] = " ".join(str(below.value.value).split())
    return texts
