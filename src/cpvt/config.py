"""All that can be chosen, as frozen dataclasses: the one list from which command line, files and models are made.

Standard library only, so that `cpvt --help` is quick; names are checked where they are used.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

PROTOCOLS = ("canvas", "resize")
SWEEP_PROTOCOLS = (*PROTOCOLS, "native")
TOKEN_BUDGET = 4096  # patches that go through a model at a time, where pictures have sizes of their own
POOLS = {"cls": "token", "gap": "avg"}  # as rows and the command line say it -> as timm and ModelConfig say it
Size = int | tuple[int, int]  # side, or height and width, in pixels
Watch = Callable[[str, int, int, str], None]  # told (what, steps done, steps in all, words on how it goes)


def ignore_progress(name: str, done: int, total: int, words: str) -> None:
    """The Watch that shows nothing."""


def sides(size: Size) -> tuple[int, int]:
    """Height and width of a size."""
    return (size, size) if isinstance(size, int) else size


def parse_size(text: int | str) -> Size:
    """Read '48' or '48x64' (height x width)."""
    parts = str(text).split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"a size is a side such as 48, or height x width such as 48x64; got '{text}'")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """("vit_tiny", {"depth": 4}) from "vit_tiny(depth=4)"; ValueError for options that are not plain values with names."""
    name, bracket, options = text.partition("(")
    if not bracket:
        return text, {}
    try:
        call = ast.parse(f"f({options}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("options need names")
        return name, {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"options of a model are plain values with names, such as {name}(depth=4); got '{bracket}{options}'"
        ) from error


@dataclass(frozen=True)
class ModelConfig:
    """A vision transformer; field names are timm's."""

    img_size: Size = 224
    """Training size: side, or height and width, in pixels. Other sizes are welcome at any time."""
    patch_size: int = 16
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    encoding: str = "peg"
    """Positional encoding: a name of `cpvt list`, with options as in "peg(at=(1, 2))", or a sum as in "learned+peg"."""
    global_pool: str = "token"
    """What the head reads: 'token' (class token), 'avg' (mean of the tokens), '' (every token)."""
    class_token: bool | None = None
    """Whether there is a class token; by default only where the head reads it."""
    drop_rate: float = 0.0
    """Share of what the head reads that training drops."""
    drop_path_rate: float = 0.0
    weight_init: str = "deit"
    """How linear layers start: 'deit' (truncated normal, 0.02) or 'xavier' (by their width; learns sooner when narrow)."""

    @property
    def has_class_token(self) -> bool:
        return self.global_pool == "token" if self.class_token is None else self.class_token


@dataclass(frozen=True)
class ForeignConfig:
    """A model of another library, as a run's folder records it."""

    name: str
    """Such as "timm:vit_tiny_patch16_224(patch_size=8)": library, name, and options of its own constructor."""
    num_classes: int
    img_size: Size
    """Training size, pixels."""
    in_chans: int = 3
    retrofit: dict[str, Any] | None = None
    """What `cpvt.retrofit` was told: at, absolute, ..."""


@dataclass(frozen=True)
class Source:
    """Which pictures, and how they are read."""

    data: str = "digits"
    """'digits', a folder with train/ and test/ (or val/), or a name of timm's dataset factory such as torch/cifar10."""
    data_root: str | None = None
    """Where the files of a named data set are."""
    crop_ratio: float | None = None
    """Share of the resized picture that a test under `resize` shows; by default the data set's (1 for digits, else 0.875)."""
    interpolation: str = "bicubic"
    longest_side: int | None = None
    """Pictures with a longer side are shrunk to it before they are cropped or laid on a canvas, in training and test
    alike, and it is said; by default four times the training size."""
    on_bad_picture: Literal["error", "skip"] = "error"
    """What to do with a picture that does not decode: 'error', or 'skip' (counted and reported)."""
    loader_workers: int = 0
    """Processes that read pictures beside the one that trains."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the same for every encoding."""

    epochs: int = 20
    batch_size: int = 32
    lr: float = 3e-3
    min_lr: float = 1e-5
    warmup_share: float = 0.1
    """Share of all steps over which the learning rate rises from min_lr to lr."""
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    drop_path_rate: float = 0.0
    augment: str | None = None
    """How training pictures are varied: 'resized-crop', 'crop' (own scale) or 'none'; by default as fits the data set."""
    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Share of the area that a 'resized-crop' shows, from and to."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        rules = {
            "epochs must be 1 or more": self.epochs >= 1,
            "batch_size must be 1 or more": self.batch_size >= 1,
            "lr must be above 0": self.lr > 0,
            "min_lr must be from 0 to lr": 0 <= self.min_lr <= self.lr,
            "warmup_share must be from 0 to below 1": 0 <= self.warmup_share < 1,
            "weight_decay must be 0 or more": self.weight_decay >= 0,
            "label_smoothing must be from 0 to below 1": 0 <= self.label_smoothing < 1,
            "drop_path_rate must be from 0 to below 1": 0 <= self.drop_path_rate < 1,
            "crop_scale must go up, above 0 and to 1 at most": 0 < low <= high <= 1,
        }
        for rule, holds in rules.items():
            if not holds:
                raise ValueError(f"{rule}; got {getattr(self, rule.split()[0])}")


@dataclass(frozen=True)
class TrainConfig:
    """Train one model."""

    out: str
    """Folder of the run: model.safetensors, checkpoint.json, history.jsonl."""
    encoding: str | None = None
    """Positional encoding, such as peg or "learned+peg"; by default the model's own."""
    pool: str | None = None
    """What the head reads: cls (class token) or gap (global average pooling); by default the model's own."""
    model: str = "cpvt_micro"
    """A name of `cpvt list`, or of another library, as timm:vit_tiny_patch16_224; options in brackets, as in
    "cpvt_micro(patch_size=8)"."""
    start: str | None = None
    """Weights to start from: a run's folder with the same model, a file, or 'published' for those of another library; by
    default random ones."""
    train_size: int | None = None
    """Side of the training pictures, pixels; by default the model's."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    source: Source = field(default_factory=Source)
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True)
class Retrofit:
    """PEGs that start at zero, put into a trained model."""

    at: tuple[int, ...] = (1,)
    """Blocks after which a PEG is put, counted from 1; in a model of stages, of every stage."""
    absolute: Literal["keep", "fade", "drop"] = "keep"
    """What becomes of the table of absolute positions: kept, faded out over the training, or dropped at once."""
    fade_end: float = 0.5
    """Under fade: the part of the training after which nothing of the table is left."""
    kernel_size: int = 3
    train_only: Literal["all", "peg", "peg+norms"] = "all"
    """What learns; the rest is frozen. There is a control for 'all' alone."""
    peg_lr_scale: float = 10.0
    """The PEGs, which start from nothing, learn at so many times the learning rate."""

    def __post_init__(self) -> None:
        if not 0 < self.fade_end <= 1:
            raise ValueError(f"fade_end is a part of the training, above 0 and at most 1; got {self.fade_end}")
        if self.peg_lr_scale <= 0:
            raise ValueError(f"peg_lr_scale must be above 0; got {self.peg_lr_scale}")


@dataclass(frozen=True)
class RetrofitConfig:
    """Give a trained model PEGs that start at zero, train it on, and test it before and after."""

    model: str
    """A run that holds a model of another library, or timm:NAME, hf:PATH_OR_NAME, torchvision:NAME."""
    out: str = "runs/retrofit"
    """Folder of the retrofitted run; its rows and page compare it with the model as it came and with the control."""
    checkpoint: str | None = None
    """File with the weights of a model of another library; by default those that the library publishes."""
    control: bool = True
    """Also train the model on without PEGs, alike: what PEG brings is then told apart from what training brings."""
    sizes: tuple[int | str, ...] = ()
    """Test sizes, sides in pixels or HEIGHTxWIDTH; by default half to three times the training size."""
    protocols: tuple[str, ...] = ("resize",)
    train_size: int | None = None
    """Side of the training pictures, pixels; by default the model's."""
    seed: int = 0
    device: str = "auto"
    retrofit: Retrofit = field(default_factory=Retrofit)
    source: Source = field(default_factory=Source)
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=5, lr=2e-4))


@dataclass(frozen=True)
class SweepConfig:
    """Test a model at sizes it was not trained at."""

    model: str
    """Folder that `cpvt train` wrote, or timm:NAME, hf:PATH_OR_NAME, torchvision:NAME (options of its own in brackets)."""
    checkpoint: str | None = None
    """File with weights for a model of another library; by default those that the library publishes."""
    out: str | None = None
    """Folder to which the rows go; by default the run's, or runs/sweep. Rows of several models make one report."""
    protocol: str = "resize"
    """resize (same picture, more pixels: objects grow), canvas (objects keep their pixels, the field of view grows) or
    native (whole pictures in their own proportions; a size is the longest side allowed)."""
    sizes: tuple[int | str, ...] = ()
    """Sides in pixels, or HEIGHTxWIDTH; by default half to three times the training size."""
    data: str | None = None
    """Another data set than the run's own, with the same classes; for a model of another library it must be given."""
    data_root: str | None = None
    train_size: int | None = None
    """Side of the pictures a model of another library was trained on, where the model does not say."""
    crop_ratio: float | None = None
    interpolation: str | None = None
    """By default the model's own, or bicubic."""
    mean: tuple[float, ...] = ()
    """By which pictures are normalised, of values from 0 to 1, a number per channel; by default the model's own."""
    std: tuple[float, ...] = ()
    on_bad_picture: Literal["error", "skip"] = "error"
    longest_side: int | None = None
    """Larger pictures are shrunk to it before they are laid on a canvas, and it is said; by default as in training."""
    batch_size: int = 64
    token_budget: int = TOKEN_BUDGET
    """Under native: patches that go through the model at a time."""
    device: str = "auto"


@dataclass(frozen=True)
class ProbeConfig:
    """Measure what a model knows of positions, beside its untrained twin and itself with the encoding off."""

    model: str
    """Folder that `cpvt train` wrote, or timm:NAME, hf:PATH_OR_NAME, torchvision:NAME (options of its own in brackets)."""
    checkpoint: str | None = None
    """File with weights for a model of another library; by default those that the library publishes."""
    out: str = "runs/probe"
    """Folder to which the findings are added; those of several models make one page."""
    probes: tuple[str, ...] = ()
    """order, translation, position, longer, islam, attention; by default all."""
    sizes: tuple[int | str, ...] = ()
    """Larger sizes for `longer`; by default one and a half, two and three times the training size."""
    data: str = "digits"
    """'digits', a folder with train/ and test/ (or val/), or a name of timm's dataset factory such as torch/cifar10."""
    data_root: str | None = None
    pictures: int = 256
    """How many are shown."""
    train_size: int | None = None
    """Side of the pictures the model was trained on, where it does not say."""
    seed: int = 0
    on_bad_picture: Literal["error", "skip"] = "error"
    token_budget: int = TOKEN_BUDGET
    """Patches that go through the model at a time."""
    device: str = "auto"


@dataclass(frozen=True)
class PredictConfig:
    """Name what pictures show, each at its own size."""

    run: str
    """Folder that `cpvt train` wrote."""
    pictures: tuple[str, ...]
    """Picture files."""
    top: int = 5
    longest_side: int | None = None
    """Pictures with a longer side are shrunk to it first, and it is said; by default four times the training size."""
    on_bad_picture: Literal["error", "skip"] = "error"
    token_budget: int = TOKEN_BUDGET
    """Patches that go through the model at a time; every picture gets what it would get alone."""
    device: str = "auto"


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained model as one file that takes pictures of any size."""

    run: str
    """Folder that `cpvt train` wrote."""
    out: str = ""
    """File to write; its suffix decides the format: .onnx, or .pt2 (torch.export). By default model.onnx in the run's
    folder, or model.pt2."""
    format: Literal["onnx", "torch-export"] | None = None
    """Which of the two, where --out does not say it."""


@dataclass(frozen=True)
class CompareConfig:
    """Train every encoding alike, test each at sizes never seen, and draw the result."""

    out: str = ""
    """Folder of the comparison; by default runs/compare, or runs/quick."""
    encodings: tuple[str, ...] = ("none", "learned", "sincos", "relative", "rope", "peg", "peg5")
    pool: tuple[str, ...] = ()
    """cls, gap or both, for every encoding; by default cls for all and gap for peg too."""
    protocols: tuple[str, ...] = PROTOCOLS
    seeds: tuple[int, ...] = (0,)
    canvas_sizes: tuple[int | str, ...] = ()
    """By default once, one and a half, two and three times the training size."""
    resize_sizes: tuple[int | str, ...] = ()
    """By default a half, three quarters, once, one and a half and two times the training size."""
    quick: bool = False
    """A first look in a minute and a half. Where not asked otherwise: learned, rope and peg, class token, fewer sizes,
    12 epochs."""
    model: str = "cpvt_micro"
    train_size: int | None = None
    parallel: int | None = None
    """Trainings at once, a process each; by default one per core on the CPU (eight at most), on a GPU one."""
    device: str = "auto"
    source: Source = field(default_factory=Source)
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True)
class ReportConfig:
    """Draw the page of a comparison, or of any rows, again."""

    folders: tuple[str, ...]
    """Folder that `cpvt compare` or `cpvt sweep` wrote rows to; several make one page."""
    out: str | None = None
    """Folder of the page; by default the first of the folders."""


@dataclass(frozen=True)
class BenchConfig:
    """Take the published figures again, on this machine."""

    only: tuple[str, ...] = ()
    """Which benchmarks: peg, scattered, model, packed, padding, memory, matmul, and fused where there is a GPU; by
    default all."""
    out: str = "benchmarks/results"
    """Folder for NAME.json: command, machine and figures of each benchmark."""
    rounds: int = 21
    """How often contenders take turns; some take a part or a multiple of it."""


@dataclass(frozen=True)
class ListConfig:
    """Name the encodings, models and data sets there are."""

    markdown: bool = False
    """Print the table of encodings as the README holds it."""


def differences(before: dict[str, Any], after: Any, ignore: tuple[str, ...] = ()) -> list[str]:
    """What differs between a configuration read from JSON and a dataclass, as 'name: before -> after'.

    An option that the file does not know counts as its default: it was added after the file was written.
    """
    flat_before, flat_after = _flat(before), _flat(asdict(after))
    defaults = _defaults(type(after))
    found = {name: (flat_before.get(name, defaults.get(name)), value) for name, value in flat_after.items()}
    return [f"{name}: {old} -> {new}" for name, (old, new) in found.items() if old != new and name not in ignore]


def refuse_other(folder: Path, what: str, before: dict[str, Any], after: Any, ignore: tuple[str, ...]) -> None:
    """Raise ValueError where a folder was made by another configuration than the one that is asked for."""
    changed = differences(before, after, ignore)
    if changed:
        raise ValueError(f"'{folder}' holds {what} ({'; '.join(changed)}); choose another --out, or delete the folder")


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value))
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


def _defaults(kind: Any) -> dict[str, Any]:
    """Defaults of a configuration and of those inside it."""
    known = {each.name: each.default for each in fields(kind) if each.default is not MISSING}
    inner = {each.name: asdict(each.default_factory()) for each in fields(kind) if each.default_factory is not MISSING}
    return _flat({**known, **inner})
