"""What is trained: one model, a retrofitted one, or every encoding of a comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from cpvt.config.base import Options, Ranges, Size, importable_encoding
from cpvt.config.data import DataConfig
from cpvt.config.optimisation import OptimConfig
from cpvt.config.runtime import RuntimeConfig


@dataclass(frozen=True)
class Retrofit(Options):
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

    RANGES: ClassVar[Ranges] = {"above 0": ("peg_lr_scale",)}

    def check(self) -> None:
        super().check()
        if not 0 < self.fade_end <= 1:
            raise ValueError(f"fade_end is a part of the training, above 0 and at most 1; got {self.fade_end}")


@dataclass(frozen=True)
class TrainConfig(Options):
    """Train one model."""

    out: str
    """Folder of the run: model.safetensors, checkpoint.json, history.jsonl."""
    encoding: str | None = None
    """Positional encoding, such as peg or "learned+peg", or one's own as mypackage.module:MyEncoding; by default the
    model's own."""
    pool: str | None = None
    """What the head reads: cls (class token) or gap (global average pooling); by default the model's own."""
    model: str = "cpvt_micro"
    """A name of `cpvt list`, or of another library, as timm:vit_tiny_patch16_224; options in brackets, as in
    "cpvt_micro(patch_size=8)"."""
    initial_checkpoint: str | None = None
    """Weights to start from: a run's folder (its training size and classes may be others), a file, or 'published' for
    those of another library or of the package itself; by default random ones."""
    img_size: int | None = None
    """Side of the training images, pixels; by default the model's."""
    train_sizes: tuple[Size, ...] = ()
    """Sizes to train at: each step draws one, and takes as many images as make about the tokens of a batch at the
    training size. By default that size alone."""
    teacher: str | None = None
    """A model to learn from, by hard distillation: a run's folder, or timm:NAME, hf:PATH_OR_NAME, torchvision:NAME."""
    teacher_checkpoint: str | None = None
    """File with the weights of a teacher of another library; by default those that the library publishes."""
    test_every: int = 0
    """Test after every so many epochs, at the training size; 0: not before the end."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    dataset: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    retrofit: Retrofit | None = None
    """PEGs to put into a model of another library before it is trained on."""

    RANGES: ClassVar[Ranges] = {"1 or more": ("img_size",), "0 or more": ("test_every", "seed")}

    def check(self) -> None:
        super().check()
        if self.encoding is not None:
            object.__setattr__(self, "encoding", importable_encoding(self.encoding))


@dataclass(frozen=True)
class RetrofitConfig(Options):
    """Give a trained model PEGs that start at zero, train it on, and test it before and after."""

    model: str
    """A run that holds a model of another library, or timm:NAME, hf:PATH_OR_NAME, torchvision:NAME."""
    out: str = "runs/retrofit"
    """Folder of the retrofitted run; its rows and page compare it with the model as it came and with the control."""
    checkpoint: str | None = None
    """File with the weights of a model of another library; by default those that the library publishes."""
    control: bool = True
    """Also train the model on without PEGs, alike: what PEG brings is then told apart from what training brings."""
    sizes: tuple[Size, ...] = ()
    """Test sizes, sides in pixels or HEIGHTxWIDTH; by default half to three times the training size."""
    protocols: tuple[str, ...] = ("resize",)
    img_size: int | None = None
    """Side of the training images, pixels; by default the model's."""
    seed: int = 0
    device: str = "auto"
    retrofit: Retrofit = field(default_factory=Retrofit)
    dataset: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(epochs=5, lr=2e-4))

    RANGES: ClassVar[Ranges] = {"1 or more": ("img_size",), "0 or more": ("seed",)}


@dataclass(frozen=True)
class CompareConfig(Options):
    """Train every encoding alike, test each at sizes never seen, and draw the result."""

    out: str = ""
    """Folder of the comparison; by default runs/compare, or runs/quick."""
    encodings: tuple[str, ...] = ()
    """Names, sums such as "learned+peg", or one's own as mypackage.module:MyEncoding; by default those of `cpvt list`."""
    pool: tuple[str, ...] = ()
    """cls, gap or both, for every encoding; by default cls for all and gap for peg too."""
    protocols: tuple[str, ...] = ("canvas", "resize")
    seeds: tuple[int, ...] = (0,)
    sizes: tuple[Size, ...] = ()
    """Test sizes under every protocol, pixels or HEIGHTxWIDTH; a protocol's own sizes take precedence."""
    canvas_sizes: tuple[Size, ...] = ()
    """By default once, one and a half, two and three times the training size."""
    resize_sizes: tuple[Size, ...] = ()
    """By default a half, three quarters, once, one and a half and two times the training size."""
    quick: bool = False
    """A first look in a minute and a half. Where not asked otherwise: learned, rope and peg, class token, fewer sizes,
    12 epochs."""
    model: str = "cpvt_micro"
    img_size: int | None = None
    parallel: int | None = None
    """Trainings at once, a process each; by default one per core on the CPU (eight at most), on a GPU one. On a cluster: on
    a machine like this one."""
    cluster: str = ""
    """Spread the trainings over a Ray cluster: 'auto', HOST:PORT or ray://HOST:PORT; 'ray' takes one that runs, else makes
    one of this machine. All its machines must share the folders."""
    device: str = "auto"
    dataset: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    RANGES: ClassVar[Ranges] = {"1 or more": ("img_size", "parallel"), "0 or more": ("seeds",)}

    def check(self) -> None:
        super().check()
        object.__setattr__(self, "encodings", tuple(map(importable_encoding, self.encodings)))
