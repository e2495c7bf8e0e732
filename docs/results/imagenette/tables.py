"""Write the tables of docs/imagenette.md and README.md from rows: python docs/results/imagenette/tables.py, after run.sh.

rows.jsonl: trained at 64 pixels, tested under resize, given the scale and without scale. distances.jsonl: so, too, with fixed
distances that use the scale. crops.jsonl: trained on crops of 64 pixels of the photographs at half their size, tested on
more of them. recipes/NAME.jsonl: ways to train for other sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cpvt.config import Size, size_label
from cpvt.encodings import TABLE
from cpvt.reporting.contrasts import Contrast, Contrasts
from cpvt.reporting.markdown import NOT_MEASURED, fill, lay_out, wrap
from cpvt.reporting.scale_tables import before_after, cells_of
from cpvt.reporting.summary import Cell, as_markdown, pixels, summarise
from cpvt.results.rows import Row, read_rows

HERE = Path(__file__).parent
PAGE, README = HERE.parents[1] / "imagenette.md", HERE.parents[2] / "README.md"
TRAINED = 64
HOLDING = "rope+peg"  # named by a trial of one seed, on the same test images, before these trainings
BETWEEN = (96, 128, 192, 224)
PUBLISHED = " as published"  # behind the name of an encoding that was without scale
SINGLE, LONGER = "at 64", "at 64, 38 epochs"
RECIPES = {  # file in recipes/ -> words
    "turn": "at 64, 96, 128 in turn",
    "all": "at 64, 96, 128 in each step, 5 epochs",
    "then": "at 64, then 10 epochs at 64, 96, 128",
    "longer": LONGER,
    "longest": f"{LONGER}, then 5 at 64, 96, 128",
}


def has_peg(encoding: str) -> bool:
    """Whether a PEG is part of an encoding."""
    return "peg" in encoding


def plain(table: str) -> str:
    """A table whose models all pool alike, without the word."""
    return table.replace(" · gap", "")


def accuracy(rows: Sequence[Row], protocol: str) -> str:
    """Accuracy given the scale: mean and standard deviation over seeds, the best of each size in bold."""
    cells = cells_of(rows, "protocol")
    return plain(as_markdown(cells, protocol)) if cells else NOT_MEASURED


def retained(rows: Sequence[Row], protocol: str) -> str:
    """Percent of the accuracy at the training size, mean over seeds, given the scale; the encodings with PEG first."""
    cells = [cell for cell in cells_of(rows, "protocol") if cell.protocol == protocol]
    if not cells:
        return NOT_MEASURED
    sizes = sorted({cell.size for cell in cells}, key=pixels)
    found = {(cell.encoding, cell.size): cell for cell in cells}
    order = sorted(dict.fromkeys(cell.encoding for cell in cells), key=lambda name: not has_peg(name))
    lines = {f"`{name}`": [share(found.get((name, size))) for size in sizes] for name in order}
    return lay_out(f"{protocol}, % of the accuracy at {TRAINED}", [size_label(size) for size in sizes], lines)


def share(cell: Cell | None) -> str:
    """A retained share, percent."""
    return "–" if cell is None or cell.retained is None else f"{cell.retained:.1f}"


def above(rows: Sequence[Row], protocol: str, better: str = HOLDING, sizes: Sequence[Size] = BETWEEN) -> str:
    """One encoding, given the scale, minus each without PEG, under the same scale rule and as published where that differs.

    Points on the same images, with 95 % intervals.
    """
    contrast, others = _contrasts(rows, protocol)
    lines = {
        f"`{better}` − {_quoted(other)}": [
            _text(difference(contrast, better, other, size)) for size in (TRAINED, *sizes)
        ]
        for other in others
    }
    return (
        lay_out(f"{protocol}, points", [size_label(size) for size in (TRAINED, *sizes)], lines)
        if lines
        else NOT_MEASURED
    )


def verdict(rows: Sequence[Row], protocol: str, better: str = HOLDING) -> str:
    """Which of the encodings without PEG one encoding is above and below by an interval that excludes zero, in words.

    Of the encodings with the most seeds: the interval of a single seed is over images alone.
    """
    contrast, others = _contrasts(rows, protocol)
    found = {
        (other, size): each
        for size in BETWEEN
        for other in others
        if (each := difference(contrast, better, other, size)) is not None
    }
    if not found:
        return NOT_MEASURED
    most = max(each.seeds for each in found.values())
    found = {place: each for place, each in found.items() if each.seeds == most}
    above, below = (
        [(other, size) for (other, size), each in found.items() if clear(each)]
        for clear in (lambda each: each.low > 0, lambda each: each.high < 0)
    )
    count = len({other for other, _ in found})
    return wrap(
        f"Against the encodings without PEG, with scale and as published ({count} with {most} "
        f"seed{'s' if most > 1 else ''}): `{better}`, with scale, "
        f"is above {_by_size(above)}, by intervals that exclude zero, and below {_by_size(below)}."
    )


def _by_size(places: Sequence[tuple[str, Size]]) -> str:
    """`alibi`, `rope` at 96; `alibi` at 128."""
    names: dict[Size, list[str]] = {}
    for name, size in places:
        names.setdefault(size, []).append(_quoted(name))
    return "; ".join(f"{', '.join(each)} at {size_label(size)}" for size, each in names.items()) or "none"


def _quoted(name: str) -> str:
    """An encoding in backticks, and how it was tested without: `alibi` as published."""
    encoding = name.removesuffix(PUBLISHED)
    return f"`{encoding}`{name.removeprefix(encoding)}"


def adds(rows: Sequence[Row], protocol: str, sizes: Sequence[Size] = BETWEEN) -> str:
    """What a PEG adds to each encoding that was trained with it and without, and in the mean over these encodings."""
    contrast, pairs, seeded = _pairs(rows, protocol)
    if not pairs:
        return NOT_MEASURED
    columns = (TRAINED, *sizes)
    lines = {
        f"`{with_peg}` − `{name}`": [_text(difference(contrast, with_peg, name, size)) for size in columns]
        for with_peg, name in pairs
    }
    words = f"mean of the {len(seeded)}" + (" with most seeds" if len(seeded) < len(pairs) else "")
    if len(pairs) > 1:
        lines[words] = [_text(mean_gain(contrast, seeded, size)) for size in columns]
    return lay_out(f"{protocol}, points", [size_label(size) for size in columns], lines)


def mean_gain(contrast: Contrasts, pairs: Sequence[tuple[str, str]], size: Size) -> Contrast | None:
    """What a PEG adds at a size, in the mean over encodings."""
    signed = [(name, sign) for pair in pairs for name, sign in zip(pair, (1, -1), strict=True)]
    return contrast({(f"{name} · gap", size): sign / len(pairs) for name, sign in signed})


def _pairs(rows: Sequence[Row], protocol: str) -> tuple[Contrasts, list[tuple[str, str]], list[tuple[str, str]]]:
    """Encodings with a PEG and without; all, and those with the most seeds, of which alone a mean is fair."""
    scaled = _with_scale(rows, protocol)
    seeds = {name: {row.seed for row in scaled if row.encoding == name} for name in {row.encoding for row in scaled}}
    order = [*(name for name in TABLE if name in seeds), *sorted(seeds.keys() - set(TABLE))]
    named = [("peg" if name == "none" else f"{name}+peg", name) for name in order]
    shared = {pair: set.intersection(*(seeds.get(name, set()) for name in pair)) for pair in named}
    pairs = [pair for pair, common in shared.items() if common]
    most = max((len(common) for common in shared.values()), default=0)
    return Contrasts(scaled, protocol), pairs, [pair for pair in pairs if len(shared[pair]) == most]


def difference(contrast: Contrasts, better: str, other: str, size: Size) -> Contrast | None:
    """The difference of two encodings at a size, over the seeds that both have."""
    return contrast({(f"{better} · gap", size): 1, (f"{other} · gap", size): -1})


def _contrasts(rows: Sequence[Row], protocol: str) -> tuple[Contrasts, list[str]]:
    """The rows to compare, and the encodings without PEG, each followed by itself as published."""
    compared, order = _both(rows, protocol), list(TABLE)

    def place(name: str) -> tuple[int, str]:
        encoding = name.removesuffix(PUBLISHED)
        return order.index(encoding) if encoding in order else len(order), name

    return Contrasts(compared, protocol), sorted(
        {row.encoding for row in compared if not has_peg(row.encoding)}, key=place
    )


def _both(rows: Sequence[Row], protocol: str) -> list[Row]:
    """The rows of models that were given the scale, and of those without PEG also as published, where that differs."""
    scaled = _with_scale(rows, protocol)
    rivals = dict.fromkeys(row.encoding for row in scaled if not has_peg(row.encoding))
    return [*scaled, *(row for name in rivals for row in _as_published(rows, protocol, name))]


def _as_published(rows: Sequence[Row], protocol: str, encoding: str) -> list[Row]:
    """The rows of an encoding without scale, and at the training size with scale, where that is the same; called so.

    None where every answer is the same with scale: places that are spread over the training grid are as published.
    """
    own = [row for row in rows if row.encoding == encoding and row.protocol == protocol]
    scaled = {(row.seed, row.size): row for row in own if row.scale_rule == "protocol"}
    unscaled = {(row.seed, row.size): row for row in own if row.scale_rule == "paper"}
    if all(row.hits == scaled[place].hits for place, row in unscaled.items()):
        return []
    unscaled |= {(seed, TRAINED): scaled[seed, TRAINED] for seed in {seed for seed, _ in unscaled}}
    return [replace(row, encoding=encoding + PUBLISHED, scale_rule="protocol") for row in unscaled.values()]


def _with_scale(rows: Sequence[Row], protocol: str) -> list[Row]:
    """The rows of models that were given the scale."""
    return [row for row in rows if row.scale_rule == "protocol" and row.protocol == protocol]


def _text(found: Contrast | None) -> str:
    """A difference; a star where it is of one seed and its interval over images alone."""
    return "–" if found is None else f"{found}{' *' if found.seeds == 1 else ''}"


def recipes(rows: Sequence[Row], others: Mapping[str, Sequence[Row]]) -> str:
    """Accuracy of encodings trained in several ways, and each way minus the trainings at one size, given the scale.

    others: words for a way to train -> its rows. The shorter training at one size is shown with the seeds of the others.
    """
    scaled = {words: _with_scale(own, "resize") for words, own in others.items()}
    tried = {(row.encoding, row.seed) for own in scaled.values() for row in own}
    ways = {SINGLE: [row for row in _with_scale(rows, "resize") if (row.encoding, row.seed) in tried], **scaled}
    encodings = dict.fromkeys(row.encoding for own in ways.values() for row in own)
    named = [
        _called(row, words) for name in encodings for words, own in ways.items() for row in own if row.encoding == name
    ]
    if not named:
        return NOT_MEASURED
    contrast, sizes = Contrasts(named, "resize"), sorted({row.size for row in named}, key=pixels)
    pairs = {
        f"{name}, {words} − {base}": (f"{name}, {words}", f"{name}, {base}")
        for name in encodings
        for base in (SINGLE, LONGER)
        for words in scaled
        if words != base
    }
    found = {label: [difference(contrast, *pair, size) for size in sizes] for label, pair in pairs.items()}
    lines = {label: [_text(each) for each in line] for label, line in found.items() if any(line)}
    table = plain(as_markdown(summarise(named), "resize"))
    return f"{table}\n\n{lay_out('points', [size_label(size) for size in sizes], lines)}"


def _called(row: Row, words: str) -> Row:
    """A row whose encoding's name says how it was trained."""
    return replace(row, encoding=f"{row.encoding}, {words}", train_sizes=(), initial_weights="")


def recipe_rows() -> dict[str, list[Row]]:
    """Words for a way to train -> its rows."""
    paths = {words: HERE / "recipes" / f"{name}.jsonl" for name, words in RECIPES.items()}
    return {words: read_rows(path) for words, path in paths.items() if path.exists()}


def brief(rows: Sequence[Row], others: Mapping[str, Sequence[Row]]) -> str:
    """The README's table: PEG as published and with scale, its best rival, and several sizes in training; in whole percent."""
    longer, then = (others.get(RECIPES[way], []) for way in ("longer", "then"))
    compared = _both(rows, "resize")
    rival = _rival(compared)
    lines = {
        "`peg`, as published": _brief_line(rows, "peg", "paper"),
        "`peg`, with the object scale": _brief_line(rows, "peg", "protocol"),
        f"{_quoted(rival)}, the best without PEG": _brief_line(compared, rival, "protocol"),
        f"`{HOLDING}`, with the scale": _brief_line(rows, HOLDING, "protocol"),
        f"the same, trained {LONGER}": _brief_line(longer, HOLDING, "protocol"),
        f"the same, trained {RECIPES['then']}": _brief_line(then, HOLDING, "protocol"),
    }
    return lay_out("accuracy, %, at", [*map(size_label, (TRAINED, *BETWEEN)), "seeds"], lines)


def _rival(rows: Sequence[Row]) -> str:
    """Of the encodings without PEG that have most seeds, with scale or as published, the one best at the larger sizes."""
    cells = [cell for cell in summarise(rows) if not has_peg(cell.encoding) and cell.size in BETWEEN]
    most = max((len(cell.seeds) for cell in cells), default=0)
    sums: dict[str, float] = {}
    for cell in cells:
        if len(cell.seeds) == most:
            sums[cell.encoding] = sums.get(cell.encoding, 0.0) + cell.mean
    return max(sums, key=sums.__getitem__, default="–")


def _brief_line(rows: Sequence[Row], encoding: str, rule: str) -> list[str]:
    """The accuracies of an encoding under one scale rule, and how many seeds they are of; rules agree at 64."""
    named = [row for row in rows if row.encoding == encoding and row.protocol == "resize"]
    own = [row for row in named if row.scale_rule in (rule, "protocol")]
    means = {cell.size: cell.mean for cell in summarise(own) if cell.scale_rule == rule or cell.size == TRAINED}
    texts = [f"{means[size]:.0f}" if size in means else "–" for size in (TRAINED, *BETWEEN)]
    return [*texts, str(len({row.seed for row in own if row.scale_rule == rule}))]


def gains(rows: Sequence[Row]) -> str:
    """What a PEG adds in the mean over the encodings with most seeds, and where it takes accuracy, in words."""
    contrast, pairs, seeded = _pairs(rows, "resize")
    means = [mean_gain(contrast, seeded, size) for size in BETWEEN]
    added = ", ".join(f"{each.points:.1f}" if each else "–" for each in means)
    names = ", ".join(_quoted(name) for _, name in seeded)
    harmed = [
        _quoted(name) for with_peg, name in pairs if any(_takes(contrast, with_peg, name, size) for size in BETWEEN)
    ]
    text = f"A PEG adds {added} points at {', '.join(map(str, BETWEEN))}, in the mean of {names}"
    return wrap(text + (f"; it takes accuracy from {', '.join(harmed)}." if harmed else "."))


def _takes(contrast: Contrasts, with_peg: str, name: str, size: Size) -> bool:
    found = difference(contrast, with_peg, name, size)
    return found is not None and found.high < 0


def tables() -> dict[str, str]:
    """Name of a marker -> what stands there."""
    rows, scaled, crops = (read_rows(HERE / f"{name}.jsonl") for name in ("rows", "distances", "crops"))
    trained = recipe_rows()
    return {
        "brief": f"{brief(rows, trained)}\n\n{gains(rows)}",
        "verdict": verdict(rows, "resize"),
        "resize": accuracy(rows, "resize"),
        "retained": retained(rows, "resize"),
        "with scale": plain(before_after([*rows, *scaled], "resize", BETWEEN)) or NOT_MEASURED,
        "above": above(rows, "resize"),
        "adds": adds(rows, "resize"),
        "recipes": recipes(rows, trained),
        "recipes adds": adds(trained.get(RECIPES["then"], []), "resize"),
        "crops": accuracy(crops, "canvas"),
        "crops with scale": plain(before_after(crops, "canvas", (80, 96, 112))) or NOT_MEASURED,
    }


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(), tables()))
    README.write_text(fill(README.read_text(), {"imagenette": brief(read_rows(HERE / "rows.jsonl"), recipe_rows())}))
