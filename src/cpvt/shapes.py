"""Where tokens are: the legend of shape letters, and the check that tokens and grid agree.

Letters used in every shape comment of this package:

    B  pictures in a batch          C  channels of a picture
    H  height of a picture, pixels  W  width of a picture, pixels
    h  rows of the grid of tokens   w  columns of the grid of tokens
    N  tokens of the grid, h * w    P  prefix tokens (class token, registers)
    D  width of a token             d  width of a token in one head
    k  side of a kernel             t  frames of a film, the first axis of its grid (t, h, w)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Grid = tuple[int, int]  # (h, w): rows, then columns; tokens are in row-major order
AnyGrid = tuple[int, ...]  # (n,), (h, w) or (t, h, w)


class Layout(NamedTuple):
    """Says which tokens of a sequence form the picture: those after the prefix, row by row on a grid."""

    grid: Grid
    prefix_tokens: int = 0


def check_tokens(shape: Sequence[int], grid: AnyGrid, prefix_tokens: int = 0) -> None:
    """Raise ValueError unless tokens of this shape are P prefix tokens followed by the grid, row by row."""
    count = math.prod(grid)
    if len(shape) != 3 or shape[1] != prefix_tokens + count:
        prefix = f"{prefix_tokens} prefix tokens and " if prefix_tokens else ""
        name = "x".join(str(side) for side in grid)
        raise ValueError(
            f"{prefix}a {name} grid needs tokens of shape (B, {prefix_tokens + count}, D); got {tuple(shape)}"
        )
