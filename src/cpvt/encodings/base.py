"""The one interface of every positional encoding: three hooks, each of which does nothing unless overridden."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cpvt.grids import Grid, Layout, check_pack, check_tokens


class ModelShape(NamedTuple):
    """What an encoding may know of the model it is built for."""

    dim: int  # width of a token
    depth: int  # number of blocks
    num_heads: int
    grid: Grid  # the grid of the training size

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
    symmetries: what is declared is measured by `cpvt.testing.check_encoding`, and so is what is not.
    Besides the hooks there are a few methods for models that change after they are built. Most encodings need none.
    """

    at: tuple[int, ...] = ()
    dim: int | None = None
    """Width of the tokens that it was built for, where other widths are to be refused."""
    symmetries: frozenset[str] = frozenset()
    """Which of SYMMETRIES the encoding has: moving the tokens so only moves the outputs likewise."""

    def tokens(self, x: Tensor, grid: Grid, depth: int) -> Tensor:
        """Return the tokens (B, N, D) with positions in them; may look at the content."""
        return x

    def rotation(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine, (N, d) each in float32, by which queries and keys are turned; once per forward."""
        return None

    def bias(self, grid: Grid, depth: int) -> Tensor | None:
        """What is added to the attention logits of block `depth`, counted from 1, (heads, N, N); once per block."""
        return None

    def forward(self, x: Tensor, layout: Layout, depth: int) -> Tensor:
        """Apply `tokens` at this depth to the patches of a batch (B, P + N, D), or of each image of a pack (1, T, D).

        The prefix passes by untouched. Raises ValueError for tokens of another count than the layout's, or of another
        width than `dim`.
        """
        if depth not in self.at:
            return x
        if layout.packed:
            check_pack(x, layout.grids, layout.prefix_tokens, self.dim)
            batches = zip(layout.groups, layout.split(x))
            parts = [self(part, Layout((grid,), layout.prefix_tokens), depth) for (grid, _), part in batches]
            return torch.cat([part.flatten(0, 1) for part in parts])[None]
        x = check_tokens(x, layout.grid, layout.prefix_tokens, self.dim)
        if layout.prefix_tokens == 0:
            return self.tokens(x, layout.grid, depth)
        h, w = layout.grid
        prefix, patches = x.split([layout.prefix_tokens, h * w], dim=1)
        return torch.cat([prefix, self.tokens(patches, layout.grid, depth)], dim=1)

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


def scaled_coordinates(length: int, training_length: int, device: torch.device) -> Tensor:
    """Places of `length` tokens on an axis that had `training_length` in training, (length,) float32.

    Token centres are spread over the training axis as interpolating a table spreads them:
    (i + 0.5) * training_length / length - 0.5. At the training length these are 0, 1, 2, ...
    """
    places = torch.arange(length, device=device, dtype=torch.float32)
    return (places + 0.5) * (training_length / length) - 0.5


def raw_coordinates(length: int, training_length: int, device: torch.device) -> Tensor:
    """Places 0, 1, 2, ... whatever the training length was; longer axes reach places never trained."""
    return torch.arange(length, device=device, dtype=torch.float32)


COORDINATES = {"scaled": scaled_coordinates, "raw": raw_coordinates}


def check_coordinates(name: str) -> None:
    """Raise ValueError unless `name` is a known rule for coordinates."""
    if name not in COORDINATES:
        raise ValueError(f"coordinates must be one of {', '.join(COORDINATES)}; got '{name}'")


def check_grid(grid: Grid | None) -> None:
    """Raise ValueError unless `grid` is None or rows and columns."""
    sides = grid if isinstance(grid, (tuple, list)) else (grid,)
    if grid is not None and not (len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)):
        raise ValueError(f"grid must be rows and columns, 1 or more each, as in grid=(14, 14); got {grid}")


def grid_coordinates(grid: Grid, training_grid: Grid, rule: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every token of the grid, (N,) each, by one of the rules in COORDINATES."""
    h, w = grid
    rows = COORDINATES[rule](h, training_grid[0], device)
    columns = COORDINATES[rule](w, training_grid[1], device)
    return rows[:, None].expand(h, w).reshape(-1), columns[None, :].expand(h, w).reshape(-1)


def grid_angles(
    grid: Grid, training_grid: Grid, rule: str, base: float, count: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row and column of every token times each frequency base^(-i / count), (N, count) float32 each."""
    rows, columns = grid_coordinates(grid, training_grid, rule, device)
    frequency = base ** -(torch.arange(count, device=device, dtype=torch.float32) / count)
    return rows[:, None] * frequency, columns[:, None] * frequency
