"""The one interface of every positional encoding: hooks, each of which does nothing unless overridden."""

from __future__ import annotations

import inspect
import math
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


HOOKS = ("tokens", "rotation", "block_rotation", "bias", "query_bias", "value_encoding")
Pair = tuple[Tensor, Tensor]


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
    per_block: tuple[str, ...] = ()
    """Names of its lists of modules or parameters that hold one for each block."""
    symmetries: frozenset[str] = frozenset()
    """Which of SYMMETRIES the encoding has: moving the tokens so only moves the outputs likewise."""
    active_hooks: frozenset[str] = frozenset()
    """The hooks that the encoding overrides; the others are never called."""
    accepted: ClassVar[dict[str, frozenset[str]]] = {}
    """Which of 'scale' and 'device' each hook takes by keyword."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = (name for name in HOOKS if getattr(cls, name) is not getattr(PositionalEncoding, name))
        cls.active_hooks = frozenset(own)
        parameters = {name: inspect.signature(getattr(cls, name)).parameters for name in HOOKS}
        cls.accepted = {name: frozenset({"scale", "device"} & set(parameters[name])) for name in HOOKS}

    def tokens(self, x: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor:
        """Return the tokens (B, N, D) with positions in them; may look at the content."""
        return x

    def rotation(self, grid: Grid, device: torch.device, scale: Scale | None = None) -> Pair | None:
        """Cosine and sine, (N, d) each in float32, by which queries and keys are rotated; once per forward."""
        return None

    def block_rotation(self, rotation: Pair, depth: int) -> Pair:
        """Cosine and sine of block `depth`, counted from 1, (N, d) or (heads, N, d), from what `rotation` returned.

        Where it is overridden, `rotation` may return any two tensors that all blocks share, such as coordinates.
        """
        return rotation

    def bias(
        self, grid: Grid, depth: int, scale: Scale | None = None, device: torch.device | None = None
    ) -> Tensor | None:
        """What is added to the attention logits of block `depth`, counted from 1, (heads, N, N); once per block.

        device: that of the tokens; a hook of one's own that has no such parameter is called without it.
        """
        return None

    def query_bias(self, query: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor | None:
        """As `bias`, where it depends on the queries: (B, heads, N, d) -> (B, heads, N, N).

        Queries come before any rotation, and scaled as in the product with the keys: by d^-0.5 and the temperature.
        """
        return None

    def value_encoding(self, value: Tensor, grid: Grid, depth: int, scale: Scale | None = None) -> Tensor | None:
        """What is added to the output of attention in block `depth`, from its values (B, N, D), heads side by side."""
        return None

    def call_hook(self, name: str, *arguments: Any, **more: Any) -> Any:
        """What a hook returns, given the scale and the device if it takes them."""
        return getattr(self, name)(*arguments, **{key: more[key] for key in more if key in self.accepted[name]})

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
        found = self.call_hook("tokens", patches, (h, w), depth, scale=scale)
        found = check_returned(found, patches, type(self).__name__)
        return found if prefix is None else torch.cat([prefix, found], dim=1)

    def layers(self) -> dict[str, int]:
        """Map names to depths, of each submodule that a hook calls at one depth and each parameter of one block.

        Parameters that are not named, and in no submodule that is, serve the whole model.
        """
        lists = {name: len(getattr(self, name)) for name in self.per_block}
        return {f"{name}.{number}": number + 1 for name, count in lists.items() for number in range(count)}

    def outputs(self) -> dict[int, str]:
        """Map depths to the submodule whose output `tokens` returns there, for those where there is one."""
        modules = {name for name, _ in self.named_modules() if name.split(".")[0] not in self.per_block}
        return {depth: name for name, depth in self.layers().items() if name in modules and depth in self.at}

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
        for name in self.per_block:
            setattr(self, name, getattr(self, name)[:depth])
        return {}


def check_returned(tokens: Tensor, given: Tensor, name: str) -> Tensor:
    """The tokens that an encoding of this name returned, unchanged; ValueError where their shape is not as given."""
    if not torch.compiler.is_compiling() and tokens.shape != given.shape:
        raise ValueError(
            f"`tokens` of {name} must return tokens of the shape that it was given, {tuple(given.shape)}; got "
            f"{tuple(tokens.shape)}"
        )
    return tokens


def check_positive(name: str, **options: Any) -> None:
    """Raise ValueError unless each option of an encoding is a finite number above 0, and whole where it counts."""
    for option, value in options.items():
        whole = option in ("hidden_dim", "depth")
        number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"{option} of '{name}' must be {kind} above 0; got {value!r}")


def check_at_hand(encoding: PositionalEncoding) -> None:
    """Raise ValueError where a hook that is no module's `forward` would read weights that are kept elsewhere."""
    owners = [
        each
        for each in encoding.modules()
        if isinstance(each, nn.ParameterList)
        or (isinstance(each, PositionalEncoding) and each.active_hooks - {"tokens"})
    ]
    if any(weight.is_meta for owner in owners for weight in owner.parameters(recurse=False)):
        raise ValueError(
            "weights of the encoding are on the device 'meta', and attention reads them outside of a module's forward, "
            "for which alone accelerate's offloading loads them; keep model.encoding out of what is offloaded"
        )


def has_hooks(module: nn.Module) -> bool:
    """Whether something is called with the inputs, outputs or gradients of a module, or in place of its `forward`.

    As accelerate does to load weights that it keeps elsewhere: what reads them must then call the module.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in module.__dict__ or nn.modules.module._has_any_global_hook()
