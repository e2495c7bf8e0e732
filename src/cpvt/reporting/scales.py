"""The object scale that the models of a page were given, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cpvt.config import Size, size_label
from cpvt.config.scale import scale_label
from cpvt.data.protocols import TABLE
from cpvt.reporting.labels import head_label
from cpvt.reporting.summary import Cell, pixels


def scale_note(cells: Sequence[Cell], protocol: str) -> str:
    """Each scale rule under a protocol, and the scale at each size; empty if none was.

    Such as: resize 'fit' (1, 1.5, 2 at 32, 48, 64); nothing (paper).
    """
    by_rule: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.protocol == protocol and not cell.refused:
            by_rule.setdefault(cell.scale_rule, []).append(cell)
    if not any(by_rule):
        return ""
    return f"{protocol} {'; '.join(_words(rule, own, protocol) for rule, own in sorted(by_rule.items(), key=_order))}"


def _order(entry: tuple[str, list[Cell]]) -> tuple[bool, bool, str]:
    return entry[0] in ("", "paper"), entry[0] != "protocol", entry[0]


def _words(rule: str, cells: Sequence[Cell], protocol: str) -> str:
    if rule in ("", "paper"):
        return f"none ({', '.join(dict.fromkeys(rule or cell.variant or cell.label for cell in cells))})"
    own = TABLE[protocol].scale_rule if rule == "protocol" and protocol in TABLE else rule
    numbers = _numbers(cells)
    if own is not None and not numbers and all(cell.pool for cell in cells):  # ours, whose training size is known
        return "none (the models' own rule)"
    return ("the model's own rule" if own is None else f"'{own}'") + (f" ({numbers})" if numbers else "")


def _numbers(cells: Sequence[Cell]) -> str:
    """The scale at each size: that of most trainings, and which trainings have another."""
    trainings: dict[Size, dict[tuple[str, int], str]] = {}  # (label, seed) -> scale
    for cell in sorted(cells, key=lambda cell: pixels(cell.size)):
        label = head_label(cell.encoding, cell.pool)
        scaled = {(label, seed): scale_label(each) for seed, each in zip(cell.seeds, cell.scales) if each is not None}
        if scaled:
            trainings.setdefault(cell.size, {}).update(scaled)
    usual = {size: Counter(scaled.values()).most_common(1)[0][0] for size, scaled in trainings.items()}
    if len(set(usual.values())) > 1:
        text = f"{', '.join(usual.values())} at {', '.join(map(size_label, usual))}"
    else:
        text = next(iter(usual.values()), "")
    for size, scaled in trainings.items():
        for scale in dict.fromkeys(each for each in scaled.values() if each != usual[size]):
            names: dict[str, list[int]] = {}
            for (label, seed), each in scaled.items():
                if each == scale:
                    names.setdefault(label, []).append(seed)
            who = [f"{label} seed {', '.join(map(str, seeds))}" for label, seeds in names.items()]
            text += f"; {scale} at {size_label(size)} for {', '.join(who)}"
    return text


def shared_scales(cells: Sequence[Cell], protocol: str) -> dict[Size, str]:
    """Size -> the scale, as text, if all models that were given one there were given the same."""
    scaled: dict[Size, set[str]] = {}
    for cell in cells:
        if cell.protocol == protocol and not cell.refused:
            scaled.setdefault(cell.size, set()).update(scale_label(scale) for scale in cell.scales if scale is not None)
    return {size: next(iter(scales)) for size, scales in scaled.items() if len(scales) == 1}
