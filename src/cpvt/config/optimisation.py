"""How a model is optimised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpvt.config.base import Options, Ranges


@dataclass(frozen=True)
class OptimConfig(Options):
    """How a model is trained; the same for every encoding."""

    epochs: int = 20
    batch_size: int = 32
    """Images that one step learns from, over all processes together."""
    opt: str = "adamw"
    """A name of timm's optimizers."""
    lr: float = 3e-3
    min_lr: float = 1e-5
    warmup_ratio: float = 0.1
    """Fraction of all steps over which the learning rate rises to lr."""
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
    """How training images are varied: 'resized-crop', 'crop' (own scale) or 'none'; by default as fits the data set."""
    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Fraction of the area that a 'resized-crop' shows, from and to."""
    aa: str | None = None
    """timm's words for RandAugment, AutoAugment or AugMix, such as rand-m9-mstd0.5-inc1."""
    color_jitter: float = 0.0
    """How far brightness, contrast and saturation may go; timm, as DeiT, leaves it out where aa is given."""
    reprob: float = 0.0
    """Fraction of the images in which a rectangle is filled with noise."""
    aug_repeats: int = 1
    """Repeated augmentation: how many variations of a image an epoch holds; it holds as many fewer images."""
    mixup: float = 0.0
    """Alpha of mixup: two images are blended, and their labels; 0 is off."""
    cutmix: float = 0.0
    """Alpha of cutmix: a rectangle of one image is laid on another; 0 is off."""
    mixup_prob: float = 1.0
    """Fraction of the steps whose images are mixed."""
    mixup_switch_prob: float = 0.5
    """Fraction of the mixed steps that take cutmix, where mixup is on too."""
    model_ema_decay: float | None = None
    """Decay, a step, of a moving average of the weights, which is then what is kept; by default none."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """In what the model computes (weights stay float32)."""
    distillation_alpha: float = 0.5
    """Fraction of the loss that a teacher's answers have, where there is a teacher."""

    RANGES: ClassVar[Ranges] = {
        "1 or more": ("epochs", "batch_size", "aug_repeats"),
        "0 or more": ("weight_decay", "color_jitter", "mixup", "cutmix"),
        "above 0": ("lr", "clip_grad"),
        "from 0 to 1": ("reprob", "mixup_prob", "mixup_switch_prob", "distillation_alpha"),
        "from 0 to below 1": ("warmup_ratio", "smoothing", "drop_path"),
        "above 0 and at most 1": ("layer_decay", "crop_scale"),
        "above 0 and below 1": ("model_ema_decay",),
    }

    def check(self) -> None:
        super().check()
        for name in ("min_lr", "warmup_lr"):
            rate = getattr(self, name)
            if rate is not None and not 0 <= rate <= self.lr:
                raise ValueError(f"{name} must be from 0 to lr, {self.lr}; got {rate}")
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale must go up, such as 0.35 1.0; got {self.crop_scale}")
