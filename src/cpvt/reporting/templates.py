"""Rendering of the HTML templates in this folder."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cpvt.config import size_label
from cpvt.reporting.summary import pixels


def render(template: str, **values: Any) -> str:
    """Render a template; text is escaped, `Markup` is not."""
    pages = Environment(
        loader=PackageLoader("cpvt.reporting", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    pages.filters |= {"median": median, "size_label": size_label, "by_protocol": by_protocol}
    return pages.get_template(template).render(values)


def by_protocol(items: Sequence[Any]) -> list[tuple[str, list[Any], dict[str, list[Any]]]]:
    """For each protocol: name, sizes, and for each label the item at each size, or None."""
    tables = []
    for protocol in dict.fromkeys(each.protocol for each in items):
        found = {(each.label, each.size): each for each in items if each.protocol == protocol}
        sizes = sorted({size for _, size in found}, key=pixels)
        labels = dict.fromkeys(label for label, _ in found)
        tables.append((protocol, sizes, {label: [found.get((label, size)) for size in sizes] for label in labels}))
    return tables


def inline(svg: bytes) -> Markup:
    """An SVG figure as part of a page."""
    return Markup(svg[svg.index(b"<svg") :].decode())


def as_data(png: bytes) -> str:
    """A PNG image as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
