"""How a model is trained: pictures, recipe, run, retrofit, comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cpvt.config.base import PROTOCOLS, check_ranges, parse_size


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and how they are read."""

    data: str = "digits"
    """'digits', a folder with train/ and test/ (or val/), or a name of timm's dataset factory such as torch/cifar10."""
    data_dir: str | None = None
    """Where the files of a named data set are."""
    crop_pct: float | None = None
    """Share of the resized picture that a test under `resize` shows; by default the data set's (1 for digits, else 0.875)."""
    interpolation: str = "bicubic"
    longest_side: int | None = None
    """Pictures with a longer side are shrunk to it before they are cropped or laid on a canvas, in training and test
    alike, and it is said; by default four times the training size."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do with a picture that does not decode: 'error', or 'skip' (counted and reported)."""
    train_num_samples: int | None = None
    """How many pictures an epoch of a streamed set holds, where the set does not say."""
    shuffle_buffer: int = 10_000
    """Pictures of a streamed set that wait in memory to be drawn from, in each process."""
    workers: int = 0
    """Processes that read pictures beside the one that trains."""

    def __post_init__(self) -> None:  # crop_ratio is checked where pictures are read
        check_ranges(
            self, {"1 or more": ("longest_side", "train_num_samples"), "0 or more": ("shuffle_buffer", "workers")}
        )


@dataclass(frozen=True)
class OptimConfig:
    """How a model is trained; the same for every encoding."""

    epochs: int = 20
    batch_size: int = 32
    """Pictures that one step learns from, over all processes together."""
    opt: str = "adamw"
    """A name of timm's optimizers."""
    lr: float = 3e-3
    min_lr: float = 1e-5
    warmup_ratio: float = 0.1
    """Share of all steps over which the learning rate rises to lr."""
    warmup_lr: float | None = None
    """The rate from which it rises; by default min_lr."""
    weight_decay: float = 0.05
    layer_decay: float | None = None
    """Each layer learns at so many times the rate of the one above it; by default all learn alike."""
    clip_grad: float | None = None
    """Gradients longer than this together are shortened to it."""
    smoothing: float = 0.1
    drop_path: float = 0.0
    augment: str | None = None
    """How training pictures are varied: 'resized-crop', 'crop' (own scale) or 'none'; by default as fits the data set."""
    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Share of the area that a 'resized-crop' shows, from and to."""
    aa: str | None = None
    """timm's words for RandAugment, AutoAugment or AugMix, such as rand-m9-mstd0.5-inc1."""
    color_jitter: float = 0.0
    """How far brightness, contrast and saturation may go; timm, as DeiT, leaves it out where auto_augment is given."""
    reprob: float = 0.0
    """Share of the pictures in which a rectangle is filled with noise."""
    aug_repeats: int = 1
    """Repeated augmentation: how many variations of a picture an epoch holds; it holds as many fewer pictures."""
    mixup: float = 0.0
    """Alpha of mixup: two pictures are blended, and their labels; 0 is off."""
    cutmix: float = 0.0
    """Alpha of cutmix: a rectangle of one picture is laid on another; 0 is off."""
    mixup_prob: float = 1.0
    """Share of the steps whose pictures are mixed."""
    mixup_switch_prob: float = 0.5
    """Share of the mixed steps that take cutmix, where mixup is on too."""
    model_ema_decay: float | None = None
    """Decay, a step, of a moving average of the weights, which is then what is kept; by default none."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """In what the model computes (weights stay float32)."""
    distillation_alpha: float = 0.5
    """Share of the loss that a teacher's answers have, where there is a teacher."""

    def __post_init__(self) -> None:
        check_ranges(
            self,
            {
                "1 or more": ("epochs", "batch_size", "aug_repeats"),
                "0 or more": ("weight_decay", "color_jitter", "mixup", "cutmix"),
                "above 0": ("lr", "clip_grad"),
                "from 0 to 1": ("reprob", "mixup_prob", "mixup_switch_prob", "distillation_alpha"),
                "from 0 to below 1": ("warmup_ratio", "smoothing", "drop_path"),
                "above 0 and at most 1": ("layer_decay", "crop_scale"),
                "above 0 and below 1": ("model_ema_decay",),
            },
        )
        for name in ("min_lr", "warmup_lr"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate <= self.lr:
                raise ValueError(f"{name} must be from 0 to lr, {self.lr}; got {rate}")
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale must go up, such as 0.35 1.0; got {self.crop_scale}")


@dataclass(frozen=True)
class RuntimeConfig:
    """How the work is done; whatever is chosen here, the run learns the same, but for rounding."""

    grad_accum_steps: int = 1
    """In how many parts, one after the other, a process takes its pictures of a step: less memory."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward instead of keeping them: less memory."""
    compile: bool = False
    """Let torch.compile turn the model into one faster program, at the first step."""
    fsdp: bool = False
    """Spread parameters and optimizer over the processes (FSDP2) instead of keeping a copy in each (DDP)."""
    save_minutes: float = 10.0
    """Save at least so often, and after every epoch; an interrupted run goes on from there."""
    report_to: tuple[str, ...] = ()
    """Where else to log: tensorboard, wandb, or another tracker of accelerate's."""

    def __post_init__(self) -> None:
        check_ranges(self, {"1 or more": ("grad_accum_steps",), "0 or more": ("save_minutes",)})


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
    initial_checkpoint: str | None = None
    """Weights to start from: a run's folder (its training size and classes may be others), a file, or 'published' for
    those of another library or of the package itself; by default random ones."""
    img_size: int | None = None
    """Side of the training pictures, pixels; by default the model's."""
    train_sizes: tuple[int | str, ...] = ()
    """Sizes to train at: each step draws one, and takes as many pictures as make about the tokens of a batch at the
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

    def __post_init__(self) -> None:
        check_ranges(self, {"1 or more": ("img_size",), "0 or more": ("test_every", "seed")})
        for size in self.train_sizes:
            parse_size(size)


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
        check_ranges(self, {"above 0": ("peg_lr_scale",)})
        if not 0 < self.fade_end <= 1:
            raise ValueError(f"fade_end is a part of the training, above 0 and at most 1; got {self.fade_end}")


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
    img_size: int | None = None
    """Side of the training pictures, pixels; by default the model's."""
    seed: int = 0
    device: str = "auto"
    retrofit: Retrofit = field(default_factory=Retrofit)
    dataset: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(epochs=5, lr=2e-4))

    def __post_init__(self) -> None:
        check_ranges(self, {"1 or more": ("img_size",), "0 or more": ("seed",)})


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

    def __post_init__(self) -> None:
        check_ranges(self, {"1 or more": ("img_size", "parallel"), "0 or more": ("seeds",)})
