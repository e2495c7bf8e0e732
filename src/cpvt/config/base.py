"""What configurations share: checks, sizes, names with options, and how two configurations differ."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from cpvt.config.legacy import RENAMED, UNSAID, current

TOKEN_BUDGET = 4096  # most patches in one forward pass, where images differ in size
MAX_IMAGE_PIXELS = 178_956_970  # of an image file, by default; PIL raises an error for more
POOLS = {"cls": "token", "gap": "avg"}  # name in rows and on the command line -> global_pool of timm and ModelConfig
POOL_NAMES = {timm_name: name for name, timm_name in POOLS.items()}
Precision = Literal["fp32", "bf16", "fp16"]  # of what a model computes; fp16 is for GPUs
Size = int | tuple[int, int]  # side, or height and width, in pixels
ProgressCallback = Callable[[str, int, int, str], None]  # (name, steps done, total or 0 if unknown, message)
Ranges = dict[str, tuple[str, ...]]  # name of a range -> the options that must lie in it
RANGES: dict[str, Callable[[Any], bool]] = {
    "1 or more": lambda number: number >= 1,
    "0 or more": lambda number: number >= 0,
    "from 1 to 65535": lambda number: 1 <= number <= 65535,
    "above 0": lambda number: number > 0,
    "from 0 to 1": lambda number: 0 <= number <= 1,
    "from 0 to below 1": lambda number: 0 <= number < 1,
    "above 0 and at most 1": lambda number: 0 < number <= 1,
    "above 0 and below 1": lambda number: 0 < number < 1,
}


class Default(int):
    """A whole number that nobody chose: its type tells it from a given one, where another default may replace it."""


def ignore_progress(name: str, done: int, total: int, message: str) -> None:
    """The ProgressCallback that shows nothing."""


class Options:
    """Base of configurations: parses sizes and checks numbers when one is created."""

    RANGES: ClassVar[Ranges] = {}
    COMMON: ClassVar[tuple[str, ...]] = ()
    """Options that the help of a verb shows first, in this order."""
    unchecked: ClassVar[bool] = False

    def __new__(cls, *values: Any, **options: Any) -> Any:
        """Raise TypeError for an option that is one of a part's, saying where it goes."""
        own = {each.name for each in fields(cls)}  # type: ignore[arg-type]
        for name in options.keys() - own:
            for part, kind in _parts(cls).items():
                if name in {each.name for each in fields(kind)}:
                    example = f"{part}={kind.__name__}({name}={options[name]!r})"
                    raise TypeError(f"{name} is an option of {kind.__name__}, not of {cls.__name__}: pass {example}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if not Options.unchecked:
            self.check()

    def check(self) -> None:
        """Parse sizes and turn lists into tuples; ValueError for a value out of its range."""
        for each in fields(self):  # type: ignore[arg-type]
            value = _plain_path(getattr(self, each.name))
            if each.type.startswith("tuple"):
                if isinstance(value, str) or not isinstance(value, Sequence):
                    raise ValueError(f"{each.name} takes several values, as in {each.name}=({value!r},); got {value!r}")
                value = tuple(map(parse_size, value)) if "Size" in each.type else tuple(map(_plain_path, value))
                count = None if "..." in each.type else each.type.count(",") + 1
                if count is not None and len(value) != count:
                    raise ValueError(f"{each.name} takes {count} values; got {value}")
            elif "Size" in each.type and value is not None:
                value = parse_size(value)
            elif isinstance(value, Options):
                value.check()
            elif each.type.endswith("Config"):
                got = "a dict" if isinstance(value, dict) else repr(value)
                example = f"{each.name}={each.type}({got if value and isinstance(value, str) else ''})"
                raise ValueError(f"{each.name} takes {each.type}(...), as in {example}; got {got}")
            elif value == "" and each.name == "data":
                raise ValueError("data is empty: is a variable of the shell unset?")
            elif each.type == "int" and value is None:
                raise ValueError(f"{each.name} must be a whole number; got None")
            object.__setattr__(self, each.name, value)
        for name, choices in _choices(type(self)).items():  # type: ignore[arg-type]
            if getattr(self, name) not in choices:
                listed = ", ".join(str(choice) for choice in choices)
                raise ValueError(f"{name} must be one of {listed}; got {getattr(self, name)!r}")
        check_ranges(self, self.RANGES)
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if each.type in ("int", "int | None") and value is not None and not isinstance(value, Integral):
                raise ValueError(f"{each.name} must be a whole number; got {value!r}")
            if isinstance(value, Real) and not isinstance(value, (int, float)):  # of numpy, which JSON does not know
                object.__setattr__(self, each.name, int(value) if isinstance(value, Integral) else float(value))

    @staticmethod
    @contextmanager
    def checked_later() -> Iterator[None]:
        """Create configurations without checking them; call `check` afterwards."""
        Options.unchecked = True
        try:
            yield
        finally:
            Options.unchecked = False


@functools.cache
def _kinds(kind: type) -> dict[str, tuple[Any, ...]]:
    """The type of each option of a configuration, and what that type is made of: name -> types."""
    return {name: (hint, *get_args(hint)) for name, hint in get_type_hints(kind).items()}


def _parts(kind: type) -> dict[str, Any]:
    """The parts of a configuration that are configurations: name -> class."""
    found = ((name, each) for name, kinds in _kinds(kind).items() for each in kinds)
    plain = ((name, each) for name, each in found if get_origin(each) is None and isinstance(each, type))
    return {name: each for name, each in plain if issubclass(each, Options)}


@functools.cache
def _choices(kind: type) -> dict[str, tuple[Any, ...]]:
    """The values that the options of a configuration may have, of those whose type lists them."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, kinds in _kinds(kind).items():
        values = [value for each in kinds if get_origin(each) is Literal for value in get_args(each)]
        if values:
            found[name] = (*values, None) if type(None) in kinds else (*values,)
    return found


def _plain_path(value: Any) -> Any:
    """A path as text, as files of records and command lines have it; anything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Kind = TypeVar("Kind", bound=Options)
Function = TypeVar("Function", bound=Callable[..., Any])


def options_from(kind: type[Kind], options: dict[str, Any], **given: Any) -> Kind:
    """Create a configuration from `options`, checking their names, and from values in `given`.

    Raises TypeError for an unknown option: it names the new name of a renamed one, or a close one, and the known ones.
    """
    known = [each.name for each in fields(kind) if each.name not in given]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            near = [RENAMED[name]] if RENAMED.get(name) in known else difflib.get_close_matches(name, known, n=1)
            how = f"'{name}' is now '{near[0]}'" if name in RENAMED and near else f"there is no option '{name}'"
            hint = f" Did you mean {near[0]}?" if near and name not in RENAMED else ""
            raise TypeError(f"{how}.{hint} Known options: {', '.join(known)}")
    return kind(**given, **options)


def takes_options(kind: type[Options], *hidden: str) -> Callable[[Function], Function]:
    """Decorate a function so that `help` and editors show its `**options` as those of a configuration."""

    def show(function: Function) -> Function:
        plain = inspect.signature(function)
        own = [each for each in plain.parameters.values() if each.kind is not each.VAR_KEYWORD]
        taken = {*hidden, *(each.name for each in own)}
        more = [
            inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
            for each in fields(kind)  # type: ignore[arg-type]
            if each.name not in taken
        ]
        function.__signature__ = plain.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        return function

    return show


def check_ranges(config: Any, ranges: Ranges) -> None:
    """Raise ValueError for a number of a configuration out of its range.

    Every number of an option that holds several is checked. None stands for a default and is always allowed.
    """
    for limits, names in ranges.items():
        for name in names:
            given = getattr(config, name)
            for number in given if isinstance(given, (tuple, list)) else (given,):
                if number is not None and not (isinstance(number, Real) and RANGES[limits](number)):
                    raise ValueError(f"{name} must be {limits}; got {number!r}")


def sides(size: Size) -> tuple[int, int]:
    """Height and width of a size."""
    return (size, size) if isinstance(size, int) else size


def parse_size(text: Size | str) -> Size:
    """Read 48, '48' or '48x64' (height x width); a pair of sides is returned as it is."""
    if isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(side, int) and side > 0 for side in text):
        return (text[0], text[1])
    parts = str(text).split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"a size is a side such as 48, or height x width such as 48x64; got '{text}'")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def size_label(size: Size) -> str:
    """A size as text: 48, or 48x64 for height x width."""
    return str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}"


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """Split "vit_tiny(depth=4)" into ("vit_tiny", {"depth": 4}); ValueError for options other than NAME=LITERAL."""
    name, bracket, options = text.partition("(")
    if not bracket:
        return text, {}
    try:
        call = ast.parse(f"f({options}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("options need names")
        return name, {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"options of a model are plain values with names, such as {name}(depth=4); got '{bracket}{options}'"
        ) from error


def some_names(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def encoding_name(what: Any) -> str:
    """The name of an encoding in files and rows: a string as it is, else "module:Class"."""
    if isinstance(what, str):
        return what
    kind = what if hasattr(what, "__qualname__") else type(what)
    return f"{kind.__module__}:{kind.__qualname__}".replace("<locals>.", "")


def importable_encoding(what: Any) -> str:
    """The name by which other processes can import an encoding; ValueError if they cannot."""
    if isinstance(what, str):
        return what
    if not hasattr(what, "__qualname__"):
        raise ValueError(
            f"training builds the encoding itself: pass the class or its name, not an instance of {type(what).__name__}"
        )
    if "<locals>" in what.__qualname__:
        raise ValueError(
            f"'{what.__qualname__}' is defined inside a function and cannot be imported; move it to a module"
        )
    return encoding_name(what)


def differences(before: dict[str, Any], after: Any, ignore: tuple[str, ...] = ()) -> list[str]:
    """Options that differ between a configuration read from JSON and a dataclass, as 'name: before -> after'.

    An option missing in the file has its default: it was added later. Old names and defaults are read as the new ones.
    """
    old, new = _defaults(type(after)) | _flat(current(before)), _flat(asdict(after))
    if old.get("initial_checkpoint") is None:  # else those weights decide what an option without a value means
        old |= {name: None for name, value in UNSAID.items() if old.get(name) == value and new.get(name) is None}
    changed = {
        name: value for name, value in new.items() if name not in ignore and not _is_same(name, old.get(name), value)
    }
    return [f"{name}: {old.get(name)} -> {value}" for name, value in changed.items()]


def _is_same(name: str, before: Any, after: Any) -> bool:
    """Whether two values of an option are equal; two spellings of an existing folder of images are."""
    folders = name == "data" and all(isinstance(each, str) and os.path.isdir(each) for each in (before, after))
    return before == after or (folders and os.path.samefile(before, after))


def refuse_other(
    folder: Path,
    what: str,
    before: dict[str, Any],
    after: Any,
    ignore: tuple[str, ...],
    advice: str = "choose another --out, or delete the folder",
) -> None:
    """Raise ValueError if a folder was written with another configuration; advice: what to do then."""
    changed = differences(before, after, ignore)
    if changed:
        raise ValueError(f"'{folder}' holds {what} ({'; '.join(changed)}); {advice}")


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value))
        else:
            flat[name] = json.loads(json.dumps(value))  # tuples become lists, as in a file
    return flat


def _defaults(kind: Any) -> dict[str, Any]:
    """Defaults of a configuration and of its nested ones."""
    known = {each.name: each.default for each in fields(kind) if each.default is not MISSING}
    inner = {each.name: asdict(each.default_factory()) for each in fields(kind) if each.default_factory is not MISSING}
    return _flat({**known, **inner})
