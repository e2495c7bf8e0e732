"""What is done with trained models: measured, used, written, drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpvt.config.base import TOKEN_BUDGET, Options, Ranges, Size


@dataclass(frozen=True)
class SweepConfig(Options):
    """Test a model at sizes it was not trained at."""

    model: str
    """Folder that `cpvt train` wrote, a name that comes with weights (cpvt_mini_peg5_gap), or timm:NAME, hf:PATH_OR_NAME,
    torchvision:NAME (options of its own in brackets)."""
    checkpoint: str | None = None
    """File with weights for a model of another library; by default those that the library publishes."""
    out: str | None = None
    """Folder to which the rows go; by default the run's, or runs/sweep. Rows of several models make one report."""
    protocols: tuple[str, ...] = ("resize",)
    """One or several of resize (same image, more pixels: objects grow), canvas (objects keep their pixels, the field of preprocessing grows) or
    native (whole images in their own proportions; a size is the longest side allowed)."""
    sizes: tuple[Size, ...] = ()
    """Sides in pixels, or HEIGHTxWIDTH; by default half to three times the training size."""
    data: str | None = None
    """Another data set than the run's own, with the same classes; for a model of another library it must be given."""
    data_dir: str | None = None
    img_size: Size | None = None
    """Side of the images a model of another library was trained on, where the model does not say."""
    crop_pct: float | None = None
    interpolation: str | None = None
    """By default the model's own, or bicubic."""
    mean: tuple[float, ...] = ()
    """By which images are normalised, of values from 0 to 1, a number per channel; by default the model's own."""
    std: tuple[float, ...] = ()
    on_bad_image: Literal["error", "skip"] = "error"
    longest_side: int | None = None
    """Larger images are shrunk to it before they are laid on a canvas, and it is said; by default as in training."""
    batch_size: int = 64
    token_budget: int = TOKEN_BUDGET
    """Under native: patches that go through the model at a time."""
    workers: int = 0
    """Processes that read images beside the one that tests."""
    device: str = "auto"

    RANGES: ClassVar[Ranges] = {"1 or more": ("img_size", "longest_side", "batch_size", "token_budget")}


@dataclass(frozen=True)
class ProbeConfig(Options):
    """Measure what a model knows of positions, beside its untrained baseline and itself with the encoding off."""

    model: str
    """Folder that `cpvt train` wrote, a name that comes with weights (cpvt_mini_peg5_gap), or timm:NAME, hf:PATH_OR_NAME,
    torchvision:NAME (options of its own in brackets)."""
    checkpoint: str | None = None
    """File with weights for a model of another library; by default those that the library publishes."""
    out: str = "runs/probe"
    """Folder to which the probe_results are added; those of several models make one page."""
    probes: tuple[str, ...] = ()
    """order, translation, position, longer, islam, attention; by default all."""
    sizes: tuple[Size, ...] = ()
    """Larger sizes for `longer`; by default one and a half, two and three times the training size."""
    data: str = "digits"
    """'digits', a folder with train/ and test/ (or val/), or a name of timm's dataset factory such as torch/cifar10."""
    data_dir: str | None = None
    images: int = 256
    """How many are shown."""
    img_size: Size | None = None
    """Side of the images the model was trained on, where it does not say."""
    seed: int = 0
    on_bad_image: Literal["error", "skip"] = "error"
    token_budget: int = TOKEN_BUDGET
    """Patches that go through the model at a time."""
    device: str = "auto"

    RANGES: ClassVar[Ranges] = {"1 or more": ("images", "img_size", "token_budget"), "0 or more": ("seed",)}


@dataclass(frozen=True)
class PredictConfig(Options):
    """Name what images show, each at its own size."""

    images: tuple[str, ...]
    """Image files. The first name may be that of the model: a folder that `cpvt train` wrote, or a model that comes with
    weights; by default cpvt_mini_peg5_gap, which knows the ten classes of CIFAR-10."""
    top: int = 5
    longest_side: int | None = None
    """Images with a longer side are shrunk to it first, and it is said; by default four times the training size."""
    on_bad_image: Literal["error", "skip"] = "error"
    token_budget: int = TOKEN_BUDGET
    """Patches that go through the model at a time; every image gets what it would get alone."""
    device: str = "auto"

    RANGES: ClassVar[Ranges] = {"1 or more": ("top", "longest_side", "token_budget")}


@dataclass(frozen=True)
class ExportConfig(Options):
    """Write a trained model as one file that takes images of any size."""

    model: str
    """Folder that `cpvt train` wrote, or the name of a model that comes with weights."""
    out: str = ""
    """File to write; its suffix decides the format: .onnx, or .pt2 (torch.export). By default model.onnx in the run's
    folder (NAME.onnx here for a model by name), or .pt2."""
    format: Literal["onnx", "torch-export"] | None = None
    """Which of the two, where --out does not say it."""


@dataclass(frozen=True)
class ReportConfig(Options):
    """Draw the page of a comparison, or of any rows, again."""

    folders: tuple[str, ...]
    """Folder that `cpvt compare` or `cpvt sweep` wrote rows to; several make one page."""
    out: str | None = None
    """Folder of the page; by default the first of the folders."""


@dataclass(frozen=True)
class ListConfig(Options):
    """Name the encodings, models and data sets there are."""

    markdown: bool = False
    """Print the table of encodings as the README holds it."""
