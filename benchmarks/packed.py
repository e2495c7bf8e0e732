"""A list of images of many sizes: packed, in a loop, grouped by grid, and padded with a mask (timm's NaFlex ViT)."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.data.naflex_transforms import patchify_image
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from torch import Tensor

import cpvt
from benchmarks.measuring import Figure, alternate, mark_memory, peak_memory, ratio
from cpvt.models.linear import plain_linear
from cpvt.models.packing import pad_to_patches
from cpvt.models.sizes import model_config

MODEL, IMAGES, SIDES = "cpvt_small", 64, (96, 320)
MODES = {"forward": False, "forward + backward": True}
Contender = Callable[[], Tensor]


def run(rounds: int) -> Iterator[Figure]:
    """Yield the figures of `python -m benchmarks --only packed`."""
    images = draw(IMAGES, SIDES)
    contenders = {**_ours(images), **_padded(images)}
    with torch.no_grad():
        alone = contenders["loop"]()
        for name in ("packed", "grouped"):
            torch.testing.assert_close(contenders[name](), alone, atol=1e-4, rtol=1e-4)
    shape = model_config(MODEL)
    what = f"{IMAGES} images with sides of {SIDES[0]}-{SIDES[1]}, width {shape.embed_dim}, {shape.depth} blocks"
    for mode, backward in MODES.items():
        forms: dict[str, Callable[[], None]] = {
            name: functools.partial(_work, form, backward) for name, form in contenders.items()
        }
        forms["packed, nn.Linear"] = plain_linear()(forms["packed"])
        seconds = alternate(forms, max(5, rounds // 3), warm_up=1)
        best = [min(pair) for pair in zip(seconds["loop"], seconds["grouped"])]
        yield ratio(f"{what}, {mode}: time of the better of loop and groups / packed", best, seconds["packed"])
        for name in ("loop", "grouped", "padded"):
            yield ratio(f"{what}, {mode}: time {name} / packed", seconds[name], seconds["packed"])
        alike = f"{what}, {mode}: time padded / packed, nn.Linear in both"
        yield ratio(alike, seconds["padded"], seconds["packed, nn.Linear"])
    for mode, backward in MODES.items():
        for name in contenders:
            yield Figure(
                f"{what}, {mode}: peak {name}",
                round(peak_memory(_once, name, backward, IMAGES, SIDES) / 2**20),
                "MiB",
            )


def draw(count: int, sides: tuple[int, int]) -> list[Tensor]:
    """Images with sides in a range, the same in every call."""
    choose, generator = random.Random(0), torch.Generator().manual_seed(0)
    sizes = [(choose.randint(*sides), choose.randint(*sides)) for _ in range(count)]
    return [torch.randn(3, *size, generator=generator) for size in sizes]


def _ours(images: list[Tensor]) -> dict[str, Contender]:
    model = cpvt.create_model(MODEL)
    groups: dict[tuple[int, int], list[int]] = {}
    for number, image in enumerate(images):
        groups.setdefault(model.patch_embed.dynamic_feat_size(image.shape[1:]), []).append(number)
    order = torch.tensor([number for group in groups.values() for number in group]).argsort()

    def grouped() -> Tensor:
        padded = pad_to_patches(images, model.config, images[0].dtype)
        batches = (torch.stack([padded[number] for number in group]) for group in groups.values())
        return torch.cat([model(batch) for batch in batches])[order]

    return {
        "packed": lambda: model(images),
        "loop": lambda: torch.cat([model(image[None]) for image in images]),
        "grouped": grouped,
    }


def _padded(images: list[Tensor]) -> dict[str, Contender]:
    """timm's model for many sizes; patches are padded to the longest image beforehand (not timed)."""
    shape = model_config(MODEL)
    patch = (shape.patch_size, shape.patch_size)
    parts: list[dict[str, Any]] = [
        dict(zip(("patches", "patch_coord", "patch_valid"), patchify_image(image, patch))) for image in images
    ]
    longest = max(part["patches"].shape[0] for part in parts)
    batch = {key: torch.stack([_lengthen(part[key], longest) for part in parts]) for key in parts[0]}
    settings = NaFlexVitCfg(
        patch_size=shape.patch_size, embed_dim=shape.embed_dim, depth=shape.depth, num_heads=shape.num_heads,
        class_token=True, global_pool="token", pos_embed_grid_size=(14, 14),
        use_key_only_attn_mask=True,  # the smaller of its two masks
    )  # fmt: skip
    return {"padded": functools.partial(NaFlexVit(settings, num_classes=1000), batch)}


def _lengthen(tensor: Tensor, length: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(length - tensor.shape[0], *tensor.shape[1:])])


def _work(form: Contender, backward: bool) -> None:
    if backward:
        form().sum().backward()
    else:
        with torch.no_grad():
            form()


def _once(name: str, backward: bool, count: int, sides: tuple[int, int]) -> None:
    images = draw(count, sides)
    form = (_padded if name == "padded" else _ours)(images)[name]
    mark_memory()
    _work(form, backward)
