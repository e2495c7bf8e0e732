"""What the terminal says of the command line itself: a first page, the options of a verb in groups, mistakes."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from cpvt import __version__
from cpvt.cli.verbs import VERBS
from cpvt.config import DemoConfig, Options
from cpvt.config.describe import OptionHelp, describe_options

if TYPE_CHECKING:
    from rich.text import Text

FIRST = {  # what a newcomer types -> what it does
    "cpvt predict photo.jpg": "classify an image with the small model that comes along",
    "cpvt train --data FOLDER --img-size 64 --out runs/mine": "train on a folder of images",
    "cpvt sweep runs/mine": "test it at sizes it was not trained at",
    "cpvt report runs/mine": "draw tables and figures on one page",
    "cpvt export runs/mine": "write one ONNX file for all sizes",
    "cpvt compare --quick": "compare positional encodings, in a minute",
}
LEFT, WIDEST = 28, 110  # width of the left column, at most; of a line, at most
NARROWEST = 30  # width of the right column, at least


def first_page() -> Text:
    """What `cpvt` prints without a verb: ten lines."""
    from rich.text import Text

    width = max(map(len, FIRST))
    wide = shutil.get_terminal_size().columns >= width + max(map(len, FIRST.values())) + 4
    lines = [f"  {command:{width}}  {about}" if wide else f"  {command}" for command, about in FIRST.items()]
    shown = {command.split()[1] for command in FIRST}
    more = ", ".join(verb for verb in VERBS if verb not in shown)
    heading = f"cpvt {__version__}: vision transformers that take images of any size"
    return Text.assemble(
        (heading, "bold"), "\n\n", "\n".join(lines), f"\n\nMore: {more}. All options: cpvt VERB --help"
    )


def verbs_page() -> Text:
    """What `cpvt --help` prints: every verb with what it does."""
    verbs = {verb: about for verb, (_, _, about) in VERBS.items()}
    closing = (
        "cpvt VERB --help lists the options of a verb. The last line of every command's output is one JSON object."
    )
    return _page("usage: cpvt VERB [options]; cpvt alone shows first commands", [("Verbs", verbs)], closing)


def verb_page(verb: str, defaults: Options | None = None) -> Text:
    """What `cpvt VERB --help` prints: its options in groups, the common ones first.

    defaults: a configuration whose values are shown as the defaults, such as that of a recipe.
    """
    kind, _, about = VERBS[verb]
    options = describe_options(kind, defaults)
    needed = ["[RUN]"] if kind is DemoConfig else [each.invocation for each in options if each.required]
    usage = " ".join(["usage: cpvt", verb, *needed, "[options]"])
    groups = [
        (group, {each.invocation: _meaning(each) for each in members})
        for group, members in groupby(options, key=lambda each: each.group)
    ]
    return _page(f"{usage}\n\n{about[0].upper()}{about[1:]}", groups)


def _meaning(option: OptionHelp) -> str:
    note = "(required)" if option.required else f"[default: {option.default}]" if option.default else ""
    return " ".join(part for part in (option.text, note) if part)


def _page(opening: str, groups: Iterable[tuple[str, Mapping[str, str]]], closing: str = "") -> Text:
    """Groups of lines in two columns; what is too wide for the left one has a line of its own."""
    from rich.text import Text

    groups = list(groups)
    width = min(shutil.get_terminal_size().columns, WIDEST)
    edge = max(len(left) for _, lines in groups for left in lines if len(left) <= LEFT)  # of the left column
    edge = edge if width - edge - 4 >= NARROWEST else 4  # then each meaning has lines of its own
    page = Text(opening)
    for title, lines in groups:
        page.append(f"\n\n{title}", "bold")
        for left, right in lines.items():
            about = textwrap.wrap(right, max(width - edge - 4, NARROWEST), break_on_hyphens=False)
            first = about.pop(0) if about and len(left) <= edge else ""
            page.append("\n  ").append(f"{left:{edge}}" if first else left, "cyan").append(
                f"  {first}" if first else ""
            )
            for line in about:
                page.append(f"\n{'':{edge + 4}}{line}")
    return page.append(f"\n\n{closing}" if closing else "")


def show(page: Text) -> None:
    """Print a page; without colours where standard output is no terminal."""
    from rich.console import Console

    Console(highlight=False, emoji=False).print(page, soft_wrap=True)


def show_mistake(message: str, verb: str | None) -> None:
    """Print what was wrong and what to do: in a box in a terminal, as one line `cpvt: ...` in a log."""
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.text import Text

    console = Console(stderr=True, highlight=False, emoji=False)
    if not console.is_terminal or os.environ.get("TERM") == "dumb":
        console.print(f"cpvt: {message}", soft_wrap=True, markup=False)
        return
    hint = Text(f"Options: cpvt {verb} --help" if verb else "Verbs: cpvt --help", "dim")
    console.print(Panel(Group(Text(message), "", hint), title=f"cpvt {verb or ''}".strip(), border_style="red"))
