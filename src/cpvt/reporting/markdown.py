"""Markdown tables, and pages that hold them between markers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def lay_out(title: str, columns: Sequence[str], lines: Mapping[str, Sequence[str]]) -> str:
    """A table with a line for each label: `title` stands above the labels, the columns' heads above the boxes."""
    head = [f"| {title} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    return "\n".join([*head, *(f"| {label} | {' | '.join(boxes)} |" for label, boxes in lines.items())])


def fill(page: str, made: Mapping[str, str]) -> str:
    """The page with every text between its markers, `<!-- begin NAME -->` and `<!-- end NAME -->`.

    Raises ValueError for a marker without a text, a text without a marker, or a marker that stands twice.
    """
    marked = re.findall(r"<!-- begin (.+?) -->", page)
    if sorted(marked) != sorted(made):
        raise ValueError(f"markers and tables differ: {sorted(set(marked) ^ set(made)) or 'a marker stands twice'}")
    for name, text in made.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
    return page
