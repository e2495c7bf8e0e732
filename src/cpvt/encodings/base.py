"""The one interface of every positional encoding: three hooks, each of which does nothing unless overridden."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from cpvt.grids import Grid, Layout, Scale, check_pack, check_tokens


class ModelShape(NamedTuple):
    """What an encoding may know of the model it is built for."""

    dim: int  # width of a token
    depth: int  # number of blocks
    num_heads: int
    grid: Grid  # the grid of the training size
    scale_grid: Grid | None = None  # the grid at which the scale is 1, where it is another

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


SYMMETRIES = {  # name -> what it says; cpvt.testing measures what an encoding declares
    "permutation": "any order of the tokens: no position is encoded at all",
    "transpose": "rows and columns exchanged: the two axes mean the same",
    "flip": "rows or columns in reverse: only distances count, not directions",
}


class PositionalEncoding(nn.Module):
    """Tells a transformer where its tokens stand; subclasses override the hooks they need.

    at: the depths at which `tokens` is called: 0 = on the patch embeddings, d = after block d.
    Hooks never see prefix tokens. The paper's position "0" of a PEG is `at=(1,)` here, its "-1" is `at=(0,)`.
    scale, in hooks: how many tokens an object covers along rows and columns, for each that it covered in training;
    None: nothing is said. A hook of one's own that has no such parameter is called without it.
    symmetries: what is declared is measured by `cpvt.testing.check_encoding`, and so is what is not.
    Besides the hooks there are a few methods for models that change after they are built. Most encodings need none.
    """

    at: tuple[int, ...] = ()
    dim: int | None = None
    """Width of the tokens that it was built for, where other widths are to be refused."""
    symmetries: frozenset[str] = frozenset()
    """Which of SYMMETRIES the encoding has: moving the tokens so only moves the outputs likewise."""
    scaled_hooks: ClassVar[frozenset[str]] = frozenset()
    """The hooks that take a scale."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        hooks = {name: inspect.signature(getattr(cls, name)).parameters for name in ("tokens", "rotation", "bias")}
        cls.scaled_hooks = frozenset(name for name, parameters in hooks.items() if "scale" in parameters)

    def tokens(self, x: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        """Return the tokens (B, N, D) with positions in them; may look at the content."""
        return x

    def rotation(self, grid: Grid, device: torch.device, scale: Scale | None = None) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine, (N, d) each in float32, by which queries and keys are turned; once per forward."""
        return None

    def bias(self, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor | None:
        """What is added to the attention logits of block `depth`, counted from 1, (heads, N, N); once per block."""
        return None

    def call_hook(self, name: str, *arguments: Any, scale: Scale | None) -> Any:
        """What a hook returns, told the scale if it takes one."""
        return getattr(self, name)(*arguments, *([scale] if name in self.scaled_hooks else []))

    def forward(self, x: Tensor, layout: Layout, depth: int) -> Tensor:
        """Apply `tokens` at this depth to the patches of a batch (B, P + N, D), or of each image of a pack (1, T, D).

        The prefix passes by untouched. Raises ValueError for tokens of another count than the layout's, or of another
        width than `dim`.
        """
        if depth not in self.at:
            return x
        prefix_tokens = layout.prefix_tokens
        if layout.packed:
            check_pack(x, layout.grids, prefix_tokens, self.dim)
            batches = zip(layout.groups, layout.split(x))
            parts = [self(part, Layout((each.grid,), prefix_tokens, (each.scale,)), depth) for each, part in batches]
            return torch.cat([part.flatten(0, 1) for part in parts])[None]
        x = check_tokens(x, layout.grid, prefix_tokens, self.dim)
        (h, w), scale, _ = layout.groups[0]
        prefix, patches = x.split([prefix_tokens, h * w], dim=1) if prefix_tokens else (None, x)
        patches = self.call_hook("tokens", patches, (h, w), depth, scale=scale)
        return patches if prefix is None else torch.cat([prefix, patches], dim=1)

    def layers(self) -> dict[str, int]:
        """Map names to depths, of each submodule that `tokens` calls at one depth and each parameter of one block.

        Parameters that are not named, and in no submodule that is, serve the whole model.
        """
        return {}

    def reset_parameters(self) -> None:
        """Draw fresh weights; an encoding with parameters of its own draws them here."""
        for module in self.modules():
            if module is not self and callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    def set_grid(self, grid: Grid) -> dict[str, Any]:
        """Take another grid for the training grid, without another answer there.

        Returns the options by which the encoding as it is now would be built for that grid.
        """
        return {}

    def prune(self, depth: int) -> dict[str, Any]:
        """Drop what serves blocks after `depth`, or is applied after them; returns options as `set_grid` does."""
        return {}


def spread_coordinates(length: int, training_length: int, device: torch.device, scale: float) -> Tensor:
    """Places of `length` tokens spread over the training axis, as resizing a table spreads them, (length,) float32.

    (i + 0.5) * training_length / length - 0.5: at the training length these are 0, 1, 2, ...
    """
    places = torch.arange(length, device=device, dtype=torch.float32)
    return (places + 0.5) * (training_length / length) - 0.5


def raw_coordinates(length: int, training_length: int, device: torch.device, scale: float) -> Tensor:
    """Places 0, 1, 2, ... whatever the training length was; longer axes reach places never trained."""
    return torch.arange(length, device=device, dtype=torch.float32)


def object_coordinates(length: int, training_length: int, device: torch.device, scale: float) -> Tensor:
    """Places in tokens of the training size: (i + 0.5) / scale - 0.5, which at scale 1 is 0, 1, 2, ..."""
    places = torch.arange(length, device=device, dtype=torch.float32)
    return (places + 0.5) / scale - 0.5


COORDINATES = {"scaled": spread_coordinates, "told": object_coordinates, "raw": raw_coordinates}


def find_coordinates(rule: str, shape: ModelShape, grid: Grid | None = None) -> Coordinates:
    """The rule for coordinates, on `grid` or that of the model; ValueError unless it is one of COORDINATES."""
    if rule not in COORDINATES:
        raise ValueError(f"coordinates must be one of {', '.join(COORDINATES)}; got '{rule}'")
    check_grid(grid)
    return Coordinates(rule, grid or shape.scale_grid or shape.grid)


def check_grid(grid: Grid | None) -> None:
    """Raise ValueError unless `grid` is None or rows and columns."""
    sides = grid if isinstance(grid, (tuple, list)) else (grid,)
    if grid is not None and not (len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)):
        raise ValueError(f"grid must be rows and columns, 1 or more each, as in grid=(14, 14); got {grid}")


class Coordinates(NamedTuple):
    """Where the tokens of any grid stand on the grid of training, by one of the rules in COORDINATES."""

    rule: str
    training_grid: Grid

    def axes(self, grid: Grid, device: torch.device, scale: Scale | None) -> tuple[Tensor, Tensor]:
        """Places of the rows, (h,), and of the columns, (w,), float32."""
        place = COORDINATES["scaled" if self.rule == "told" and scale is None else self.rule]
        (h, w), (before_h, before_w), scale = grid, self.training_grid, (1.0, 1.0) if scale is None else scale
        return place(h, before_h, device, scale[0]), place(w, before_w, device, scale[1])

    def angles(
        self, grid: Grid, device: torch.device, scale: Scale | None, base: float, count: int
    ) -> tuple[Tensor, Tensor]:
        """Row and column of every token times each frequency base^(-i / count), (N, count) float32 each."""
        rows, columns = self.axes(grid, device, scale)
        frequency = base ** -(torch.arange(count, device=device, dtype=torch.float32) / count)
        h, w = grid
        rows, columns = rows[:, None].expand(h, w).reshape(-1), columns[None, :].expand(h, w).reshape(-1)
        return rows[:, None] * frequency, columns[:, None] * frequency
