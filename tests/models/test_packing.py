"""A list of images of several sizes gets what each image would get alone: outputs and every gradient."""

from itertools import pairwise

import accelerate
import pytest
import torch

import cpvt
from cpvt.encodings import TABLE
from cpvt.models import attention, packing

# equal sizes apart from each other, equal counts on other grids, sizes the patch does not divide, one patch, one row
SIZES = [(24, 16), (33, 50), (8, 8), (16, 24), (24, 16), (9, 70), (13, 18), (40, 40), (16, 20), (24, 16)]
ENCODINGS = [
    *TABLE, "learned+peg", "relative+rope", "peg5+relative(shared=True)", "peg(at=(0, 1, 2), padding_mode='replicate')",
]  # fmt: skip
POOLS = ["token", "avg", ""]


def build(encoding="peg", pool="token", **options):
    torch.manual_seed(0)
    model = cpvt.create_model(
        "cpvt_micro", encoding=encoding, global_pool=pool, depth=3, num_classes=5, patch_size=8, img_size=32, **options
    )
    with torch.no_grad():
        for parameter in model.parameters():  # so that a token seen wrongly is seen in the logits
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def draw(sizes=SIZES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator).to(dtype) for size in sizes]


def gradients(model, images, outputs):
    seed = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(2)).to(outputs)
    named = {**dict(model.named_parameters()), **{f"image {i}": image for i, image in enumerate(images)}}
    return dict(zip(named, torch.autograd.grad(outputs, list(named.values()), seed)))


def unread_by_the_class_token(model):
    """Parameters of what patches alone get in the last block, of which the class token alone is read."""
    encoding = model.encoding
    parts = encoding.encodings() if hasattr(encoding, "encodings") else [encoding]
    idle = [bool({"bias", "query_bias", "value_encoding"} & part.active_hooks) for part in parts]
    last = [name for name, depth in encoding.layers().items() if depth == len(model.blocks)]
    numbers = [int(name.split(".")[1]) if len(parts) > 1 else 0 for name in last]
    return tuple(f"encoding.{name}" for name, number in zip(last, numbers) if idle[number])


def check_equals_alone(model, sizes=SIZES, tolerance=1e-5):
    if any(parameter.ndim == 0 for parameter in model.encoding.parameters()):  # gradients of sums that cancel
        model, tolerance = model.double(), 1e-10
    images = [image.requires_grad_() for image in draw(sizes, model.head.weight.dtype)]
    join = torch.cat if model.config.global_pool else lambda each: torch.cat([logits[0] for logits in each])
    alone = join([model(image[None]) for image in images])
    together = model(images)
    assert together.shape == alone.shape
    assert alone.abs().max() > 0.5
    assert (together - alone).abs().max() < tolerance * alone.abs().max()
    expected = gradients(model, images, alone)
    unread = unread_by_the_class_token(model) if model.config.global_pool == "token" else ()
    for name, gradient in gradients(model, images, together).items():
        largest = expected[name].abs().max()
        assert (largest == 0) == name.startswith(unread), name
        assert (gradient - expected[name]).abs().max() <= tolerance * largest, name


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_list_gets_what_each_image_gets_alone(encoding, pool):
    check_equals_alone(build(encoding, pool))


@pytest.mark.parametrize("encoding", ["peg", "relative", "learned+peg"])
def test_a_list_cut_into_several_packs_gets_the_same(encoding, monkeypatch):
    monkeypatch.setattr(packing, "PACK_ON_CPU", 64 * 20)
    model = build(encoding)
    shapes = [torch.Size((3, -(-h // 8) * 8, -(-w // 8) * 8)) for h, w in SIZES]
    packs = packing.plan_packs(shapes, model.config, torch.device("cpu"))
    assert len(packs) > 3
    assert sorted(number for pack in packs for number in pack) == list(range(len(SIZES)))
    check_equals_alone(model)


def test_features_come_back_in_the_order_of_the_list():
    model = build()
    features = model.forward_features(draw())
    for image, tokens in zip(draw(), features):
        torch.testing.assert_close(tokens, model.forward_features(image[None])[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.forward_head(features), model(draw()))


def test_images_of_one_size_take_the_plain_path(monkeypatch):
    model = build()
    images = draw([(24, 40)] * 3)
    expected = model(torch.stack(images))
    monkeypatch.setattr(attention, "PackedBatch", None)  # not a pack, or this raises
    assert torch.equal(model(images), expected)
    assert torch.equal(model(images[:1]), model(images[0][None]))
    assert torch.equal(model(tuple(images)), expected)
    with pytest.raises(TypeError):
        model(draw())


def test_one_image_does_not_see_another():
    model = build("peg5+relative")
    images = draw()
    before = model(images)
    images[3] = images[3] + 1
    changed = (model(images) - before).abs().amax(1) > 1e-6
    assert changed.tolist() == [number == 3 for number in range(len(SIZES))]


@pytest.mark.parametrize("encoding", ["peg", "rope", "relative", "learned"])
def test_autocast_and_bfloat16_stay_close_to_float32(encoding):
    model = build(encoding)
    expected = model(draw())
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = model(draw())
        under_autocast.float().square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    low = build(encoding).to(torch.bfloat16)(draw(dtype=torch.bfloat16))
    assert low.dtype == torch.bfloat16
    for logits in (under_autocast, low):
        assert (logits.float() - expected).norm() < 0.05 * expected.norm()


def test_drop_path_is_drawn_once_per_image():
    drop = attention.DropPath(0.5)
    model = build()
    images = sorted(draw(), key=lambda image: image.numel())
    _, layout, positions = model._embed_list(images, ["fit"] * len(images))
    torch.manual_seed(0)
    drawn = drop(torch.ones(1, sum(layout.lengths), 4), positions.pack)[0].split(layout.lengths)
    scales = [float(tokens[0, 0]) for tokens in drawn]
    assert all(bool((tokens == scale).all()) for tokens, scale in zip(drawn, scales))
    assert set(scales) == {0.0, 2.0}  # dropped, or scaled up to keep the mean


def test_drop_path_of_a_batch_is_timms():
    import timm.layers

    x = torch.randn(6, 5, 4)
    torch.manual_seed(3)
    expected = timm.layers.drop_path(x, 0.3, training=True)
    torch.manual_seed(3)
    assert torch.equal(attention.DropPath(0.3)(x), expected)
    assert torch.equal(attention.DropPath(0.3).eval()(x), x)


def test_a_list_trains_with_drop_path():
    model = build(drop_path_rate=0.5).train()
    torch.manual_seed(0)
    assert not torch.equal(model(draw()), model(draw()))
    model(draw()).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


LISTS = [SIZES[:3], SIZES[2:7], SIZES, SIZES[5:], [(24, 80), (80, 24), (16, 8)], SIZES[1:6] * 2]


def compile_blocks(model):
    """Compile every block; graphs come into the list that is returned."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for block in model.blocks:
        block.compile(backend=count)
    return graphs


def test_compiled_blocks_serve_all_lists():
    model = build("peg+relative")
    expected = [model(draw(sizes)) for sizes in LISTS]
    graphs, made = compile_blocks(model), []
    with torch.no_grad():
        for sizes, logits in zip(LISTS, expected):
            torch.testing.assert_close(model(draw(sizes)), logits, atol=1e-5, rtol=1e-4)
            made.append(len(graphs))
    assert 0 < made[0] <= 5  # the parts of a block around attention, which is no graph's matter
    assert made[1] <= 3 * made[0]
    assert made[-1] == made[1]  # what the first two lists made serves all others


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler looks at it itself
def test_compiled_blocks_train_on_all_lists():
    model, plain = build("peg+relative"), build("peg+relative")
    graphs, made = compile_blocks(model), []
    for sizes in LISTS:
        for each in (model, plain):
            each.zero_grad()
            each(draw(sizes)).square().sum().backward()
        for ours, truth in zip(model.parameters(), plain.parameters()):
            torch.testing.assert_close(ours.grad, truth.grad, atol=1e-4, rtol=1e-3)
        made.append(len(graphs))
    assert made[-1] == made[1] > 0
    model.blocks[2].drop_path.drop_prob = 0.5
    model.train()
    assert not torch.equal(model(draw()), model(draw()))


def test_the_kernel_for_varying_lengths_is_given_what_it_asks_for(monkeypatch):
    """The kernel itself needs a GPU; here its place is taken by the loop that it stands for."""
    from torch.nn.attention import varlen

    def loop(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
        assert query.shape == key.shape == value.shape == (int(cu_seq_q[-1]), 4, 16)
        assert cu_seq_q.dtype == torch.int32
        assert max_q == max_k == int(cu_seq_q.diff().max())
        parts = []
        for start, end in pairwise(cu_seq_q.tolist()):
            heads = (x[start:end].transpose(0, 1) for x in (query, key, value))
            parts.append(torch.nn.functional.scaled_dot_product_attention(*heads).transpose(0, 1))
        return torch.cat(parts)

    model = build("rope")
    expected = model(draw())
    monkeypatch.setattr(varlen, "varlen_attn", loop)
    monkeypatch.setattr(attention, "_takes_varying_lengths", lambda query: True)
    monkeypatch.setattr(attention, "_attend", None)
    torch.testing.assert_close(model(draw()), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], r"at least one image \(3, H, W\); got an empty list"),
        ([torch.zeros(3, 16, 16), torch.zeros(1, 16, 16)], r"shape \(3, H, W\); number 1 has \(1, 16, 16\)"),
        ([torch.zeros(3, 16, 16), torch.zeros(3, 16, 16).numpy()], r"needs tensors \(3, H, W\); number 1 is ndarray"),
        (iter([torch.zeros(3, 16, 16)]), r"\(B, 3, H, W\), or a list of images; got list_iterator"),
        ([torch.zeros(1, 3, 16, 16)], r"shape \(3, H, W\); number 0 has \(1, 3, 16, 16\)"),
        ([torch.zeros(3, 16, 16), torch.zeros(3, 40, 7)], "40x7 pixels is smaller than a patch; the smallest .* 8x8"),
        ([torch.zeros(3, 16, 16), torch.zeros(3, 16, 16).double()], "one dtype; got torch.float32 and torch.float64"),
        ([torch.zeros(3, 16, 16), torch.zeros(3, 16, 16, device="meta")], "one device; got cpu and meta"),
        (torch.zeros(2, 3, 7, 16), "7x16 pixels is smaller than a patch; the smallest size of this model is 8x8"),
    ],
)
def test_images_that_cannot_be(images, words):
    with pytest.raises(ValueError, match=words):
        build()(images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("encoding", ["peg", "rope", "relative", "learned+peg5"])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_list_on_a_gpu_gets_what_each_image_gets_alone(encoding, autocast):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = build(encoding).cuda()
    found = []
    for form in (
        lambda images: model(images),
        lambda images: torch.cat([model(each[None]) for each in images]),
    ):
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            logits = form([image.cuda() for image in draw()])
        logits.float().square().sum().backward()
        found.append([logits.float(), *(parameter.grad for parameter in model.parameters())])
    tolerance = 0.05 if autocast else 1e-4
    for ours, alone in zip(*found):
        assert (ours - alone).norm() <= tolerance * alone.norm()


class OnlyLarge(cpvt.PositionalEncoding):
    """Returns nothing for small grids."""

    def __init__(self, shape):
        super().__init__()

    def bias(self, grid, depth):
        return torch.zeros(4, grid[0] * grid[1], grid[0] * grid[1]) if grid[0] > 3 else None

    def value_encoding(self, value, grid, depth):
        return value if grid[0] > 3 else None


def test_a_hook_that_answers_for_some_images_of_a_list_alone_is_refused():
    model = build(OnlyLarge)
    assert model(draw([(16, 24), (24, 16)])).shape == (2, 5)  # nothing for either
    with pytest.raises(ValueError, match="'bias' must return tensors for all grids of a list, or None for all"):
        model(draw([(16, 24), (40, 16)]))


@pytest.mark.parametrize("encoding", ["peg", "lepe", "learned+peg", "cpb"])
def test_weights_that_accelerate_keeps_elsewhere_are_read(encoding):
    model = cpvt.create_model("cpvt_micro", encoding=encoding, num_classes=3, img_size=32).eval()
    images = [torch.randn(3, 32, 32), torch.randn(3, 32, 48)]
    with torch.no_grad():
        expected = [model(images[1][None]), model(images)]
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        found = [model(images[1][None]), model(images)]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("encoding", ["relative", "irpe", "fire", "rope_mixed", "peg(kernel_size=(3, 5))"])
def test_weights_kept_elsewhere_that_no_forward_reads_are_refused(encoding):
    model = cpvt.create_model("cpvt_micro", encoding=encoding, num_classes=3, img_size=32).eval()
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with torch.no_grad(), pytest.raises(ValueError, match="keep model.encoding out of what is offloaded"):
        model(torch.randn(1, 3, 32, 32))


def test_a_hook_on_a_peg_sees_each_image_of_a_list():
    model, seen = cpvt.create_model("cpvt_micro", encoding="peg", num_classes=3, img_size=32).eval(), []
    images = [torch.randn(3, 32, 32), torch.randn(3, 32, 48)]
    expected = model(images)
    model.encoding.peg["1"].register_forward_hook(lambda layer, given, tokens: seen.append(tokens.shape[1]))
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-4)
    assert seen == [1 + 64, 1 + 96]
