"""A model that is told how much larger objects are than in training."""

import math
from inspect import signature

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cpvt
from cpvt.encodings import TABLE, ModelShape, create_encoding, find_builder
from cpvt.grids import Layout

OBJECT = "(coordinates='object')"
ENCODINGS = [
    *(f"{name}{OBJECT}" if "coordinates" in signature(find_builder(name)).parameters else name for name in TABLE),
    "rope+peg", f"learned{OBJECT}+peg",
]  # fmt: skip
PATCH = 4


def build(encoding="peg", **options):
    torch.manual_seed(0)
    options = {"global_pool": "avg", "img_size": (16, 24), "depth": 3, "num_classes": 5, **options}
    model = cpvt.create_model("cpvt_micro", encoding=encoding, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.double()


def draw(height, width, count=2, seed=1):
    return torch.randn(count, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def repeat_patches(images, down, across):
    """The images with every patch repeated, so that each token has down x across copies."""
    b, c, h, w = images.shape
    patches = images.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH)
    patches = patches.repeat_interleave(down, 2).repeat_interleave(across, 4)
    return patches.reshape(b, c, h * down, w * across)


@pytest.mark.parametrize(
    "encoding", ["none", "lepe", "peg", "peg5", "peg(kernel_size=(5, 3), padding_mode='replicate')"]
)
@pytest.mark.parametrize(("down", "across"), [(2, 2), (3, 3), (1, 3)])
def test_copies_of_every_token_change_no_answer_at_their_scale(encoding, down, across):
    model, images = build(encoding), draw(16, 24)
    truth, copies = model(images), repeat_patches(images, down, across)
    torch.testing.assert_close(model(copies, scale=(down, across)), truth, rtol=0, atol=1e-12)
    if encoding != "none":
        assert (model(copies, scale="paper") - truth).abs().max() > 0.01


@pytest.mark.parametrize("encoding", [*ENCODINGS, "alibi(use_scale=True)", "lookhere(use_scale=True)"])
def test_what_is_told_matters_to_every_encoding_that_knows_places(encoding):
    model, images = build(encoding), draw(32, 48)
    answers = [model(images, scale=scale) for scale in (1.0, 1.5, 2.0, (1.0, 2.0))]
    different = [(a - b).abs().max() > 1e-3 for i, a in enumerate(answers) for b in answers[:i]]
    assert all(different)  # of `none`, only the temperature of attention is told
    cold = build(encoding, attn_temperature=False)
    told = encoding not in ("none", "alibi", "lookhere")  # the last two count distances in tokens, as published
    assert ((cold(images, scale=2.0) - cold(images, scale=1.0)).abs().max() > 1e-3) == told


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_at_the_training_size_every_rule_gives_the_same_bits(encoding):
    model, images = build(encoding).float(), draw(16, 24).float()
    truth = model(images, scale="paper")
    for scale in ("pixels", "fit", 1, 1.0, (1, 1), None):
        assert torch.equal(model(images, scale=scale), truth)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_fit_is_the_ratio_of_the_grids_along_each_axis(encoding):
    model, images = build(encoding), draw(40, 72)
    torch.testing.assert_close(model(images, scale="fit"), model(images, scale=(2.5, 3.0)))
    torch.testing.assert_close(model(images, scale="fit*0.5"), model(images, scale=(1.25, 1.5)))
    torch.testing.assert_close(model(images, scale="pixels"), model(images, scale=1.0))


@pytest.mark.parametrize("encoding", ["learned", "sincos", "rope"])
def test_places_that_are_told_fit_as_places_that_are_spread_and_are_raw_at_scale_one(encoding):
    told, before = build(encoding + OBJECT), build(encoding, attn_temperature=False)
    for size in ((24, 64), (8, 12)):
        torch.testing.assert_close(told(draw(*size), scale="fit"), before(draw(*size)), rtol=0, atol=1e-5)
    raw = build(f"{encoding}(coordinates='raw')", attn_temperature=False)
    cold = build(encoding + OBJECT, attn_temperature=False)
    torch.testing.assert_close(cold(draw(24, 64), scale=1), raw(draw(24, 64)), rtol=0, atol=1e-5)


def test_objects_smaller_than_in_training_leave_peg_and_attention_alone():
    model, images = build("peg"), draw(8, 12)
    assert torch.equal(model(images, scale="fit"), model(images, scale="paper"))


def attention_by_hand(attention, x, factor):
    """The attention of a block in plain products, its logits times a factor."""
    query, key, value = attention.qkv(x).unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    logits = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]) * factor
    return attention.proj((logits.softmax(-1) @ value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("scale", ["pixels", 1.5, (1.0, 2.0), "fit", "fit*0.8"])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_logits_are_multiplied_by_the_ratio_of_logarithms(scale, pool):
    model = build("none", global_pool=pool)
    images, prefix = draw(32, 40), model.num_prefix_tokens
    rows, columns = {"pixels": (1, 1), "fit": (2, 10 / 6), "fit*0.8": (1.6, 8 / 6), 1.5: (1.5, 1.5)}.get(scale, scale)
    factor = max(1.0, math.log(80 / (rows * columns)) / math.log(24))  # 8 x 10 tokens now, 4 x 6 in training
    x, layout, positions = model.embed(images, scale)
    block = model.blocks[0].attn
    by_hand = attention_by_hand(block, x, factor)
    torch.testing.assert_close(block(x, positions), by_hand)
    weights = block.weights(x, positions)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, prefix + 80, dtype=torch.float64))
    query, key, _, _ = block._heads(x, positions)
    torch.testing.assert_close(weights, (query @ key.mT / math.sqrt(query.shape[-1]) * factor).softmax(-1))
    assert layout.groups[0].scale == pytest.approx((rows, columns))


def test_the_temperature_is_never_below_one():
    model, cold = build("none"), build("none", attn_temperature=False)
    assert torch.equal(model(draw(8, 8)), cold(draw(8, 8)))
    assert torch.equal(model(draw(16, 24), scale=2), cold(draw(16, 24), scale=2))
    torch.testing.assert_close(model(draw(16, 24), scale="fit*0.9"), cold(draw(16, 24)))
    single = build("none", img_size=4)  # one token in training: ln N0 is zero
    assert single(draw(16, 16), scale="pixels").isfinite().all()


@pytest.mark.parametrize("encoding", [*ENCODINGS, "relative+rope+peg"])
def test_every_image_of_a_list_has_its_own_scale(encoding):
    model = build(encoding, global_pool="token", class_token=True)
    images = [draw(24, 48)[0], draw(16, 24)[0], draw(24, 48)[1], draw(32, 24)[0], draw(24, 48, seed=2)[0]]
    scales = [1.5, "fit", (1.0, 2.0), "pixels", 1.5]
    alone = [model(image[None], scale=scale)[0] for image, scale in zip(images, scales)]
    torch.testing.assert_close(model(images, scale=scales), torch.stack(alone))
    alike = torch.stack([images[0], images[2], images[4]])
    torch.testing.assert_close(model(alike, scale=[1.5, (1.0, 2.0), 1.5]), torch.stack([alone[0], alone[2], alone[4]]))
    torch.testing.assert_close(model(images, scale=1.25)[3], model(images[3][None], scale=1.25)[0])


def test_a_pack_sharpens_each_image_by_its_own_temperature_on_any_path():
    model = build("none", class_token=True, global_pool="token")
    images = [draw(32, 48)[0], draw(16, 24)[0], draw(48, 48)[0]]
    query = torch.randn(1, 4, 97 + 25 + 145, 16, dtype=torch.float64)
    _, layout, positions = model._embed_list(images, ["pixels", "fit", 1.5])
    factors = positions.pack._factors(query)[:, 0, 0]
    expected = [math.log(96) / math.log(24), 1.0, math.log(144 / 2.25) / math.log(24)]
    for part, factor in zip(factors.split(layout.lengths), expected):
        torch.testing.assert_close(part, torch.full_like(part, factor))
    _, _, calm = model._embed_list(images, ["fit", "fit", "fit"])
    assert calm.pack._factors(query) is None


def test_the_gradients_at_a_scale_reach_every_parameter():
    model = build("relative+rope+learned+peg", class_token=True, global_pool="token")
    model(draw(32, 40), scale=(1.5, 1.25)).square().sum().backward()
    idle = "encoding.parts.0.tables.2"  # of the last block, which the class token alone reads
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name != idle)


@pytest.mark.parametrize("rule", ["paper", "pixels", "fit", "fit*0.9", 2.0, (1.5, 2.0)])
def test_a_model_keeps_its_rule(rule, tmp_path):
    model, images = build("peg"), draw(32, 48)
    model.scale = rule
    assert model.config.scale == rule
    assert torch.equal(model(images), model(images, scale=rule))
    again = cpvt.create_model(
        "cpvt_micro", encoding="peg", global_pool="avg", img_size=(16, 24), depth=3, num_classes=5, scale=rule
    )
    assert again.scale == rule


@pytest.mark.parametrize("encoding", [*ENCODINGS, "sincos", "learned"])
def test_a_new_training_size_changes_no_answer_under_any_rule(encoding):
    model, images = build(encoding), draw(32, 48)
    scales = ["paper", "fit", "pixels", 1.5]
    before = [model(images, scale=scale) for scale in scales]
    model.set_input_size((32, 48))
    assert model.scale_grid == (4, 6)
    for scale, truth in zip(scales, before):
        if scale == "pixels":  # objects have the pixels that they have in images of the size that is now trained at
            truth = before[1]
        table = "learned" in encoding or "factorized" in encoding
        if scale in ("paper", "fit") or not table:  # elsewhere a resized table is interpolated twice
            torch.testing.assert_close(model(images, scale=scale), truth, rtol=0, atol=2e-4)
    copy = cpvt.models.VisionTransformer(model.config).double().eval()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy(images), model(images))
    model.set_input_size((16, 24))
    assert model.config.scale_grid is None


WRONG = [
    (0.5, "scale must be 1 or more.*got 0.5"),
    (0, "scale must be 1 or more.*got 0"),
    (-2, "scale must be 1 or more.*got -2"),
    (float("inf"), "scale must be 1 or more.*got inf"),
    ((2.0, 0.5), r"scale must be 1 or more.*got \(2.0, 0.5\)"),
    (float("nan"), "scale must be paper, pixels, fit.*got nan"),
    ("fits", "scale must be paper, pixels, fit, .*got 'fits'"),
    ("fit*2", "got 'fit\\*2'"),
    (True, "got True"),
    ((1.0, 2.0, 3.0), "rows and columns"),
    (9.0, "more than.*grid|grid.*hold"),
]


@pytest.mark.parametrize(("scale", "message"), WRONG)
def test_a_scale_that_is_none_is_refused_by_name(scale, message):
    model = build("peg")
    with pytest.raises(ValueError, match=message):
        model(draw(32, 32), scale=scale)
    with pytest.raises(ValueError, match=message):
        model([draw(32, 32)[0], draw(16, 24)[0]], scale=[1.0, scale])
    if scale != 9.0:
        with pytest.raises(ValueError, match=message):
            model.scale = scale
        with pytest.raises(ValueError, match=message):
            cpvt.create_model("cpvt_micro", scale=scale)


def test_a_list_of_scales_is_as_long_as_the_images():
    model = build("peg")
    with pytest.raises(ValueError, match="one for each image; got 3 scales for 2 images"):
        model([draw(32, 32)[0], draw(16, 24)[0]], scale=[1.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="got 1 scales for 2 images"):
        model(draw(32, 32), scale=[2.0])


def bilinear_bias(table, grid, scale, most):
    """The bias (heads, N, N) of every pair of tokens, one by one."""
    h, w = grid
    bias = torch.zeros(len(table), h * w, h * w, dtype=table.dtype)
    for i in range(h * w):
        for j in range(h * w):
            offsets = [(j // w - i // w) / scale[0], (j % w - i % w) / scale[1]]
            y, x = (min(max(each, -most), most) + most for each in offsets)
            for row in {math.floor(y), math.ceil(y)}:
                for column in {math.floor(x), math.ceil(x)}:
                    bias[:, i, j] += table[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return bias


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.5, 2.0), (2.7, 1.0), (0.75, 0.5)])
def test_offsets_are_divided_by_the_scale(scale):
    encoding = create_encoding("relative(max_offset=2)", ModelShape(16, 2, 2, (4, 4))).double()
    table = encoding.tables[0].detach().unflatten(1, (5, 5))
    torch.testing.assert_close(encoding.bias((3, 5), 1, scale), bilinear_bias(table, (3, 5), scale, 2))


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.5, 2.0), (3.0, 1.25)])
def test_places_are_divided_by_the_scale_and_a_table_ends_at_its_edge(scale):
    encoding = create_encoding("learned" + OBJECT, ModelShape(8, 2, 2, (4, 6)))
    table = encoding.table.detach().unflatten(1, (4, 6))[0].permute(2, 0, 1)  # (D, 4, 6)
    rows, columns = ((torch.arange(n) + 0.5) / s - 0.5 for n, s in zip((7, 9), scale))
    grid = torch.stack(torch.meshgrid((columns + 0.5) / 3 - 1, (rows + 0.5) / 2 - 1, indexing="xy"), -1)  # -1 to 1
    by_torch = F.grid_sample(table[None], grid[None], "bicubic", "border", align_corners=False)[0]
    found = encoding.resized((7, 9), scale)[0].unflatten(0, (7, 9)).permute(2, 0, 1)
    torch.testing.assert_close(found, by_torch, rtol=0, atol=1e-5)
    if scale == (1.0, 1.0):
        torch.testing.assert_close(found[:, 4:, :6], table[:, 3:].expand(-1, 3, -1))  # below the edge


def test_turns_are_divided_by_the_scale():
    encoding = create_encoding("rope" + OBJECT, ModelShape(32, 2, 2, (4, 4)))
    (cos, sin), (wide_cos, wide_sin) = (encoding.rotation(grid, torch.device("cpu"), scale)
                                        for grid, scale in (((3, 3), (1.0, 1.0)), ((6, 9), (2.0, 3.0))))  # fmt: skip
    angle = torch.atan2(sin, cos).unflatten(0, (3, 3))
    wide = torch.atan2(wide_sin, wide_cos).unflatten(0, (6, 9))
    torch.testing.assert_close((wide[2] - wide[0])[0], (angle[1] - angle[0])[0])  # two tokens at scale 2: one
    torch.testing.assert_close((wide[:, 3] - wide[:, 0])[0], (angle[:, 1] - angle[:, 0])[0])


def test_an_encoding_that_takes_no_scale_is_not_told_one():
    class Untold(cpvt.PositionalEncoding):
        at = (0, 1)

        def __init__(self, shape):
            super().__init__()

        def tokens(self, x, grid, depth):
            return x + depth

        def bias(self, grid, depth):
            return torch.zeros(1, grid[0] * grid[1], grid[0] * grid[1], dtype=torch.float64)

    class Told(Untold):
        def tokens(self, x, grid, depth, scale=None):
            return x + (0.0 if scale is None else scale[0])

    untold, told, images = build(Untold, attn_temperature=False), build(Told, attn_temperature=False), draw(32, 48)
    assert torch.equal(untold(images, scale=2.0), untold(images, scale=1.0))
    assert not torch.equal(told(images, scale=2.0), told(images, scale=1.0))
    layout = Layout(((2, 3),), 0, ((2.0, 1.0),))
    assert torch.equal(told.encoding(torch.zeros(1, 6, 64), layout, 0), torch.full((1, 6, 64), 2.0))


@pytest.mark.parametrize("two", [2, 2.0, torch.tensor(2.0), np.float32(2.0), np.array(2)])
def test_a_scale_may_be_a_number_of_any_library(two):
    model, images = build("peg"), draw(32, 48)
    assert torch.equal(model(images, scale=two), model(images, scale="2"))
    model.scale = two
    assert model.scale == 2.0
