"""The page of probes: findings of one model or several, side by side, in one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from cpvt.findings import RECORD, read_findings
from cpvt.reporting.figures import as_bytes
from cpvt.reporting.probe_figures import (
    border_figure,
    depth_figure,
    distance_figure,
    longer_figure,
    shift_figure,
    tiles_figure,
)
from cpvt.reporting.probed import HEADLINES, TWIN_WORDS, Line, Probed, headline, plain
from cpvt.reporting.summary import size_label
from cpvt.results import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "probes.html"
WAYS, SHIFTS = ("circular", "canvas", "crop"), ("1 pixel", "1 patch", "2 patches")
ISLAM_COLUMNS = (("natural", ""), ("black", ""), ("white", ""), ("noise", ""), ("noise", ", fitted on noise"))


def report_probes(*folders: str | Path, out: str | Path | None = None) -> Path | None:
    """Draw probes.html from the findings of some folders into the first of them, or `out`; None where none has any."""
    places = [Path(folder) for folder in folders]
    probed = Probed([finding for folder in places for finding in read_findings(folder / RECORD)])
    if not probed.findings:
        return None
    page = Path(out or places[0]) / PAGE
    with replacing(page) as file:
        file.write(_page(probed, places).encode())
    return page


def _page(probed: Probed, folders: Sequence[Path]) -> str:
    template = Template(files("cpvt.reporting").joinpath("probes.html").read_text())
    style = files("cpvt.reporting").joinpath("page.html").read_text()  # one style for all pages
    return template.substitute(
        style=style[style.index("<style>") : style.index("</style>")],
        subtitle=escape(_subtitle(probed)),
        headlines=_table(probed, [each.title for each in HEADLINES],
                         lambda line: [headline(probed, line, each) for each in HEADLINES]),
        depth=_drawn(probed, "position", lambda: depth_figure(probed)),
        border=_drawn(probed, "position", lambda: border_figure(probed)),
        longer=_drawn(probed, "longer", lambda: longer_figure(probed)),
        order=_order(probed),
        shift=_drawn(probed, "translation", lambda: shift_figure(probed)),
        translation="".join(_translation(probed, way) for way in WAYS) if _has(probed, "translation") else MISSING,
        islam="".join(_islam(probed, name) for name in ("H", "V", "G", "HS", "VS")) if _has(probed, "islam") else MISSING,
        distance=_drawn(probed, "attention", lambda: distance_figure(probed)),
        tiles=_drawn(probed, "attention", lambda: tiles_figure(probed, folders), kind="png"),
        refusals="".join(f"<li>{escape(words)}</li>" for words in probed.refusals()) or "<li>Everything ran.</li>",
    )  # fmt: skip


MISSING = "<p class=note>Not measured.</p>"


def _has(probed: Probed, probe: str) -> bool:
    return any(finding.probe == probe and finding.value is not None for finding in probed.findings)


def _drawn(probed: Probed, probe: str, draw: Callable[[], Figure | None], kind: str = "svg") -> str:
    figure = draw() if _has(probed, probe) else None
    if figure is None:
        return MISSING
    content = as_bytes(figure, kind)
    if kind == "svg":
        return content[content.index(b"<svg") :].decode()
    return f'<img alt="{probe}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'


def _subtitle(probed: Probed) -> str:
    first = probed.findings[0]
    sizes = dict.fromkeys(size_label(each.size) for each in probed.findings if each.probe == "position")
    data = ", ".join(dict.fromkeys(each.data for each in probed.findings))
    count = max(each.count for each in probed.findings)
    at = f" at {', '.join(sizes)} pixels" if sizes else ""
    return f"{', '.join(probed.labels.values())}: probed with {count} pictures of {data}{at}, seed {first.seed}."


def _table(probed: Probed, titles: Sequence[str], boxes: Callable[[Line], Sequence[str]]) -> str:
    """A line for each twin of each model; `boxes` gives its cells, as HTML."""
    head = "".join(f"<th scope=col>{escape(title)}</th>" for title in titles)
    body = ""
    for line in probed.lines:
        cells = "".join(f"<td>{box}</td>" for box in boxes(line))
        tone, name = ("", probed.labels[line.model]) if line.twin == "model" else (" class=twin", TWIN_WORDS[line.twin])
        body += f"<tr{tone}><th scope=row>{escape(name)}</th>{cells}</tr>"
    return f"<div class=scroll><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _order(probed: Probed) -> str:
    if not _has(probed, "order"):
        return MISSING
    columns = {
        "logits, noise": ("logit change", "noise", False), "logits, natural": ("logit change", "natural", False),
        "predictions changed, natural": ("predictions changed", "natural", True),
        "tokens, noise": ("token change", "noise", False), "tokens, natural": ("token change", "natural", False),
        "mean token, natural": ("mean token change", "natural", False),
    }  # fmt: skip
    return _table(probed, list(columns), lambda line: [
        plain(probed.one(line, "order", measure, "", kind), share) for measure, kind, share in columns.values()
    ])  # fmt: skip


def _translation(probed: Probed, way: str) -> str:
    def boxes(line: Line) -> list[str]:
        def number(measure: str, shift: str, kind: str | None = None) -> str:
            share = measure != "token error"
            return plain(probed.one(line, "translation", measure, f"{way}, {shift}", kind), share)

        cells = [number("accuracy", "not shifted")]
        for shift in SHIFTS:
            cells += [f"<b>{number('same prediction', shift)}</b>", number("accuracy", shift)]
            cells += [number("token error", shift, "noise")] * (shift != "1 pixel")
        return cells

    titles = ["accuracy, not shifted"]
    for shift in SHIFTS:
        titles += [f"{shift}: same prediction", "accuracy"] + ["tokens, noise"] * (shift != "1 pixel")
    return f"<h3>{way}</h3>" + _table(probed, titles, boxes)


def _islam(probed: Probed, name: str) -> str:
    def boxes(line: Line) -> list[str]:
        cells = []
        for kind, suffix in ISLAM_COLUMNS:
            correlation = probed.one(line, "islam", "spearman", name + suffix, kind)
            error = probed.one(line, "islam", "mae", name + suffix, kind)
            cells.append(f"<b>{plain(correlation)}</b> <small>{plain(error)}</small>")
        return cells

    return f"<h3>{name}</h3>" + _table(probed, [kind + suffix for kind, suffix in ISLAM_COLUMNS], boxes)
