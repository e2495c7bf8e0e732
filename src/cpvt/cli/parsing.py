"""From a command line to its configuration: names, old options and mistakes, before anything heavy is imported."""

from __future__ import annotations

import difflib
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from cpvt.cli.verbs import VERBS
from cpvt.config import CompareConfig, DemoConfig, Options, PredictConfig, Size, TrainConfig
from cpvt.config.describe import describe_options, positional_names
from cpvt.config.legacy import refuse_old_flags


def parse(arguments: list[str] | None = None) -> Any:
    """Parse a command line into its configuration; in `train RECIPE.py ...`, options override those of the recipe."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    verb = arguments[0] if arguments else ""
    if verb not in VERBS and not verb.startswith("--tyro"):  # tyro's are those that write a shell completion
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no verb '{verb}'.{hint} Known: {', '.join(VERBS)}")
    kinds: dict[str, Any] = {name: kind for name, (kind, _, _) in VERBS.items()}
    known = fields(kinds[verb]) if verb in kinds else ()
    refuse_old_flags(arguments, [each.name for each in known])
    recipe = parse_recipe(arguments)
    wanted: Any = None  # the one verb, so that tyro speaks of its options alone; all, for a completion
    for name in [verb] if verb in kinds else kinds:
        kind = kinds[name]
        positional = (tyro.conf.PositionalRequiredArgs,) if positional_names(kind) else ()
        plain = (tyro.conf.AvoidSubcommands,) if kind is TrainConfig else ()  # hides the options of a retrofit
        choice = () if verb in kinds else (tyro.conf.subcommand(name),)
        marked: Any = (kind, *choice, *positional, *plain, tyro.conf.OmitArgPrefixes)
        option = Annotated[marked]
        wanted = option if wanted is None else wanted | option
    given = [each for each in arguments if recipe is None or not _is_recipe(each)]
    if verb == "demo":
        given = _with_run_flag(given)
    with Options.checked_later(), _registry():  # checked below: tyro would print a box around our messages
        default: dict[str, Any] = {"default": recipe} if recipe is not None else {}
        args, prog = (given[1:], f"cpvt {verb}") if verb in kinds else (given, "cpvt")
        config = tyro.cli(wanted, prog=prog, args=args, **default)
    config.check()
    return config


def _with_run_flag(arguments: list[str]) -> list[str]:
    """The command line of `demo` with --run before its RUN, wherever that stands: tyro wants positionals required."""
    before_value = {each.flag for each in describe_options(DemoConfig) if each.values}
    free = [
        place
        for place, (before, here) in enumerate(pairwise(arguments), 1)
        if not here.startswith("-") and before not in before_value
    ]
    if len(free) + sum(each.split("=")[0] == "--run" for each in arguments) > 1:
        raise ValueError(f"demo shows one model, as in cpvt demo runs/mine; got cpvt {' '.join(arguments)}")
    return [*arguments[: free[0]], "--run", *arguments[free[0] :]] if free else arguments


def parse_recipe(arguments: list[str]) -> TrainConfig | None:
    """The configuration in the recipe of `train RECIPE.py ...`; None if the command names none."""
    files = [each for each in arguments[1:] if _is_recipe(each)]
    if arguments[0] != "train" or not files:
        return None
    from cpvt.config.recipes import read_recipe

    if len(files) > 1:
        raise ValueError(f"train takes one recipe; got {len(files)}: {', '.join(files)}")
    return read_recipe(files[0])


def _is_recipe(argument: str) -> bool:
    return argument.endswith(".py") and not argument.startswith("-")


def check_names(config: Any) -> None:
    """Raise ValueError for wrong names that are seen without the heavy imports, which take seconds."""
    from cpvt.data.datasets import find_source
    from cpvt.data.finding import check_images
    from cpvt.data.protocols import AUGMENTS, check_protocols, find_protocol
    from cpvt.encodings.text import expand_groups, split_encoding

    for encoding in (getattr(config, "encoding", None), *expand_groups(getattr(config, "encodings", ()))):
        if encoding is not None:
            split_encoding(encoding)
    if hasattr(config, "protocols"):
        check_protocols(config.protocols, to_compare=isinstance(config, CompareConfig))
    if hasattr(config, "optim") and config.optim.augment is not None:
        find_protocol(AUGMENTS.get(config.optim.augment, config.optim.augment))
    data = config.dataset.data if hasattr(config, "dataset") else getattr(config, "data", None)
    if data is not None:
        find_source(data)
    for name in (getattr(config, each, None) for each in ("model", "initial_checkpoint", "teacher", "run")):
        if name is None or not set(name) & set("/.") or set(name) & set(":("):
            continue  # a name, not a path
        if not Path(name).exists():
            raise ValueError(f"'{name}' is no run's folder and no model that comes with weights: it is not there")
    if isinstance(config, PredictConfig):
        check_images(config.images)


def _registry() -> tyro.constructors.ConstructorRegistry:
    """Have tyro pass a size on as text; `Options.check` parses it."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def size_rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
        if info.type not in (Size, Size | None):
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1, metavar="SIZE", instance_from_str=lambda texts: None if texts == ["None"] else texts[0],
            is_instance=lambda size: size is None or isinstance(size, (int, str, tuple)),
            str_from_instance=lambda size: ["x".join(map(str, size)) if isinstance(size, tuple) else str(size)],
        )  # fmt: skip

    return registry
