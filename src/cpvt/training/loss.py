"""The loss: labels smoothed or mixed (mixup, cutmix), and a teacher's answers (distillation)."""

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
    """How a model did on some images."""

    loss: Tensor  # mean over them
    correct: Tensor  # how many were named right; of mixed images, the one that shows more


class Criterion:
    """Mixes images and labels, and measures a model's output against labels and teacher."""

    def __init__(self, recipe: OptimConfig, classes: int, teacher: Teacher | None = None) -> None:
        self.optim, self.teacher = recipe, teacher
        self.mixing: Any = None
        if recipe.mixup or recipe.cutmix:
            self.mixing = Mixup(
                recipe.mixup, recipe.cutmix, prob=recipe.mixup_prob, switch_prob=recipe.mixup_switch_prob,
                label_smoothing=recipe.smoothing, num_classes=classes,
            )  # fmt: skip

    def mix(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Images blended, the first with the last and so on, and labels as shares of classes (B, classes).

        All that is random follows from the seed, so that processes that hold parts of a batch draw alike; of an odd
        number the image in the middle stays as it is. Without mixup or cutmix both come back untouched.
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
        """Labels as shares of classes, smoothed as timm's mixing smooths them."""
        smoothing, classes = self.optim.smoothing, self.mixing.num_classes
        return F.one_hot(labels, classes) * (1.0 - smoothing) + smoothing / classes

    def __call__(self, output: Any, images: Images, targets: Tensor) -> LossResult:
        """Loss and number of right answers of a model's output; of a distilled model its two heads' logits."""
        hard = targets if targets.ndim == 1 else targets.argmax(1)
        if self.teacher is None:
            logits = logits_of(output)
            return LossResult(self._cross_entropy(logits, targets), (logits.argmax(1) == hard).sum())
        logits, distilled = output
        labels, share = self.teacher(images), self.optim.distillation_alpha
        loss = (1 - share) * self._cross_entropy(logits, targets) + share * F.cross_entropy(distilled, labels)
        return LossResult(loss, ((logits + distilled).argmax(1) == hard).sum())

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.optim.smoothing if targets.ndim == 1 else 0.0  # mixed ones are smoothed already
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)


class Teacher:
    """A trained model whose answers another learns from (hard distillation, Touvron et al., arXiv 2012.12877)."""

    def __init__(self, adapter: ModelAdapter, transform: Transform) -> None:
        """transform: how the student's images were normalised; the teacher sees them in its own way."""
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
        self.scale, self.shift = student_std / std, (student_mean - mean) / std

    def __call__(self, images: Images) -> Tensor:
        """The class that the teacher names for each image, (B,)."""
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
        return images * self.scale.to(images.device) + self.shift.to(images.device)


def check_teacher(adapter: ModelAdapter, class_names: tuple[str, ...]) -> None:
    """Raise ValueError for a teacher whose classes are not those of the images."""
    known = adapter.class_names
    if known is not None and known != class_names:
        missing = [name for name in class_names if name not in known]
        how = f"the teacher lacks {', '.join(missing[:5])}" if missing else "they stand in another order"
        raise ValueError(
            f"the classes of the teacher '{adapter.name}' are not those of the images ({how}): it has {len(known)}, "
            f"they have {len(class_names)}; a teacher must have been trained on the same classes"
        )
    if known is None and adapter.channels is not None:
        size = adapter.train_size or 224
        sides = (size, size) if isinstance(size, int) else size
        classes = adapter.logits(torch.zeros(1, adapter.channels, *sides, device=adapter.device)).shape[1]
        if classes != len(class_names):
            raise ValueError(
                f"the teacher '{adapter.name}' tells {classes} classes apart, the images have {len(class_names)}; "
                "a teacher must have been trained on the same classes"
            )
