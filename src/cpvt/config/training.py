"""Options of trainings: one model, a retrofitted model, a comparison of encodings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from cpvt.config.base import Options, Ranges, Size, importable_encoding
from cpvt.config.data import DataConfig
from cpvt.config.optimisation import OptimConfig
from cpvt.config.runtime import RuntimeConfig
from cpvt.config.scale import parse_scale, parse_test_rule, scale_label


@dataclass(frozen=True)
class Retrofit(Options):
    """PEGs to add to a trained model; they start at zero, so the model's output does not change at first."""

    at: tuple[int, ...] = (1,)
    """Blocks after which to add a PEG, counted from 1; in a hierarchical model, in every stage."""
    absolute: Literal["keep", "fade", "drop"] = "keep"
    """What to do with the learned absolute positions: keep them, fade them out in training, or drop them at once."""
    fade_end: float = 0.5
    """Under fade: the fraction of the training after which they are gone."""
    kernel_size: int = 3
    """Side of the kernel of each PEG, odd."""
    train_only: Literal["all", "peg", "peg+norms"] = "all"
    """What to train; the rest is frozen. Only 'all' has a control."""
    peg_lr_scale: float = 10.0
    """Factor on the learning rate of the PEGs, which start at zero."""

    RANGES: ClassVar[Ranges] = {"above 0": ("peg_lr_scale",)}

    def check(self) -> None:
        super().check()
        if not 0 < self.fade_end <= 1:
            raise ValueError(f"fade_end is a fraction of the training, above 0 and at most 1; got {self.fade_end}")
        if self.absolute != "fade" and self.fade_end != Retrofit.fade_end:
            raise ValueError(f"fade_end {self.fade_end} does nothing with absolute '{self.absolute}': it is for 'fade'")


@dataclass(frozen=True)
class TrainConfig(Options):
    """Train one model."""

    out: str
    """Folder of the run."""
    encoding: str | None = None
    """Positional encoding, such as peg or "learned+peg", or your own as mypackage.module:MyEncoding; by default the
    model's."""
    pool: str | None = None
    """Input of the head: cls (class token) or gap (global average pooling); by default the model's."""
    model: str = ""
    """A name of `cpvt list`, or of another library, as timm:vit_tiny_patch16_224; options go in brackets, as in
    "cpvt_micro(patch_size=8)". By default the model of the run that initial_checkpoint names, with its encoding, pool
    and training size, else cpvt_micro."""
    initial_checkpoint: str | None = None
    """Initial weights: a run's folder or hf-hub:OWNER/NAME (training size and classes may differ), a file, or
    'published' for those that the library or this package publishes; by default random."""
    img_size: int | None = None
    """Training size: side in pixels; by default the model's (32 of cpvt_micro, which is small for photographs)."""
    train_sizes: tuple[Size, ...] = ()
    """Sizes to train at: each step draws one, and its batch size keeps the number of tokens about constant, or shows
    all of them (sizes_per_step). By default only the training size."""
    scale: str | None = None
    """The object scale that the model is given where a call does not say, in training as later: fit (the image
    shows what images of the training size show), pixels (objects keep their pixels) or paper (nothing); by default
    pixels where training images are crops at their own scale, else the model's, fit."""
    teacher: str | None = None
    """Teacher for hard distillation: a run's folder, or hf-hub:OWNER/NAME, timm:NAME, hf:PATH_OR_NAME,
    torchvision:NAME."""
    teacher_checkpoint: str | None = None
    """File of weights of an external teacher; by default those that its library publishes."""
    test_every: int = 0
    """Epochs between tests at the training size, on the validation part of the data, or on its test part where there
    is none; 0: test only at the end."""
    keep_best: bool = False
    """Keep the weights of the epoch that is best on the validation part, not those of the last; needs test_every."""
    seed: int = 0
    device: str = "auto"
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    dataset: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    retrofit: Retrofit | None = None
    """PEGs to add to an external model before training; by default none."""

    COMMON: ClassVar[tuple[str, ...]] = (
        "out",
        "data",
        "encoding",
        "pool",
        "model",
        "img_size",
        "initial_checkpoint",
        "epochs",
        "batch_size",
        "lr",
        "seed",
    )
    RANGES: ClassVar[Ranges] = {"1 or more": ("img_size",), "0 or more": ("test_every", "seed")}

    def check(self) -> None:
        super().check()
        if not isinstance(self.model, str):
            raise ValueError(
                f"training builds the model itself: model takes a name, such as 'cpvt_micro'; got a "
                f"{type(self.model).__name__}"
            )
        if self.keep_best and not self.test_every:
            raise ValueError("keep_best chooses among the epochs that are tested: set test_every too, such as 1")
        if self.scale is not None:
            parse_scale(self.scale)
        if self.encoding is not None:
            object.__setattr__(self, "encoding", importable_encoding(self.encoding))


@dataclass(frozen=True)
class RetrofitConfig(Options):
    """Add PEGs to a trained model, fine-tune it, and test it before and after."""

    model: str
    """Folder of a run with an external model, or timm:NAME, hf:PATH_OR_NAME, torchvision:NAME."""
    out: str = "runs/retrofit"
    """Folder of the run; its report compares the retrofitted model with the original and the control."""
    checkpoint: str | None = None
    """File of weights of an external model, or `random`; by default those that its library publishes."""
    control: bool = True
    """Fine-tune the model without PEGs too, the control that separates the effect of PEG from that of training
    (--no-control leaves it out)."""
    sizes: tuple[Size, ...] = ()
    """Test sizes, sides in pixels or HEIGHTxWIDTH; by default half to three times the training size."""
    protocols: tuple[str, ...] = ("resize",)
    img_size: int | None = None
    """Training size: side in pixels; by default the model's."""
    train_sizes: tuple[Size, ...] = ()
    """Sizes to fine-tune at, with PEG and without; by default only the training size."""
    seed: int = 0
    device: str = "auto"
    retrofit: Retrofit = field(default_factory=Retrofit)
    dataset: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(epochs=5, lr=2e-4))

    COMMON: ClassVar[tuple[str, ...]] = ("model", "data", "at", "absolute", "out", "epochs", "lr")
    RANGES: ClassVar[Ranges] = {"1 or more": ("img_size",), "0 or more": ("seed",)}


@dataclass(frozen=True)
class CompareConfig(Options):
    """Train every encoding alike, test each at unseen sizes, and write the report."""

    out: str = ""
    """Folder of the comparison; by default runs/compare, or runs/quick."""
    encodings: tuple[str, ...] = ()
    """Names, groups (all, bias, rotary, ... of `cpvt list`), sums such as "learned+peg", or your own as
    mypackage.module:MyEncoding; by default the group paper."""
    pool: tuple[str, ...] = ()
    """cls, gap or both, for every encoding; by default cls for all and also gap for peg."""
    protocols: tuple[str, ...] = ("canvas", "resize")
    scale: tuple[str, ...] = ("protocol",)
    """The object scale that models are given in tests: protocol (what is true under each), pixels, fit, auto,
    paper (nothing), or a number; several are tested each."""
    seeds: tuple[int, ...] = (0,)
    """Every model is trained once per seed."""
    sizes: tuple[Size, ...] = ()
    """Test sizes of every protocol, pixels or HEIGHTxWIDTH; --canvas-sizes and --resize-sizes take precedence."""
    canvas_sizes: tuple[Size, ...] = ()
    """By default 1, 1.5, 2 and 3 times the training size."""
    resize_sizes: tuple[Size, ...] = ()
    """By default 0.5, 0.75, 1, 1.5 and 2 times the training size."""
    quick: bool = False
    """A first look in a minute: by default learned, rope and peg, class token, fewer sizes, 12 epochs."""
    model: str = "cpvt_micro"
    """The model that gets each encoding: a name of `cpvt list`; options go in brackets."""
    img_size: int | None = None
    """Training size: side in pixels; by default the model's."""
    train_sizes: tuple[Size, ...] = ()
    """Sizes to train every model at; by default only the training size."""
    parallel: int | None = None
    """Trainings at once, a process each; by default one per CPU core (at most eight), or one on a GPU. On a cluster:
    at once on a machine like this one."""
    cluster: str = ""
    """Ray cluster to run on: 'auto', HOST:PORT or ray://HOST:PORT; 'ray' uses a running one or starts one here. All its
    machines must share the folders."""
    device: str = "auto"
    dataset: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    COMMON: ClassVar[tuple[str, ...]] = (
        "data",
        "encodings",
        "pool",
        "seeds",
        "quick",
        "model",
        "img_size",
        "epochs",
        "parallel",
        "out",
    )
    RANGES: ClassVar[Ranges] = {"1 or more": ("img_size", "parallel"), "0 or more": ("seeds",)}

    def check(self) -> None:
        super().check()
        object.__setattr__(self, "scale", tuple(scale_label(parse_test_rule(rule)) for rule in self.scale))
        object.__setattr__(self, "encodings", tuple(map(importable_encoding, self.encodings)))
