"""The report of probes: results of one or several models in one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from cpvt.config import size_label
from cpvt.reporting.figures import as_bytes
from cpvt.reporting.probe_figures import (
    border_figure,
    depth_figure,
    distance_figure,
    longer_figure,
    shift_figure,
    tiles_figure,
)
from cpvt.reporting.probe_index import BASELINE_LABELS, HEADLINES, Line, ProbeIndex, headline, plain
from cpvt.reporting.templates import as_data, inline, render
from cpvt.results.folders import PROBE_REPORT, PROBE_RESULTS
from cpvt.results.probe_results import read_probe_results
from cpvt.runtime.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHIFT_METHODS, SHIFTS = ("circular", "canvas", "crop"), ("1 pixel", "1 patch", "2 patches")
ISLAM_COLUMNS = (("natural", ""), ("black", ""), ("white", ""), ("noise", ""), ("noise", ", fitted on noise"))


def report_probes(*folders: str | Path, out: str | Path | None = None) -> Path | None:
    """Write probes.html on the results of some folders to `out`, by default the first; None if there are none."""
    paths = [Path(folder) for folder in folders]
    probed = ProbeIndex([each for folder in paths for each in read_probe_results(folder / PROBE_RESULTS)])
    if not probed.results:
        return None
    page = Path(out or paths[0]) / PROBE_REPORT
    write_bytes(page, _page(probed, paths).encode(errors="replace"))
    return page


def _page(probed: ProbeIndex, folders: Sequence[Path]) -> str:
    return render(
        "probes.html",
        lines=probed.lines, labels=probed.labels, baseline_labels=BASELINE_LABELS, missing=MISSING,
        subtitle=_subtitle(probed),
        headlines=_headlines(probed),
        depth=_drawn(probed, "position", lambda: depth_figure(probed)),
        border=_drawn(probed, "position", lambda: border_figure(probed)),
        longer=_drawn(probed, "longer", lambda: longer_figure(probed)),
        order=[_order(probed)] if _has(probed, "order") else [],
        shift=_drawn(probed, "translation", lambda: shift_figure(probed)),
        translation=[_translation(probed, method) for method in SHIFT_METHODS] if _has(probed, "translation") else [],
        islam=[_islam(probed, name) for name in ("H", "V", "G", "HS", "VS")] if _has(probed, "islam") else [],
        distance=_drawn(probed, "attention", lambda: distance_figure(probed)),
        tiles=_drawn(probed, "attention", lambda: tiles_figure(probed, folders), kind="png"),
        refusals=probed.refusals(),
    )  # fmt: skip


MISSING = Markup("<p class=note>Not measured.</p>")
Table = tuple[str, list[str], Callable[[Line], Sequence[str]]]  # title, heads, and the cells of a line


def _has(probed: ProbeIndex, probe: str) -> bool:
    return any(each.probe == probe and each.value is not None for each in probed.results)


def _drawn(probed: ProbeIndex, probe: str, draw: Callable[[], Figure | None], kind: str = "svg") -> Markup:
    figure = draw() if _has(probed, probe) else None
    if figure is None:
        return MISSING
    content = as_bytes(figure, kind)
    return inline(content) if kind == "svg" else Markup('<img alt="{}" src="{}">').format(probe, as_data(content))


def _subtitle(probed: ProbeIndex) -> str:
    first = probed.results[0]
    sizes = dict.fromkeys(size_label(each.size) for each in probed.results if each.probe == "position")
    data = ", ".join(dict.fromkeys(each.data for each in probed.results))
    count = max(each.count for each in probed.results)
    at = f" at {', '.join(sizes)} pixels" if sizes else ""
    return f"{', '.join(probed.labels.values())}: probed with {count} images of {data}{at}, seed {first.seed}."


def _headlines(probed: ProbeIndex) -> Table:
    return "", [each.title for each in HEADLINES], lambda line: [headline(probed, line, each) for each in HEADLINES]


def _order(probed: ProbeIndex) -> Table:
    columns = {
        "logits, noise": ("logit change", "noise", False), "logits, natural": ("logit change", "natural", False),
        "predictions changed, natural": ("predictions changed", "natural", True),
        "tokens, noise": ("token change", "noise", False), "tokens, natural": ("token change", "natural", False),
        "mean token, natural": ("mean token change", "natural", False),
    }  # fmt: skip
    return "", list(columns), lambda line: [
        plain(probed.one(line, "order", measure, "", kind), percent) for measure, kind, percent in columns.values()
    ]  # fmt: skip


def _translation(probed: ProbeIndex, method: str) -> Table:
    def row(line: Line) -> list[str]:
        def number(measure: str, shift: str, kind: str | None = None) -> str:
            value = probed.one(line, "translation", measure, f"{method}, {shift}", kind)
            return plain(value, percent=measure != "token error")

        cells = [number("accuracy", "not shifted")]
        for shift in SHIFTS:
            cells += [Markup("<b>{}</b>").format(number("same prediction", shift)), number("accuracy", shift)]
            cells += [number("token error", shift, "noise")] * (shift != "1 pixel")
        return cells

    titles = ["accuracy, not shifted"]
    for shift in SHIFTS:
        titles += [f"{shift}: same prediction", "accuracy"] + ["tokens, noise"] * (shift != "1 pixel")
    return method, titles, row


def _islam(probed: ProbeIndex, name: str) -> Table:
    def row(line: Line) -> list[str]:
        cells: list[str] = []
        for kind, suffix in ISLAM_COLUMNS:
            correlation = probed.one(line, "islam", "spearman", name + suffix, kind)
            error = probed.one(line, "islam", "mae", name + suffix, kind)
            cells.append(Markup("<b>{}</b> <small>{}</small>").format(plain(correlation), plain(error)))
        return cells

    return name, [kind + suffix for kind, suffix in ISLAM_COLUMNS], row
