"""Options of what is done with trained models: test, probe, predict, export, convert, report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpvt.config.base import MAX_IMAGE_PIXELS, TOKEN_BUDGET, Options, Precision, Ranges, Size
from cpvt.config.scale import parse_scale, parse_test_rule, scale_label


@dataclass(frozen=True)
class SweepConfig(Options):
    """Test a model at sizes it was not trained at."""

    model: str
    """Folder of a run, a name that comes with weights (cpvt_mini_peg5_gap), hf-hub:OWNER/NAME for a run of the hub, or
    timm:NAME, hf:PATH_OR_NAME, torchvision:NAME; options of the library's constructor go in brackets."""
    checkpoint: str | None = None
    """File of weights for an external model, or `random`; by default those that its library publishes."""
    out: str | None = None
    """Folder to add rows to; by default the run's, or runs/sweep. Rows of several models make one report."""
    protocols: tuple[str, ...] = ("resize",)
    """One or more of resize (objects grow with the image), canvas (objects keep their size, the field of view
    grows) and native (whole images in their own proportions; a size is the longest side allowed)."""
    sizes: tuple[Size, ...] = ()
    """Sides in pixels, or HEIGHTxWIDTH; by default half to three times the training size."""
    scale: str = "protocol"
    """The object scale that the model is given, how many times larger objects are than in training: protocol (the true
    one under each protocol), pixels (1), fit (size / training size), auto (the lowest entropy on 64 images), paper
    (none), or a number such as 2.0."""
    data: str | None = None
    """Data set with the model's classes; by default the run's own. External models and runs of the hub need one."""
    data_dir: str | None = None
    limit: int | None = None
    """Most test images to read, drawn with a fixed seed, for a first look; by default all."""
    img_size: Size | None = None
    """Training size of an external model that does not state it, or was trained at another."""
    crop_pct: float | None = None
    """Center crop under resize, as a fraction of the resized image; by default the model's own, or 0.875."""
    interpolation: str | None = None
    """By default the model's own, or bicubic."""
    mean: tuple[float, ...] = ()
    """Mean of each channel for normalisation, of values from 0 to 1; by default the model's own."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel for normalisation; by default the model's own."""
    on_bad_image: Literal["error", "skip"] = "error"
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """Images of more pixels are bad: decoding them takes 4 bytes of memory a pixel and more."""
    longest_side: int | None = None
    """Images with a longer side are shrunk to it first, and reported; by default as in training."""
    reduced_jpegs: bool | None = None
    """Decode JPEGs that are shown much smaller at a reduced scale (faster, pixels differ a little); by default as in
    training."""
    batch_size: int = 64
    """Images in one forward pass."""
    token_budget: int = TOKEN_BUDGET
    """Under native: most patches in one forward pass."""
    workers: int = 0
    """Processes that load images, besides the main one."""
    precision: Precision = "fp32"
    """Precision in which the model computes: bf16 is faster on GPUs and on CPUs with bfloat16 instructions."""
    device: str = "auto"

    COMMON: ClassVar[tuple[str, ...]] = ("model", "data", "protocols", "sizes", "scale", "out")
    RANGES: ClassVar[Ranges] = {
        "1 or more": ("img_size", "limit", "longest_side", "max_image_pixels", "batch_size", "token_budget")
    }

    def check(self) -> None:
        super().check()
        object.__setattr__(self, "scale", scale_label(parse_test_rule(self.scale)))


@dataclass(frozen=True)
class ProbeConfig(Options):
    """Measure what a model knows of positions, next to two baselines: untrained, and with its encoding off."""

    model: str
    """Folder of a run, a name that comes with weights (cpvt_mini_peg5_gap), hf-hub:OWNER/NAME for a run of the hub, or
    timm:NAME, hf:PATH_OR_NAME, torchvision:NAME; options of the library's constructor go in brackets."""
    checkpoint: str | None = None
    """File of weights for an external model, or `random`; by default those that its library publishes."""
    out: str = "runs/probe"
    """Folder to add results to; those of several models make one page."""
    probes: tuple[str, ...] = ()
    """order, translation, position, longer, islam, attention; by default all."""
    sizes: tuple[Size, ...] = ()
    """Larger sizes for `longer`; by default 1.5, 2 and 3 times the training size."""
    scale: str | None = None
    """The object scale that the model is given in every probe: fit, pixels, paper, or a number such as 2.0; by
    default its own rule."""
    data: str | None = None
    """'digits', a folder with train/ and test/ (or val/), or a name of timm's dataset factory such as torch/cifar10; by
    default a run's own, for other models digits."""
    data_dir: str | None = None
    images: int = 256
    """Number of images."""
    img_size: Size | None = None
    """Training size of a model that does not state it."""
    seed: int = 0
    on_bad_image: Literal["error", "skip"] = "error"
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """Images of more pixels are bad: decoding them takes 4 bytes of memory a pixel and more."""
    token_budget: int = TOKEN_BUDGET
    """Most patches in one forward pass."""
    device: str = "auto"

    COMMON: ClassVar[tuple[str, ...]] = ("model", "data", "probes", "images", "out")
    RANGES: ClassVar[Ranges] = {
        "1 or more": ("images", "img_size", "max_image_pixels", "token_budget"),
        "0 or more": ("seed",),
    }

    def check(self) -> None:
        super().check()
        if self.scale is not None:
            parse_scale(self.scale)


@dataclass(frozen=True)
class PredictConfig(Options):
    """Classify images, read as in the tests of the model."""

    images: tuple[str, ...]
    """Image files, folders (walked) or patterns, optionally after a model: a run's folder, a name that comes with
    weights, or hf-hub:OWNER/NAME. By default the model is cpvt_mini_patch8_64_peg5_gap, which knows
    Imagenette's ten classes."""
    size: Size | None = None
    """Side in pixels, or HEIGHTxWIDTH; by default the recommended size of the model, which is its training size unless
    its weights say another."""
    protocol: str = "resize"
    """resize (as tested), canvas, or native: whole images at their own size, --size being the longest side allowed (by
    default four times the training size)."""
    scale: str = "protocol"
    """The object scale that the model is given, how many times larger objects are than in training: protocol (the true
    one under the protocol), pixels, fit, auto (for each image the lowest entropy), or a number such as 2.0."""
    crop_pct: float | None = None
    """Center crop under resize, as a fraction of the resized image; by default as in the tests of the model."""
    interpolation: str | None = None
    """By default as in the tests of the model."""
    reduced_jpegs: bool | None = None
    """Decode JPEGs that are shown much smaller at a reduced scale (faster, pixels differ a little); by default as in
    the tests of the model."""
    top: int = 5
    """Classes to print for each image, the most probable first."""
    limit: int | None = None
    """Most images to classify; by default all."""
    json: bool = False
    """Print one JSON object with all predictions, and nothing else."""
    csv: str | None = None
    """File to write a table to: a line per image, its size, classes and probabilities."""
    on_bad_image: Literal["error", "skip"] = "error"
    max_image_pixels: int = MAX_IMAGE_PIXELS
    """Images of more pixels are bad: decoding them takes 4 bytes of memory a pixel and more."""
    token_budget: int = TOKEN_BUDGET
    """Most patches in one forward pass; it does not change the result of any image."""
    precision: Precision = "fp32"
    """Precision in which the model computes: bf16 is faster on GPUs and on CPUs with bfloat16 instructions."""
    device: str = "auto"

    COMMON: ClassVar[tuple[str, ...]] = ("images", "top", "size", "protocol", "scale", "csv", "json")
    RANGES: ClassVar[Ranges] = {
        "1 or more": ("top", "limit", "max_image_pixels", "token_budget"),
        "above 0 and at most 1": ("crop_pct",),
    }

    def check(self) -> None:
        super().check()
        object.__setattr__(self, "scale", scale_label(parse_test_rule(self.scale)))


@dataclass(frozen=True)
class DemoConfig(Options):
    """Show a model in the browser: its answer to an image at many sizes, where it looks, what PEG adds."""

    run: str = "cpvt_mini_patch8_64_peg5_gap"
    """Folder of a run, a name that comes with weights, hf-hub:OWNER/NAME, or timm:NAME, hf:PATH_OR_NAME,
    torchvision:NAME; it may stand without the flag: cpvt demo runs/mine."""
    checkpoint: str | None = None
    """File of weights for an external model, or `random`; by default those that its library publishes."""
    host: str = "127.0.0.1"
    """Address to listen on; the default is seen from this machine only, 0.0.0.0 from the whole network."""
    port: int | None = None
    """Port to listen on; by default the first free one from 7860."""
    browser: bool = False
    """Open the page in the browser."""
    device: str = "auto"

    COMMON: ClassVar[tuple[str, ...]] = ("run", "browser", "port", "host")
    RANGES: ClassVar[Ranges] = {"from 1 to 65535": ("port",)}


@dataclass(frozen=True)
class ExportConfig(Options):
    """Write a trained model as one file that takes images of any size."""

    model: str
    """Folder of a run, a name that comes with weights, hf-hub:OWNER/NAME, or timm:NAME, hf:PATH_OR_NAME,
    torchvision:NAME (with --out)."""
    out: str = ""
    """File to write; its suffix decides the format: .onnx, or .pt2 (torch.export). By default model.onnx or model.pt2
    in the run's folder; for a model by name, NAME.onnx or NAME.pt2 in the current one."""
    format: Literal["onnx", "torch-export"] | None = None
    """The format, if --out does not say it; by default onnx."""
    scale: str | None = None
    """The object scale of the file, how many times larger objects are than in training: fit (size / training size,
    computed from each batch), pixels (1), paper (no scale), a number such as 2.0, or rows x columns as in
    1x2; by default the model's own rule."""
    int8: bool = False
    """Quantise the weights of the .onnx file to int8: about a quarter of its size. Its answers
    are compared with the model's. By default the file is then model-int8.onnx or NAME-int8.onnx."""

    def check(self) -> None:
        super().check()
        if self.scale is not None:
            parse_scale(self.scale)


@dataclass(frozen=True)
class ConvertConfig(Options):
    """Turn the positional convolutions of another model into PEGs."""

    file: str
    """Weights of the model: .safetensors, or a torch file that holds tensors and nothing else."""
    out: str | None = None
    """File to write the PEGs to, .safetensors; by default they are only listed."""
    prefix: str = ""
    """Convert only what is named so; there every depth-wise convolution counts, where no form is known."""
    eps: float | None = None
    """Epsilon of the BatchNorm that is folded, which files do not hold; by default 1e-3 for YOLO, else 1e-5."""

    RANGES: ClassVar[Ranges] = {"above 0": ("eps",)}

    def check(self) -> None:
        super().check()
        if self.out is not None and not self.out.endswith(".safetensors"):
            raise ValueError(f"PEGs are written as .safetensors; got --out {self.out}")


@dataclass(frozen=True)
class ReportConfig(Options):
    """Write the report of one or several folders again."""

    folders: tuple[str, ...]
    """Folders with the rows of `cpvt compare` or `cpvt sweep`; several make one page."""
    out: str | None = None
    """Folder of the page; by default the first folder."""


@dataclass(frozen=True)
class InfoConfig(Options):
    """Describe a trained run: model, training, tests, how it reads images."""

    run: str
    """Folder of a run, a name that comes with weights, or hf-hub:OWNER/NAME."""


@dataclass(frozen=True)
class ListConfig(Options):
    """List the encodings, models, data sets and protocols."""

    markdown: bool = False
    """Print the encodings as a table in Markdown."""
