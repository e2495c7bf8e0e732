"""The loss: label smoothing, mixup, cutmix and distillation from a teacher."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor

from cpvt.adapters import ModelAdapter, logits_of
from cpvt.config import OptimConfig
from cpvt.data import Transform
from cpvt.data.augmentation import seeded

Images = Tensor | list[Tensor]


class LossResult(NamedTuple):
    """Loss, accuracy and logits of a model on some images."""

    loss: Tensor  # mean over the images
    correct: Tensor  # number classified correctly; a mixed image counts for its larger label
    logits: Tensor  # (B, classes), without a gradient; of two heads their mean


class Criterion:
    """Mixes images and labels, and computes the loss against labels and teacher."""

    def __init__(self, recipe: OptimConfig, classes: int, teacher: Teacher | None = None) -> None:
        self.optim, self.teacher = recipe, teacher
        self.mixing: Any = None
        if recipe.mixup or recipe.cutmix:
            self.mixing = Mixup(
                recipe.mixup, recipe.cutmix, prob=recipe.mixup_prob, switch_prob=recipe.mixup_switch_prob,
                label_smoothing=recipe.smoothing, num_classes=classes,
            )  # fmt: skip

    def mix(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Images mixed, the first with the last and so on, and soft labels (B, classes).

        All randomness follows from the seed, so that processes with parts of a batch draw alike. Of an odd number the
        middle image is not mixed. Without mixup or cutmix both are returned unchanged.
        Source: Zhang et al., arXiv 1710.09412 (mixup); Yun et al., arXiv 1905.04899 (cutmix).
        """
        if self.mixing is None:
            return images, labels
        half, count = len(images) // 2, len(images)
        targets = self._smooth(labels)
        outer = torch.cat([torch.arange(half), torch.arange(count - half, count)]).to(images.device)
        if half:
            with seeded(seed, numpy_too=True):
                images[outer], targets[outer] = self.mixing(images[outer], labels[outer])
        return images, targets

    def _smooth(self, labels: Tensor) -> Tensor:
        """Soft labels, smoothed as in timm's Mixup."""
        smoothing, classes = self.optim.smoothing, self.mixing.num_classes
        return F.one_hot(labels, classes) * (1.0 - smoothing) + smoothing / classes

    def __call__(self, output: Any, images: Images, targets: Tensor, larger: Tensor | None = None) -> LossResult:
        """Loss and correct predictions of a model's output; with a teacher, the output is the logits of two heads.

        larger: logits (B, classes) for the same images at the largest training size, to whose probabilities the
        consistency loss, a Kullback-Leibler divergence, draws those of these images. Source of the idea: Tian et al.
        (ResFormer), arXiv 2212.00776, who draw features together.
        """
        hard = targets if targets.ndim == 1 else targets.argmax(1)
        if self.teacher is None:
            logits = logits_of(output)
            loss = self._cross_entropy(logits, targets)
        else:
            first, distilled = output
            labels, alpha = self.teacher(images), self.optim.distillation_alpha
            loss = (1 - alpha) * self._cross_entropy(first, targets) + alpha * F.cross_entropy(distilled, labels)
            logits = (first + distilled) / 2
        if larger is not None and self.optim.consistency:
            loss = loss + self.optim.consistency * F.kl_div(
                logits.log_softmax(1), larger.softmax(1), reduction="batchmean"
            )
        return LossResult(loss, (logits.argmax(1) == hard).sum(), logits.detach())

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.optim.smoothing if targets.ndim == 1 else 0.0  # soft labels are already smoothed
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)


class Teacher:
    """A trained model whose predictions are labels (hard distillation, Touvron et al., arXiv 2012.12877)."""

    def __init__(self, adapter: ModelAdapter, transform: Transform) -> None:
        """transform: of the student's images, which are renormalised for the teacher."""
        own = adapter.transform or transform
        if len(own.mean) != len(transform.mean):
            raise ValueError(
                f"the teacher '{adapter.name}' reads {len(own.mean)} channels, the images have {len(transform.mean)}"
            )
        self.adapter, self.at_sizes = adapter, dict[tuple[int, int], ModelAdapter]()
        values = (own.mean, own.std, transform.mean, transform.std)
        mean, std, student_mean, student_std = (
            torch.tensor(each, dtype=torch.float32)[:, None, None] for each in values
        )
        self.scale, self.shift = student_std / std, (student_mean - mean) / std  # of red, green and blue
        self.orders = (transform.channel_order, own.channel_order)

    def __call__(self, images: Images) -> Tensor:
        """The class that the teacher predicts for each image, (B,)."""
        with torch.inference_mode():
            if isinstance(images, list):
                logits = self.adapter.logits_of_list([self._renormalize(image) for image in images])
            else:
                sides = (images.shape[2], images.shape[3])
                if sides not in self.at_sizes:
                    self.at_sizes[sides] = self.adapter.at_size(sides)
                logits = self.at_sizes[sides].logits(self._renormalize(images))
        return logits.argmax(1).clone()

    def _renormalize(self, images: Tensor) -> Tensor:
        images = images.flip(-3) if self.orders[0] == "BGR" else images
        images = images * self.scale.to(images.device) + self.shift.to(images.device)
        return images.flip(-3) if self.orders[1] == "BGR" else images


def check_teacher(adapter: ModelAdapter, class_names: tuple[str, ...]) -> None:
    """Raise ValueError unless the teacher has the classes of the images."""
    known = adapter.class_names
    if known is not None and known != class_names:
        missing = [name for name in class_names if name not in known]
        how = f"the teacher lacks {', '.join(missing[:5])}" if missing else "their order differs"
        raise ValueError(
            f"the classes of the teacher '{adapter.name}' are not those of the images ({how}): it has {len(known)}, "
            f"they have {len(class_names)}; choose a teacher trained on the same classes"
        )
    if known is None and adapter.channels is not None:
        size = adapter.train_size or 224
        sides = (size, size) if isinstance(size, int) else size
        classes = adapter.logits(torch.zeros(1, adapter.channels, *sides, device=adapter.device)).shape[1]
        if classes != len(class_names):
            raise ValueError(
                f"the teacher '{adapter.name}' has {classes} classes, the images have {len(class_names)}; "
                "choose a teacher trained on the same classes"
            )
