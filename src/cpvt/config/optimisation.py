"""Options of the optimisation: schedule, augmentation, regularisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cpvt.config.base import Default, Options, Precision, Ranges


@dataclass(frozen=True)
class OptimConfig(Options):
    """How a model is trained: the same for every encoding."""

    epochs: int = Default(20)
    """Passes over the training images."""
    batch_size: int = 32
    """Images in one step, over all processes."""
    opt: str = "adamw"
    """Name of an optimizer of timm."""
    lr: float = 3e-3
    """Learning rate to which the warmup rises, for the whole batch; then it follows a cosine counted from step 0, which
    is a little below by then."""
    min_lr: float = 1e-5
    """Learning rate at the end."""
    warmup_ratio: float = 0.1
    """Fraction of all steps in which the learning rate rises to lr."""
    warmup_lr: float | None = None
    """Learning rate at the first step; by default min_lr."""
    weight_decay: float = 0.05
    """Of the weights of linear layers and convolutions; biases, norms, PEGs and tokens have none."""
    layer_decay: float | None = None
    """Factor from the learning rate of a layer to that of the layer below; by default 1."""
    clip_grad: float | None = None
    """Largest norm of the gradient; by default unlimited."""
    smoothing: float = 0.1
    """Label smoothing: probability that is spread over the other classes."""
    drop_path: float = 0.0
    """Stochastic depth: probability that the last block is skipped for an image; it rises from 0 over the blocks."""
    augment: str | None = None
    """'resized-crop', 'crop' (without a change of scale), 'native' (whole images in their own proportions) or 'none';
    by default the data set's."""
    crop_scale: tuple[float, float] = (0.35, 1.0)
    """Smallest and largest fraction of the area that a 'resized-crop' shows."""
    hflip: float | None = None
    """Probability that a training image is mirrored, which ruins signs, text, and left from right; by default 0.5, and
    0 under the augmentation 'none'."""
    aa: str | None = None
    """RandAugment, AutoAugment or AugMix in timm's notation, such as rand-m9-mstd0.5-inc1."""
    color_jitter: float = 0.0
    """Strength of the jitter of brightness, contrast and saturation; not applied with aa, as in timm and DeiT."""
    reprob: float = 0.0
    """Random erasing: probability that a rectangle of an image is replaced by noise."""
    aug_repeats: int = 1
    """Repeated augmentation: each image is augmented this often in an epoch, which holds fewer distinct images."""
    mixup: float = 0.0
    """Alpha of mixup, which blends two images and their labels; 0: off."""
    cutmix: float = 0.0
    """Alpha of cutmix, which pastes a rectangle of one image into another; 0: off."""
    mixup_prob: float = 1.0
    """Probability of mixing the images of a step."""
    mixup_switch_prob: float = 0.5
    """Probability of cutmix in a mixed step, if both are on."""
    model_ema_decay: float | None = None
    """Decay per step of a moving average of the weights, which is saved as the model; by default none."""
    sizes_per_step: Literal["one", "all"] = "one"
    """What a step shows of train_sizes: one size, drawn anew, or each of its images at all sizes."""
    consistency: float = 0.0
    """Weight of a loss that draws an image's prediction at the smaller training sizes to that at the largest; needs
    sizes_per_step all."""
    precision: Precision = "fp32"
    """Precision of the forward and backward pass; weights stay float32."""
    distillation_alpha: float = 0.5
    """Fraction of the teacher's term in the loss, if there is a teacher."""

    RANGES: ClassVar[Ranges] = {
        "1 or more": ("epochs", "batch_size", "aug_repeats"),
        "0 or more": ("weight_decay", "color_jitter", "mixup", "cutmix", "consistency"),
        "above 0": ("lr", "clip_grad"),
        "from 0 to 1": ("hflip", "reprob", "mixup_prob", "mixup_switch_prob", "distillation_alpha"),
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
