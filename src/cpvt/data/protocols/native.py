"""native: whole images in their own proportions."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cpvt.data.protocols.base import Protocol

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor


class Native(Protocol):
    """Shows whole images, shrunk in proportion where a side exceeds the size; lists, not batches."""

    title = "whole images in their own proportions, longest side at most"
    details = "whole and undistorted; shrunk in proportion where a side is longer than the size"
    stacks = False
    streams = False
    size_is_limit = True

    def show(self, image: Image.Image, generator: np.random.Generator) -> Tensor:
        whole = replace(self.transform, longest_side=self.longest_side).limit(image)
        return self.transform.whole(self.augment(whole, generator))

    @property
    def longest_side(self) -> int | None:
        return max(self.sides)
