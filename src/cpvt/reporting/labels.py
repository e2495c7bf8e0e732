"""How models are called in tables and figures, and how each was tested."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from cpvt.config import size_label
from cpvt.data.protocols import options_read
from cpvt.results.rows import Row


def head_label(encoding: str, pool: str, variant: str = "") -> str:
    """The label of an encoding and pool in tables and figures, and its scale rule and computed."""
    label = f"{encoding} · {pool}" if pool == "gap" else encoding
    return f"{label} ({variant})" if variant else label


def label_of(row: Row, rows: Sequence[Row]) -> str:
    """The label of a row's model in tables and figures of these rows."""
    return head_label(name_of(row, rows), row.pool, variant_of(row, rows))


def variant_of(row: Row, rows: Sequence[Row]) -> str:
    """The scale rule and the precision of a row, in words, where these rows differ in it; else empty.

    Empty also for what is true under the protocol, for a model of another library that takes none, and fp32.
    """
    several = any(each.precision != row.precision for each in rows)
    words = (_scale_words(row, rows), row.precision if several and row.precision != "fp32" else "")
    return ", ".join(filter(None, words))


def _scale_words(row: Row, rows: Sequence[Row]) -> str:
    rule = row.scale_rule
    if rule == "protocol":
        return ""
    if row.pool or rule:
        several = any(each.scale_rule != rule for each in rows if each.pool or each.scale_rule)
    else:
        model = (row.model, row.encoding)
        several = any(each.scale_rule and (each.model, each.encoding) == model for each in rows)
    return {"": "no scale", "paper": "paper"}.get(rule, f"scale {rule}") if several else ""


def protocol_notes(rows: Sequence[Row]) -> dict[str, str]:
    """How each model was tested: label -> note, or a single note under "all" if they are equal."""
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(label_of(row, rows), []).append(row)
    notes = {label: _note(own) for label, own in by_label.items()}
    return {"all": next(iter(notes.values()))} if len(set(notes.values())) == 1 else notes


def _note(rows: Sequence[Row]) -> str:
    row = rows[0]
    parts = ["zero-shot", _training_sizes(row)]
    parts += [f"initialised from {row.initial_weights}"] if row.initial_weights else []
    parts += [f"computed in {row.precision}"] if row.precision != "fp32" else []
    if any("crop_ratio" in options_read(row.protocol) for row in rows):
        parts += [f"crop ratio {row.crop_ratio:g}", row.interpolation]
    parts += [_decoding(row)] if row.reduced_jpegs else []
    if row.mean:
        parts.append(f"normalised by mean {_numbers(row.mean)}, deviation {_numbers(row.std)}")
    methods = sorted({row.takes_sizes for row in rows} - {"as it is"})
    return ", ".join([*parts, *(f"takes other sizes by {method}" for method in methods)])


def _decoding(row: Row) -> str:
    return "JPEGs decoded at a reduced scale" if row.reduced_jpegs else "JPEGs decoded whole"


def _training_sizes(row: Row) -> str:
    if row.train_size is None:
        return "training size unknown"
    return f"trained at {', '.join(map(size_label, dict.fromkeys(row.train_sizes or (row.train_size,))))}"


def _numbers(values: Sequence[float]) -> str:
    return "/".join(f"{value:g}" for value in values)


def name_of(row: Row, rows: Sequence[Row]) -> str:
    """The encoding, or the name of an external model, and in brackets what distinguishes it from other rows."""
    first = rows[0]
    external = not row.pool
    differing = {
        row.model: row.model != first.model and not external,
        row.data: row.data != first.data,
        f"crop ratio {row.crop_ratio:g}": row.crop_ratio != first.crop_ratio,
        row.interpolation: row.interpolation != first.interpolation,
        _decoding(row): row.reduced_jpegs != first.reduced_jpegs,
        _training_sizes(row): row.train_sizes != first.train_sizes,
        f"from {row.initial_weights or 'random weights'}": row.initial_weights != first.initial_weights,
        f"longest side {row.longest_side}": row.longest_side != first.longest_side
        and row.protocol == first.protocol
        and "longest_side" in options_read(row.protocol),
    }
    others = [text for text, differs in differing.items() if differs]
    if external:  # libraries differ in preprocessing: only what distinguishes rows of one model counts
        alike = [each for each in rows if not each.pool and (each.model, each.encoding, each.seed, each.protocol)
                 == (row.model, row.encoding, row.seed, row.protocol)]  # fmt: skip
        texts = {
            row.data: "data", f"crop ratio {row.crop_ratio:g}": "crop_ratio", row.interpolation: "interpolation",
            row.weights: "weights", f"mean {_numbers(row.mean)}": "mean",
            _training_sizes(row): "train_size train_sizes",
            f"from {row.initial_weights}": "initial_weights", _decoding(row): "reduced_jpegs",
        }  # fmt: skip
        others = [text for text, names in texts.items() if len(set(map(attrgetter(*names.split()), alike))) > 1]
    alone = row.encoding and all(each.model == row.model for each in rows)
    name = f"{row.model} {row.encoding}".strip() if external and not alone else row.encoding
    return name + (f" ({', '.join(others)})" if others else "")
