"""Retrofits trained transformers of other libraries with PEGs after chosen blocks."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cpvt.adapters.subclasses import SHARE, changed_class
from cpvt.adapters.trial import BlockCall, try_blocks
from cpvt.config.scale import ScaleRule, parse_scale
from cpvt.encodings import PEG, PositionalEncoding
from cpvt.encodings.peg import AnyScale, at_least_one
from cpvt.grids import Grid
from cpvt.models.scale import find_scale

ABSOLUTE = ("keep", "fade", "drop")
TRAINED = ("peg", "peg+norms", "all")


class Family(NamedTuple):
    """Where models of one architecture keep what a retrofit needs, as attribute paths; '*' is each stage."""

    name: str
    blocks: str
    patches: str = ""  # the convolution that makes patches and so knows their grid; none where blocks are given it
    tokens: str = ""  # who holds class token and registers
    table: str = ""  # absolute positions, added to the tokens


HF_PATCHES, HF_TABLE = "embeddings.patch_embeddings", "embeddings.position_embeddings"
FAMILIES = (  # another architecture is a line here
    Family("timm ViT, DeiT, EVA", "blocks", "patch_embed.proj", "", "pos_embed"),
    Family("timm Swin", "layers.*.blocks"),
    Family("timm PVT-v2", "stages.*.blocks"),
    Family("torchvision vit", "encoder.layers", "conv_proj", "", "encoder.pos_embedding"),
    Family("Hugging Face ViT", "layers", f"{HF_PATCHES}.projection", "embeddings", HF_TABLE),
    Family("Hugging Face DINOv2", "encoder.layer", f"{HF_PATCHES}.projection", "embeddings", HF_TABLE),
    Family("Hugging Face DINOv3", "model.layer", HF_PATCHES, "embeddings"),
)
FIRST_NORMS = ("norm1", "ln_1", "layernorm_before")  # of a block, under each library's name: it knows the width
PREFIX = ("cls_token", "class_token", "dist_token", "distillation_token", "reg_token", "register_tokens")


def retrofit(
    model: nn.Module, at: Sequence[int] | int = (1,), absolute: str = "keep",
    kernel_size: int | Sequence[int] = 3, padding_mode: str = "zeros", scale: ScaleRule = "fit",
    scale_grid: Sequence[int] | None = None,
) -> nn.Module:  # fmt: skip
    """Copy a trained transformer and add PEGs that start at zero, so that its output is bit for bit the same at first.

    model: a transformer of one of FAMILIES, bare or with a head around it; it stays unchanged. at: the blocks that a
    PEG follows, counted from 1, in every stage of a staged model. PEGs skip prefix tokens. kernel_size, padding_mode:
    PEG's.
    absolute: what happens to the table of absolute positions. 'keep' keeps it. 'fade' multiplies it by a factor, 1 at
    first, that `set_absolute_share` sets. 'drop' fixes that factor at 0. Class token and registers keep their rows.
    scale: how much larger objects are than in training, a rule of `cpvt.config.scale.RULES` or a number: how far apart
    the neighbours are that PEGs read. The copy's attribute `scale` changes it. 'fit' divides the grid that a PEG
    receives by the one at which the scale is 1.
    scale_grid: rows and columns of tokens at which the scale is 1, for the first PEG (others in proportion); by default
    those that it receives on a blank image of the training size.
    The copy has the same class, and its parameters keep their names; new ones are called `peg` inside their block.
    Its attribute `retrofitted` holds the options: `retrofit(fresh, **model.retrofitted)` can load its state dict.
    Raises ValueError for a model without a list of blocks, blocks that do not return the tokens of a whole grid (the
    copy is run once, on a blank image), a retrofitted model, depths that do not exist, and 'fade' or 'drop' without a
    table.
    """
    depths = [at] if isinstance(at, int) else list(at)
    sizes = kernel_size if isinstance(kernel_size, int) else list(kernel_size)
    options: dict[str, Any] = dict(
        at=depths, absolute=absolute, kernel_size=sizes, padding_mode=padding_mode, scale=parse_scale(scale)
    )  # fmt: skip
    if absolute not in ABSOLUTE:
        raise ValueError(f"absolute must be one of {', '.join(ABSOLUTE)}; got '{absolute}'")
    _check_model(model)
    model = copy.deepcopy(model)
    root, family = _find(model)
    stages = _stages(root, family)
    chosen = [stage[depth - 1] for stage in stages for depth in _check_depths(depths, stages)]
    prefix = _count_prefix(_reach(root, family.tokens)) if family.patches else 0
    grids = _at_scale_one(_find_grids(model, root, family, chosen, prefix), scale_grid)
    options["scale_grid"] = grids[0]
    places = Places()
    if family.patches:
        _reach(root, family.patches).register_forward_hook(places.note)
    for block, grid in zip(chosen, grids):
        block.peg = _zero_peg(block, kernel_size, padding_mode)
        AddPeg(block, places if family.patches else None, prefix, options, grid)
    frozen = [name for name, tensor in model.named_parameters() if not tensor.requires_grad]
    _change_classes(model, root, family, absolute)
    model.__dict__.update(retrofitted=options, frozen_before=frozen, scale_grid=grids[0])
    return model


def describe_retrofit(options: dict[str, Any]) -> str:
    """A short description of a retrofit, from the model's attribute `retrofitted`."""
    table = {"keep": "table kept", "fade": "table faded out", "drop": "table dropped"}[options["absolute"]]
    return f"PEG after {', '.join(map(str, options['at']))}, {table}"


def set_absolute_share(model: nn.Module, share: float) -> None:
    """Set the factor of the absolute positions in a model retrofitted with absolute='fade': 1 all, 0 none."""
    if not 0 <= share <= 1:
        raise ValueError(f"the share of the absolute table is from 0 to 1; got {share}")
    if getattr(model, "retrofitted", {}).get("absolute") != "fade":
        raise ValueError(
            "expected a model that `retrofit(model, absolute='fade')` returned; this one's positions do not fade"
        )
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] == SHARE:
            buffer.fill_(share)


def fade_share(step: int, steps: int, start: float = 0.0, end: float = 1.0, shape: str = "cosine") -> float:
    """The factor of the absolute table at a training step: 1 until `start`, falling until `end`, then 0.

    step: counted from 0. steps: of the whole training. start, end: fractions of it. shape: 'cosine' or 'linear'.
    """
    if shape not in ("cosine", "linear"):
        raise ValueError(f"shape must be 'cosine' or 'linear'; got '{shape}'")
    if steps < 1 or not 0 <= start <= end <= 1:
        raise ValueError(
            f"expected 1 step or more and 0 <= start <= end <= 1; got steps={steps}, start={start}, end={end}"
        )
    first, last = start * steps, end * steps
    done = min(1.0, max(0.0, (step - first) / (last - first))) if last > first else float(step >= last)
    return 1 - done if shape == "linear" else (1 + math.cos(math.pi * done)) / 2


def parameter_groups(
    model: nn.Module, what: str = "all", lr: float = 1e-4, weight_decay: float = 0.05, peg_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters to fine-tune, as groups for an optimiser; all others are frozen (requires_grad False).

    what: 'peg' (only the PEGs), 'peg+norms' (and every norm), or 'all' (except what was frozen before the retrofit).
    The PEGs learn at lr * peg_lr_scale. Weight decay applies only to weights of linear layers and convolutions: not to
    PEGs, biases, norms, LayerScale, tokens and position tables. Another call with another `what` freezes and unfreezes
    accordingly.
    """
    if what not in TRAINED:
        raise ValueError(f"what must be one of {', '.join(TRAINED)}; got '{what}'")
    pegs = {id(each) for part in model.modules() if isinstance(part, PEG) for each in part.parameters()}
    if not pegs:
        raise ValueError("expected a model that `retrofit` returned; this one holds no PEG")
    norms = [part for part in model.modules() if "norm" in type(part).__name__.lower()]
    in_norms = {id(each) for norm in norms for each in norm.parameters(recurse=False)}
    groups: dict[str, list[Tensor]] = {"peg": [], "decayed": [], "undecayed": []}
    for name, each in model.named_parameters():
        trained = what == "all" and name not in getattr(model, "frozen_before", [])
        each.requires_grad_(trained or id(each) in pegs or (what == "peg+norms" and id(each) in in_norms))
        if each.requires_grad:
            plain = each.ndim < 2 or any(word in name for word in ("token", "pos_embed", "position"))
            groups["peg" if id(each) in pegs else "undecayed" if plain else "decayed"].append(each)
    rates, decays = {"peg": lr * peg_lr_scale}, {"decayed": weight_decay}
    return [
        {"name": name, "params": params, "lr": rates.get(name, lr), "weight_decay": decays.get(name, 0.0)}
        for name, params in groups.items()
        if params
    ]


class Places:
    """The grid of the images in the current forward: recorded as patches are made, read after each chosen block."""

    def __init__(self) -> None:
        self.grid: Grid | None = None
        self.grids: dict[int, Grid] = {}  # by the number of patches

    def note(self, convolution: nn.Module, images: tuple[Tensor, ...], patches: Tensor) -> None:
        """Record the grid of the patches (B, D, h, w); called after the convolution that makes them."""
        self.grid = (patches.shape[2], patches.shape[3])
        if not _traced():
            self.grids[patches.shape[2] * patches.shape[3]] = self.grid

    def recall(self, count: int) -> Grid | None:
        """The last recorded grid of this number of patches.

        Not the last of all: gradient checkpointing runs blocks again after images of another size may have passed.
        """
        return self.grid if _traced() else self.grids.get(count, self.grid)

    def __reduce__(self) -> tuple[type[Places], tuple[()]]:
        return Places, ()  # a copy starts without grids


class AddPeg:
    """A forward hook of a block: adds the encoding of the block's own `peg` to the tokens that it returns."""

    def __init__(
        self, block: nn.Module, places: Places | None, prefix_tokens: int, options: dict[str, Any], grid: Grid | None
    ) -> None:
        self.places, self.prefix_tokens = places, prefix_tokens
        self.options, self.training_grid = options, grid  # those of the whole model, which hold its scale rule
        # first, so that hooks that record hidden states see it; pickling the handle keeps its id from being reused
        self.handle = block.register_forward_hook(self, prepend=True)

    def __call__(self, block: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (self.add(block, args, output[0]), *output[1:])
        return self.add(block, args, output)

    def add(self, block: nn.Module, args: tuple[Any, ...], x: Tensor) -> Tensor:
        """Tokens (B, P + N, D) or (B, h, w, D) plus their encoding.

        A sum, not a kernel with the residual folded in: a convolution's rounding (TF32) must not touch the tokens.
        """
        peg: PEG = block.peg  # type: ignore[assignment]
        if x.shape[-1] != peg.dim:
            raise ValueError(f"expected tokens (B, ..., {peg.dim}) from {type(block).__name__}; got {tuple(x.shape)}")
        if x.ndim == 4:
            grid: Any = x.shape[1], x.shape[2]
            return x + peg.encoding(x.flatten(1, 2), grid, 0, self.scale(grid)).unflatten(1, grid)
        grid = args[1] if self.places is None else self.places.recall(x.shape[1] - self.prefix_tokens)
        return x + peg.encoding(x, grid, self.prefix_tokens, self.scale(grid))

    def scale(self, grid: Grid) -> AnyScale:
        """How far apart the neighbours are on this grid, by the model's rule, at least 1."""
        rule = self.options["scale"]
        if self.training_grid is None and isinstance(rule, str):
            return 1
        return at_least_one(find_scale(rule, grid, self.training_grid or grid))


def _traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def _reach(root: Any, path: str) -> Any:
    """The attribute behind a path, None where there is none."""
    for name in filter(None, path.split(".")):
        root = getattr(root, name, None)
    return root


def _stages(root: nn.Module, family: Family) -> list[Sequence[nn.Module]]:
    """The lists of blocks, one for each stage; none where the model is not of this family."""
    outer, _, inner = family.blocks.partition(".*.")
    found = _reach(root, outer)
    stages = [found] if not inner else [_reach(stage, inner) for stage in found] if _is_list(found) else []
    fits = all(_is_list(stage) and all(_first_norm(block) is not None for block in stage) for stage in stages)
    return stages if fits and (not family.patches or isinstance(_reach(root, family.patches), nn.Conv2d)) else []


def _is_list(found: Any) -> bool:
    return isinstance(found, (nn.ModuleList, nn.Sequential)) and len(found) > 0


def _first_norm(block: nn.Module) -> Any:
    norms = (getattr(block, name, None) for name in FIRST_NORMS)
    return next((norm for norm in norms if hasattr(norm, "normalized_shape")), None)


def _find(model: nn.Module) -> tuple[nn.Module, Family]:
    """The transformer, the model itself or one part of it, and its family."""
    for root in (model, *model.children()):
        for family in FAMILIES:
            if _stages(root, family):
                return root, family
    looked_for = "; ".join(
        f"{family.name}: {family.blocks}" + f" and {family.patches}" * bool(family.patches) for family in FAMILIES
    )
    raise ValueError(
        f"{type(model).__name__} has no list of transformer blocks that retrofit knows. Looked for, in the model and "
        f"its parts: {looked_for} (blocks that begin with a norm: {', '.join(FIRST_NORMS)})"
    )


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a model, a torch.nn.Module; got {type(model).__name__}")
    if hasattr(model, "retrofitted"):
        raise ValueError(f"the model is retrofitted already, with {model.retrofitted}; start from the original")
    if any(isinstance(part, PositionalEncoding) for part in model.children()):
        raise ValueError("cpvt's own models hold any encoding: create_model(name, encoding='learned+peg') instead")
    for part in model.modules():
        if hasattr(part, "unroll"):  # Hiera
            raise ValueError(
                f"{type(part).__name__} keeps its tokens in an order of its own, in which a PEG sees no neighbours"
            )
        if type(part).__name__.startswith("PatchDropout") and part.prob:
            raise ValueError(
                "a PEG needs the whole grid, and this model drops patches; create it with patch_drop_rate=0"
            )


def _check_depths(at: list[int], stages: list[Sequence[nn.Module]]) -> list[int]:
    depths = [len(stage) for stage in stages]
    if not at or len(set(at)) < len(at) or min(at) < 1 or max(at) > min(depths):
        blocks = str(depths[0]) if len(depths) == 1 else f"{min(depths)}, as every stage needs it (they have {depths})"
        raise ValueError(f"at must list different blocks, from 1 to {blocks}; got {tuple(at)}")
    return at


def _find_grids(
    model: nn.Module, root: nn.Module, family: Family, chosen: list[nn.Module], prefix: int
) -> list[Grid | None]:
    """The grid of each chosen block at the training size, seen in one forward; None where the model does not run.

    Raises ValueError unless each returns tokens (B, P + h w, D) or (B, h, w, D).
    """
    places = Places()
    handle = _reach(root, family.patches).register_forward_hook(places.note) if family.patches else None
    calls = try_blocks(model, chosen)
    if handle is not None:
        handle.remove()
    if calls is None:
        return [None] * len(chosen)
    grids: list[Any] = []
    for block in chosen:
        seen = calls.get(block, BlockCall((), None))
        inputs, output = seen.inputs, seen.output
        width, grid = _first_norm(block).normalized_shape[-1], (places.grid, *inputs[1:2])[0 if family.patches else -1]
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        whole = (1, prefix + math.prod(grid), width) if isinstance(grid, (tuple, list)) and len(grid) == 2 else None
        if got != whole and not (len(got) == 4 and got[-1] == width):
            raise ValueError(
                f"{type(root).__name__} cannot take a PEG: a {type(block).__name__} of its returns {got}, and a PEG "
                f"needs the tokens of a whole grid, {whole or f'(1, h, w, {width})'}"
            )
        grids.append(tuple(output.shape[1:3] if output.ndim == 4 else grid))
    return grids


def _at_scale_one(seen: list[Grid | None], wanted: Sequence[int] | None) -> list[Any]:
    """The grid of each chosen block at which the scale is 1; `wanted` is that of the first, by default as seen."""
    first = seen[0]
    if wanted is None or first is None:
        return seen if wanted is None else [(wanted[0], wanted[1])] * len(seen)
    rows, columns = wanted[0] / first[0], wanted[1] / first[1]
    return [None if grid is None else (round(grid[0] * rows), round(grid[1] * columns)) for grid in seen]


def _count_prefix(holder: nn.Module) -> int:
    """Class token, distillation token and registers of the model."""
    stated = getattr(holder, "num_prefix_tokens", None)
    tokens = [getattr(holder, name, None) for name in PREFIX]
    return sum(token.shape[1] for token in tokens if isinstance(token, Tensor)) if stated is None else int(stated)


def _zero_peg(block: nn.Module, kernel_size: int | Sequence[int], padding_mode: str) -> PEG:
    weight = next(block.parameters())
    peg = PEG(_first_norm(block).normalized_shape[-1], kernel_size, padding_mode=padding_mode, dtype=weight.dtype)
    for parameter in peg.parameters():
        nn.init.zeros_(parameter)
    return peg.to(weight.device).train(block.training)


def _no_table(root: nn.Module, absolute: str) -> str:
    return f"{type(root).__name__} has no table of absolute positions to {absolute}; use absolute='keep'"


def _change_classes(model: Any, root: Any, family: Family, absolute: str) -> None:
    """Give the model its attribute `scale`, and the holder of the absolute table the factor of its rows."""
    path, _, table = family.table.rpartition(".")
    holder = None if absolute == "keep" else _reach(root, path)
    if holder is not None:
        _add_share(holder, root, family, absolute)
        holder.__class__ = changed_class(holder.__class__, table, takes_scale=holder is model)
    if holder is not model:
        model.__class__ = changed_class(model.__class__, takes_scale=True)


def _add_share(holder: Any, root: Any, family: Family, absolute: str) -> None:
    """Add the factor of the table's rows for patches: initially 1 for 'fade', 0 for 'drop'."""
    table = holder._parameters.get(family.table.rpartition(".")[2]) if family.table else None
    if table is None:
        raise ValueError(_no_table(root, absolute))
    patches = getattr(_reach(root, family.patches.rpartition(".")[0]), "num_patches", None)
    if patches is None:  # torchvision counts them nowhere
        patches = (root.image_size // root.patch_size) ** 2
    holder.register_buffer(SHARE, torch.full((), float(absolute == "fade"), dtype=table.dtype, device=table.device))
    holder.peg_table_prefix = math.prod(table.shape[1:-1]) - patches
