"""The object scale of each image of a call, and the temperature of attention that goes with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cpvt.config.scale import ScaleRule, fit_factor, parse_scale
from cpvt.grids import Grid, Scale, check_scale

Temperature = float | Tensor | None  # None: logits stay as they are


def spread_rules(scale: Any, count: int, default: ScaleRule) -> list[ScaleRule]:
    """A rule for each of `count` images, from one for all or a list; ValueError for a list of another length."""
    if not isinstance(scale, list):
        return [rule_of(scale, default)] * count
    if len(scale) != count:
        raise ValueError(f"a list of scales needs one for each image; got {len(scale)} scales for {count} images")
    return [parse_scale(each) for each in scale]


def rule_of(scale: Any, default: ScaleRule) -> ScaleRule:
    """The rule that a call passes, else the default; ValueError for none that exists.

    In a graph numbers may be of any value, and pass unchecked.
    """
    if scale is None:
        return default
    return scale if torch.compiler.is_compiling() and not isinstance(scale, str) else parse_scale(scale)


def refuse_scale(images: Tensor, scale: Any) -> Tensor:
    """The images, unchanged; ValueError for a scale given to a traced graph, which keeps the model's rule."""
    if scale is not None:
        raise ValueError(f"a traced model keeps the rule that it was traced with (model.scale); got scale={scale!r}")
    return images


def find_scale(rule: ScaleRule, grid: Grid, scale_grid: Grid, training_grid: Grid | None = None) -> Scale | None:
    """The scale along rows and columns; below 1 where an image to be fitted is smaller than in training.

    scale_grid: the grid at which it is 1. training_grid: that of the training size, where it was changed later.
    None where the rule says nothing. Raises ValueError for a number that the grid cannot hold.
    """
    if not isinstance(rule, str):  # in a graph it may be a number of any value
        rows, columns = check_scale(rule, grid)
        return rows, columns
    if rule == "paper":
        return None
    if rule == "pixels":
        if training_grid is None or training_grid == scale_grid:
            return 1, 1  # whole ones are constants in a graph, whose PEG stays one convolution
        return training_grid[0] / scale_grid[0], training_grid[1] / scale_grid[1]
    factor = fit_factor(rule) or 1.0
    return factor * (grid[0] / scale_grid[0]), factor * (grid[1] / scale_grid[1])


def find_temperature(grid: Grid, scale: Scale | None, training_grid: Grid) -> Temperature:
    """What attention logits are multiplied by: max(1, ln(N / (s_h s_w)) / ln N0), N tokens now and N0 in training.

    More distinct tokens flatten a softmax, copies of one token do not. In a graph it is a tensor, so that one graph
    serves every size. None where nothing is said of the scale.
    """
    if scale is None:
        return None
    in_training = math.prod(training_grid)
    distinct: Any = grid[0] * grid[1] / (torch.sym_max(1.0, scale[0]) * torch.sym_max(1.0, scale[1]))
    if in_training == 1:
        return 1.0
    if torch.compiler.is_compiling():
        return ((torch.ones(()) * distinct).log() / math.log(in_training)).clamp(min=1.0)
    return max(1.0, math.log(distinct) / math.log(in_training))


def is_list(images: Any, scale: Any) -> bool:
    """Whether each image of a call has its own size or scale."""
    return isinstance(images, (list, tuple)) or isinstance(scale, list)
