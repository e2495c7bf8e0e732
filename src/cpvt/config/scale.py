"""The object scale: how many tokens an object covers, for each that it covered in training; and the rules for it."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

ScaleRule = str | float | tuple[float, float]  # a name of RULES, a number of 1 or more, or one for rows and for columns

RULES = {
    "paper": "no scale: every encoding as published, PEG at scale 1, attention without a temperature",
    "pixels": "objects have the size in pixels that they had in training: 1",
    "fit": "the image shows what training images showed: its grid divided by the training grid, along each axis",
}
TEST_RULES = {
    "protocol": "what is true under the protocol: resize 'fit', canvas 'pixels', native the model's own rule",
    "auto": "the scale of the lowest entropy of the model's answers",
}
FACTOR = "fit*"  # and a number: as "fit", times a factor above 0 and at most 1


def parse_scale(scale: Any, *others: str) -> ScaleRule:
    """Read a rule from code or the command line: 'pixels', 'fit', 'fit*0.9', 2.0, (1.5, 2.0) or '1.5x2'.

    Raises ValueError for a rule that does not exist (the known ones are listed, and `others`) and for numbers below 1.
    """
    if getattr(scale, "ndim", None) == 0:  # of NumPy or PyTorch
        scale = scale.item()
    if isinstance(scale, str):
        if scale in RULES:
            return scale
        if scale.startswith(FACTOR) and 0 < _number(scale.removeprefix(FACTOR)) <= 1:
            return scale
        numbers = [_number(part) for part in scale.split("x")]
    else:
        given = scale if isinstance(scale, (tuple, list)) else (scale,)
        numbers = [float(each) if isinstance(each, Real) and not isinstance(each, bool) else math.nan for each in given]
    if len(numbers) not in (1, 2) or any(math.isnan(number) for number in numbers):
        raise ValueError(
            f"scale must be {', '.join((*RULES, *others))}, fit*FACTOR such as fit*0.9, a number of 1 or more, or rows "
            f"and columns such as 1.5x2; got {scale!r}"
        )
    if not all(1 <= number < math.inf for number in numbers):
        raise ValueError(
            f"scale must be 1 or more: how many tokens an object covers, for each that it covered in training; got "
            f"{scale!r}"
        )
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def fit_factor(rule: ScaleRule) -> float | None:
    """The factor of the rule 'fit' or 'fit*FACTOR'; None for other rules."""
    if not isinstance(rule, str) or not rule.startswith("fit"):
        return None
    return float(rule.removeprefix(FACTOR)) if rule != "fit" else 1.0


def parse_test_rule(scale: Any) -> ScaleRule:
    """Read the scale rule of a test or prediction: 'protocol', 'auto', or what `parse_scale` reads."""
    return scale if isinstance(scale, str) and scale in TEST_RULES else parse_scale(scale, *TEST_RULES)


def scale_at(rule: ScaleRule, size: tuple[int, int], train_size: tuple[int, int]) -> tuple[float, float]:
    """The scale along rows and columns that a rule gives at a size (height, width), at least 1."""
    factor = fit_factor(rule)
    if factor is not None:
        return max(1.0, factor * size[0] / train_size[0]), max(1.0, factor * size[1] / train_size[1])
    rows, columns = rule if isinstance(rule, tuple) else (1.0, 1.0) if isinstance(rule, str) else (rule, rule)
    return rows, columns


def scale_label(scale: ScaleRule) -> str:
    """A rule or a scale as text: 'fit', '2', or '1.5x2' for rows and columns."""
    if isinstance(scale, str):
        return scale
    rows, columns = scale if isinstance(scale, tuple) else (scale, scale)
    return f"{rows:.6g}" if rows == columns else f"{rows:.6g}x{columns:.6g}"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
