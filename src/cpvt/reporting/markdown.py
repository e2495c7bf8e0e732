"""Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def lay_out(title: str, columns: Sequence[str], lines: Mapping[str, Sequence[str]]) -> str:
    """A table with a line for each label: `title` stands above the labels, the columns' heads above the boxes."""
    head = [f"| {title} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    return "\n".join([*head, *(f"| {label} | {' | '.join(boxes)} |" for label, boxes in lines.items())])
