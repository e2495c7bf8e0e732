"""No tensor of tokens x tokens is made, at 1024 pixels or in a list, except a bias, one block at a time."""

import copy
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import cpvt
from cpvt.encodings import TABLE, create_encoding
from cpvt.testing import SHAPE

GRID = 32  # a side of 1024 pixels in patches of 32


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor holds that any operation returned."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return out


def largest(encoding, images):
    """Of a model so narrow that a table of tokens x tokens would be larger than anything else, forward and backward."""
    torch.manual_seed(0)
    model = cpvt.create_model(
        "cpvt_micro", encoding=encoding, patch_size=32, embed_dim=16, num_heads=2, in_chans=1, depth=2, num_classes=5
    )
    with Largest() as seen:
        model(images).sum().backward()
    return seen.numbers


IMAGE = torch.zeros(1, 1, 32 * GRID, 32 * GRID)
LIST = [torch.zeros(1, 32 * GRID, 32 * GRID), torch.zeros(1, 32 * GRID, 32 * (GRID - 1))]


@pytest.mark.parametrize("encoding", [*TABLE, "learned+peg"])
def test_the_largest_tensor_is_the_image_itself(encoding):
    table = (GRID**2) ** 2
    assert IMAGE.numel() == table  # so that one more, for two heads, would be seen
    if {"bias", "query_bias"} & create_encoding(encoding, SHAPE).active_hooks:
        assert 2 * table <= largest(encoding, IMAGE) < 2.1 * table  # two heads of one block; the class token widens it
    else:
        assert largest(encoding, IMAGE) == IMAGE.numel()
        assert largest(encoding, LIST) == IMAGE.numel()


def biases_held(model, images, keep):
    """How many biases of earlier blocks are held when each block begins; `keep` is shown every block's positions."""
    known, held = [], []

    def look(block, inputs):
        positions = inputs[1]
        held.append(sum(bias() is not None for bias in known))
        known.extend(map(weakref.ref, positions.pack.biases if positions.pack else [positions.bias]))
        keep(positions)

    for block in model.blocks:
        block.register_forward_pre_hook(look)
    model(images)
    return held


@pytest.mark.parametrize("images", [torch.randn(1, 1, 8, 12), [torch.randn(1, 8, 12), torch.randn(1, 12, 12)]])
@pytest.mark.parametrize("encoding", ["relative", "relative(shared=True)"])
@pytest.mark.parametrize("training", [False, True])
def test_one_bias_is_held_at_a_time(encoding, images, training):
    model = cpvt.create_model("cpvt_micro", encoding=encoding, in_chans=1, depth=3, num_classes=5)
    model.set_grad_checkpointing(training)
    kept = []
    with torch.set_grad_enabled(training):
        assert biases_held(model, images, keep=lambda positions: None) == [0, 0, 0]
        grids = len(images)
        assert biases_held(copy.deepcopy(model), images, keep=kept.append)[-3:] == [
            0,
            grids,
            2 * grids,
        ]  # would be seen


def test_a_table_of_attention_would_be_seen(monkeypatch):
    from cpvt.models import attention

    def plain(query, key, value, attn_mask=None, scale=None):
        return (query @ key.transpose(-2, -1)).softmax(-1) @ value

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", plain)
    assert largest("peg", IMAGE) > IMAGE.numel()
