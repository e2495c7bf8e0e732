"""Markdown tables, wrapped text, and pages with tables between markers."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

NOT_MEASURED = "*Not measured yet.*"  # in place of a table without rows


def wrap(text: str, indent: str = "") -> str:
    """Text in lines of at most 120 characters; `indent` begins all but the first."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def lay_out(title: str, columns: Sequence[str], lines: Mapping[str, Sequence[str]]) -> str:
    """A table with a line per label; `title` heads the labels, `columns` the cells."""
    head = [f"| {title} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    return "\n".join([*head, *(f"| {label} | {' | '.join(cells)} |" for label, cells in lines.items())])


def fill(page: str, texts: Mapping[str, str]) -> str:
    """Replace what stands between the markers `<!-- begin NAME -->` and `<!-- end NAME -->` of a page.

    Raises ValueError for a marker without a text, a text without a marker, or a repeated marker.
    """
    marked = re.findall(r"<!-- begin (.+?) -->", page)
    if sorted(marked) != sorted(texts):
        raise ValueError(f"markers and tables differ: {sorted(set(marked) ^ set(texts)) or 'a marker is repeated'}")
    for name, text in texts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
    return page
