"""The last block computes only the tokens that the head reads, unless somebody else may read the others."""

import pytest
import torch
from torch import nn

import cpvt
from cpvt.encodings import TABLE
from cpvt.models.attention import Attention, Block
from cpvt.models.vit import VisionTransformer


@pytest.fixture
def computed(monkeypatch):
    """Notes how many tokens each block returns."""
    noted, forward = [], Block.forward

    def note(self, x, *arguments):
        y = forward(self, x, *arguments)
        noted.append(y.shape[1])
        return y

    monkeypatch.setattr(Block, "forward", note)
    return noted


def build(**options):
    torch.manual_seed(0)
    options = {
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 2,
        "patch_size": 4,
        "img_size": 16,
        "num_classes": 3,
        **options,
    }
    return cpvt.create_model("cpvt_micro", **options).double()


def whole(model, images, **options):
    """Logits by the features of all tokens."""
    return model.forward_head(model.forward_features(images, **options))


def gradients(model, logits):
    return torch.autograd.grad(logits.square().sum(), list(model.parameters()))


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize("encoding", [*TABLE, "learned+peg", "rope+peg"])
def test_logits_and_gradients_are_those_of_all_tokens(encoding, distilled, computed):
    model = build(
        encoding=encoding, distilled=distilled, attn_temperature=True
    ).eval()  # `rope_dino` jitters in training
    images = torch.randn(3, 3, 20, 13, dtype=torch.float64)
    found, expected = model(images, scale=1.5), whole(model, images, scale=1.5)
    tokens = 5 * 4 + 1 + distilled
    assert computed == [tokens, 1 + distilled, tokens, tokens]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(model, found), gradients(model, expected))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_of_the_last_block_learns(checkpointing):
    model = build(drop_path_rate=0.1).train()
    model.set_grad_checkpointing(checkpointing)
    model(torch.randn(2, 3, 16, 16, dtype=torch.float64)).sum().backward()
    assert all(each.grad is not None for each in model.parameters())


def test_images_of_one_size_in_a_list_are_computed_like_a_batch_and_others_whole(computed):
    model, images = build(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(model(list(images)), model(images))
    assert computed == [17, 1, 17, 1]
    computed.clear()
    model([*images, torch.randn(3, 8, 8, dtype=torch.float64)])
    assert set(computed) == {17 + 17 + 5}


@pytest.mark.parametrize("name", ["blocks.1", "blocks.1.attn", "blocks.1.mlp.act", "norm", "global"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_whoever_hooks_into_the_last_block_gets_all_tokens(name, kind, computed):
    model, images = build(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    if name == "global":
        hook = getattr(nn.modules.module, f"register_module_{kind}_hook")(lambda *inputs: None)
    else:
        hook = getattr(model.get_submodule(name), f"register_{kind}_hook")(lambda *inputs: None)
    model(images)
    hook.remove()
    model(images)
    assert computed == [17, 17, 17, 1]


def test_a_hook_on_an_earlier_block_changes_nothing(computed):
    model = build()
    model.blocks[0].register_forward_hook(lambda *inputs: None)
    model(torch.randn(1, 3, 16, 16, dtype=torch.float64))
    assert computed == [17, 1]


@pytest.mark.parametrize("options", [{"global_pool": "avg"}, {"global_pool": ""}, {"encoding": "peg(at=(1, 2))"}])
def test_heads_and_encodings_that_read_patches_get_them(options, computed):
    model = build(**options)
    model(torch.randn(1, 3, 16, 16, dtype=torch.float64)).sum().backward()
    assert len(set(computed)) == 1
    assert all(each.grad is not None for each in model.parameters())


class Mixing(nn.Module):
    """Each token reads the others."""

    def forward(self, x):
        return x + x.mean(1, keepdim=True)


class OwnAttention(Attention):
    def forward(self, x, positions):
        return super().forward(x, positions)


@pytest.mark.parametrize("name", ["mlp", "norm2", "attn", "norm"])
def test_parts_of_ones_own_read_all_tokens(name):
    model, images = build(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    own = OwnAttention(32, 2).double() if name == "attn" else Mixing()
    setattr(model if name == "norm" else model.blocks[-1], name, own)
    torch.testing.assert_close(model(images), whole(model, images))
    setattr(
        model.blocks[0], "attn" if name == "norm" else name, OwnAttention(32, 2).double() if name == "norm" else own
    )
    torch.testing.assert_close(model(images), whole(model, images))


@pytest.mark.parametrize("name", ["forward_head", "_pool"])
def test_a_head_of_ones_own_reads_all_tokens(name):
    class Own(VisionTransformer):
        pass

    def mean(self, tokens, pre_logits=False):
        return tokens[:, 1:].mean(1) if name == "_pool" else self.head(tokens[:, 1:].mean(1))

    setattr(Own, name, mean)
    model, images = build(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    own = Own(model.config).double()
    torch.testing.assert_close(own(images), own.head(own.forward_features(images)[:, 1:].mean(1)))
    setattr(model, name, mean.__get__(model))
    torch.testing.assert_close(model(images), model.head(model.forward_features(images)[:, 1:].mean(1)))


def test_a_hook_on_the_encoding_sees_all_tokens():
    model, seen = build(encoding="learned"), []
    model.encoding.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    model(torch.randn(1, 3, 16, 16, dtype=torch.float64))
    assert seen == [16, 17, 17]


def test_blocks_are_run_by_a_method_of_the_former_signature():
    class Own(VisionTransformer):
        def run_blocks(self, x, layout, positions, count=None, taken=()):
            return super().run_blocks(x, layout, positions, count, taken)

    model, images = Own(build().config).double(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(images), whole(model, images))


def test_a_block_and_a_method_of_ones_own_are_called_as_ever(computed):
    class Own(Block):
        def forward(self, x, positions):
            return super().forward(x, positions)

    model, images = build(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    model.blocks[1] = Own(32, 2, 4.0, True, 0.0).double()
    model(images)
    model = build()
    features = model.forward_features
    model.forward_features = lambda images, scale=None: 2 * features(images, scale)
    torch.testing.assert_close(model(images), model.head(2 * features(images)[:, 0]))
    assert set(computed) == {17}
