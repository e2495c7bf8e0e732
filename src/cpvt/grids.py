"""Where tokens are: the legend of shape letters, and the check that tokens and grid agree.

Letters used in every shape comment of this package:

    B  images in a batch          C  channels of an image
    T  tokens of a pack: images of several sizes end to end, as (1, T, D)
    H  height of an image, pixels  W  width of an image, pixels
    h  rows of the grid of tokens   w  columns of the grid of tokens
    N  tokens of the grid, h * w    P  prefix tokens (class token, registers)
    D  width of a token             d  width of a token in one head
    k  side of a kernel             t  frames of a video, the first axis of its grid (t, h, w)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

Grid = tuple[int, int]  # (h, w): rows, then columns; tokens are in row-major order
AnyGrid = tuple[int, ...]  # (n,), (h, w) or (t, h, w)
Scale = tuple[
    float, float
]  # along rows and columns: tokens that an object covers, for each that it covered in training


class Group(NamedTuple):
    """A stretch of images of a pack with equal grids and scales; or a batch, counted as one."""

    grid: Grid
    scale: Scale | None  # None where nothing is said
    images: int


class Layout(NamedTuple):
    """Says which tokens form which image: the prefix first, then the patches, row by row on a grid.

    One grid: tokens are a batch (B, P + N, D), and every image of it has that grid.
    Several, one for each image: tokens are a pack (1, T, D), the images end to end, each after its own prefix and
    images of equal grids side by side.
    scales: how much larger objects are than in training, for each grid; None where nothing is said.
    """

    grids: tuple[Grid, ...]
    prefix_tokens: int = 0
    scales: tuple[Scale | None, ...] | None = None

    @property
    def packed(self) -> bool:
        """Whether tokens are a pack."""
        return len(self.grids) > 1

    @property
    def grid(self) -> Grid:
        """The one grid of a batch; ValueError for a pack."""
        if self.packed:
            raise ValueError(f"a pack of {len(self.grids)} images has no one grid; use `grids` or `groups`")
        return self.grids[0]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each image, prefix included."""
        return [self.prefix_tokens + h * w for h, w in self.grids]

    @property
    def groups(self) -> list[Group]:
        """Each stretch of images with equal grids and scales; for a batch its grid, once."""
        scales = self.scales or [None] * len(self.grids)
        if not self.packed:
            return [Group(self.grids[0], scales[0], 1)]
        return [Group(*alike, len(list(images))) for alike, images in groupby(zip(self.grids, scales))]

    def split(self, x: Tensor) -> list[Tensor]:
        """A pack (1, T, ...) as one batch (images, P + N, ...) for each of `groups`, without a copy."""
        groups = self.groups
        tokens = [each.images * (self.prefix_tokens + each.grid[0] * each.grid[1]) for each in groups]
        return [part.unflatten(0, (each.images, -1)) for part, each in zip(x[0].split(tokens), groups)]


def check_tokens(tokens: Tensor, grid: AnyGrid, prefix_tokens: int = 0, width: int | None = None) -> Tensor:
    """The tokens, unchanged; ValueError unless they are P prefix tokens followed by the grid, row by row.

    width: the D that whatever takes the tokens was built for, where it matters.
    """
    check_sides(grid, prefix_tokens)
    count = prefix_tokens + math.prod(grid)
    if tokens.ndim != 3 or tokens.shape[1] != count:
        prefix = f"{prefix_tokens} prefix tokens and " if prefix_tokens else ""
        name = "x".join(str(side) for side in grid)
        raise ValueError(f"{prefix}a {name} grid needs tokens of shape (B, {count}, D); got {tuple(tokens.shape)}")
    return check_width(tokens, width)


def check_pack(tokens: Tensor, grids: Sequence[AnyGrid], prefix_tokens: int = 0, width: int | None = None) -> Tensor:
    """As `check_tokens`, for a pack (1, T, D): the images end to end, each as P prefix tokens and its grid."""
    if not grids:
        raise ValueError("a pack needs at least one grid; got none")
    for grid in grids:
        check_sides(grid, prefix_tokens)
    count = sum(prefix_tokens + math.prod(grid) for grid in grids)
    if tokens.ndim != 3 or tokens.shape[0] != 1 or tokens.shape[1] != count:
        raise ValueError(f"these {len(grids)} grids need tokens of shape (1, {count}, D); got {tuple(tokens.shape)}")
    return check_width(tokens, width)


def check_sides(grid: AnyGrid, prefix_tokens: int = 0) -> None:
    """Raise ValueError unless a grid is a tuple of sides, 1 or more each, and prefix tokens are none or more."""
    if not isinstance(grid, (tuple, list)) or any(isinstance(side, float) or side < 1 for side in grid):
        raise ValueError(f"a grid is the number of tokens along each axis, as in grid=(14, 14); got {grid}")
    if prefix_tokens < 0:
        raise ValueError(f"prefix_tokens is the number of tokens before the grid, 0 or more; got {prefix_tokens}")


def per_axis(value: Any, axes: int, name: str = "scale") -> tuple[float, ...]:
    """One number for each axis, from one number or as many; ValueError unless each is 1 or more.

    Numbers in a graph that torch compiles or exports may be of any value, and pass unchecked.
    """
    if type(value) is int and value == 1:
        return (1,) * axes
    import torch  # not before it is needed

    compiling = torch.compiler.is_compiling()
    if isinstance(value, torch.Tensor) and value.ndim:
        value = value.unbind()
    numbers = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
    if not compiling:
        numbers = tuple(number.item() if isinstance(number, torch.Tensor) else number for number in numbers)
    if len(numbers) != axes or not (compiling or all(_is_one_or_more(number) for number in numbers)):
        raise ValueError(
            f"{name} must be 1 or more, one number or one for each of {axes} {'axes' if axes > 1 else 'axis'}; "
            f"got {value!r}"
        )
    return numbers


def _is_one_or_more(number: Any) -> bool:
    return isinstance(number, Real) and not isinstance(number, bool) and 1 <= float(number) < math.inf


def check_scale(scale: Any, grid: AnyGrid) -> tuple[float, ...]:
    """The scale of objects along each axis of a grid, from one number or one for each axis, 1 or more.

    A scale says how many tokens an object covers for each that it covered in training. ValueError for one above the
    side of the grid, where an object of one token would no longer fit. Unchecked in graphs, as `per_axis`.
    """
    scales = per_axis(scale, len(grid), "scale")
    if all(type(along) is int and along == 1 for along in scales):
        return scales
    import torch

    if torch.compiler.is_compiling():
        return scales
    for number, (side, along) in enumerate(zip(grid, scales)):
        if along > side:
            name = "x".join(str(side) for side in grid)
            axis = ("the rows", "the columns")[number] if len(grid) == 2 else f"axis {number}"
            raise ValueError(
                f"scale must be 1 or more and no more than the grid can hold: along {axis} a {name} grid has "
                f"{side} tokens; got {along}. Pass one number for each axis, as (1, 2) for a grid of one row"
            )
    return scales


def check_width(tokens: Tensor, width: int | None) -> Tensor:
    """The tokens (..., D), unchanged; ValueError unless they are of this width, where it is given."""
    if width is not None and tokens.shape[-1] != width:
        raise ValueError(
            f"the encoding was built for tokens of width {width}; got tokens {tuple(tokens.shape)} of width "
            f"{tokens.shape[-1]}"
        )
    return tokens


def patch_count(sides: Sequence[int], patch_size: int) -> int:
    """Patches that cover an image (..., H, W), its last row and column padded where the patch does not divide it."""
    return -(-sides[-2] // patch_size) * -(-sides[-1] // patch_size)


def within_budget(items: Iterable[T], tokens: Callable[[T], int], budget: int) -> Iterator[list[T]]:
    """Cut a stream into lists of at most `budget` tokens together; an item above it makes a list of its own."""
    if budget < 1:
        raise ValueError(f"a budget of tokens is 1 or more; got {budget}")
    pack: list[T] = []
    filled = 0
    for item in items:
        count = tokens(item)
        if pack and filled + count > budget:
            yield pack
            pack, filled = [], 0
        pack.append(item)
        filled += count
    if pack:
        yield pack
