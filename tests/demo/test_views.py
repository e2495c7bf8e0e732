"""What the demo shows is what the package computes: predictions, attention by a softmax, PEG by a convolution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import cpvt
from cpvt.adapters import UnsupportedSizeError, adapter_of
from cpvt.data import BadImageError, Transform
from cpvt.demo.panels import curve_panels, enlargement, overlay, peg_panels
from cpvt.demo.samples import write_samples
from cpvt.demo.views import CLASS_TOKEN, EVERY_PATCH, MOST_PATCHES, ONE_PATCH, Viewer
from cpvt.models.pretrained import shipped_names

NAMES = ("a", "b", "<c>", "d")


def noise(width, height, mode="RGB"):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def viewer_of(model, transform, names=NAMES, **facts):
    return Viewer(adapter_of(model.eval(), "small", transform=transform, class_names=names, **facts))


@pytest.fixture(scope="module")
def small():
    """A model of non-square images with a class token, two PEGs and a table, far from its initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cpvt.create_model(
            "cpvt_mini", encoding="learned+peg(at=(1, 2))", global_pool="token", img_size=(16, 24), patch_size=4,
            num_classes=4, depth=3, embed_dim=24, num_heads=2,
        )  # fmt: skip
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return viewer_of(model, Transform((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))


@pytest.fixture(scope="module")
def shipped():
    return Viewer("cpvt_mini_peg5_gap", "cpu")


@pytest.mark.parametrize("protocol", ["resize", "canvas"])
def test_curves_are_predictions_to_the_bit(shipped, protocol):
    image, run = noise(90, 70), cpvt.load("cpvt_mini_peg5_gap", "cpu")
    curves = shipped.curves(image, top=3)
    assert curves.sizes == (16, 24, 32, 40, 48, 64, 80, 96)
    assert curves.classes == tuple(name for name, _ in run(image, top=3).classes)
    if protocol == "canvas":  # the demo shrinks the image to the training size first
        run = replace(run, transform=replace(run.transform, longest_side=32))
    true = {"resize": "fit", "canvas": "pixels"}[protocol]
    for mode, rule in (("true", true), ("estimated", "auto"), ("off", "paper")):
        for number, size in enumerate(curves.sizes):
            found = run(image, top=10, size=size, protocol=protocol, scale=rule)
            wanted = [dict(found.classes)[name] for name in curves.classes]
            assert curves.lines[protocol, mode][number].tolist() == wanted
            assert curves.scales[protocol, mode][number] == found.scale


def test_a_factor_of_the_model_is_kept_by_the_true_scale(small):
    small.adapter.model.scale = "fit*0.9"
    try:
        assert small.predict(noise(60, 40), (32, 48), "resize", "true", 1).scale == (1.8, 1.8)
        assert small.predict(noise(60, 40), (32, 48), "resize", "protocol", 1).scale == (1.8, 1.8)
    finally:
        small.adapter.model.scale = "fit"
    assert small.predict(noise(60, 40), (32, 48), "canvas", "true", 1).scale == (1.0, 1.0)


def stages(viewer, images):
    """The tokens before and after each PEG, and before block 3, by the model's own blocks and a plain convolution."""
    model, (h, w) = viewer.own_model, (images.shape[2] // 4, images.shape[3] // 4)
    x, layout, positions = model.embed(images, "paper")
    found = []
    for depth in (1, 2):
        x = model.blocks[depth - 1](x, positions.at_block(model.encoding, layout, depth, x))
        peg = dict(model.encoding.named_modules())[f"parts.1.peg.{depth}"]
        patches = x[:, 1:].transpose(1, 2).unflatten(2, (h, w))
        added = F.conv2d(patches, peg.weight, peg.bias, padding=1, groups=24)
        found.append((patches, added))
        x = torch.cat([x[:, :1], (patches + added).flatten(2).transpose(1, 2)], 1)
    return found, x


def test_peg_maps_are_the_norms_of_a_convolution(small):
    image, size = noise(60, 40), (20, 28)
    images = small.preprocessing("resize", size)(image, np.random.default_rng(0))[None]
    with torch.inference_mode():
        found, _ = stages(small, images)
    maps = small.pegs(image, size, "resize", "off")
    assert [each.depth for each in maps] == [1, 2]
    for each, (patches, added) in zip(maps, found):
        torch.testing.assert_close(torch.from_numpy(each.norms), added[0].norm(dim=0), rtol=1e-4, atol=1e-4)
        assert each.token_norm == pytest.approx(float(patches[0].norm(dim=0).mean()), rel=1e-4)
    estimated = small.pegs(image, (48, 72), "resize", "estimated")  # which runs the model several times
    assert [each.depth for each in estimated] == [1, 2]
    assert not any(part._forward_hooks for part in small.own_model.modules())


def test_attention_is_a_softmax_by_hand(small):
    image, size = noise(60, 40), (20, 28)
    images = small.preprocessing("resize", size)(image, np.random.default_rng(0))[None]
    with torch.inference_mode():
        x = small.own_model.blocks[2].norm1(stages(small, images)[1])
        qkv = small.own_model.blocks[2].attn.qkv(x).reshape(36, 3, 2, 12)
        query, key, _ = qkv.permute(1, 2, 0, 3)
        weights = (query @ key.transpose(1, 2) / 12**0.5).softmax(-1).mean(0)
        whole = small.own_model.attention_map(images, 3, prefix=True)
        torch.testing.assert_close(whole.sum(-1), torch.ones(1, 2, 36))
        assert torch.equal(small.own_model.attention_map(images, 3), whole[:, :, 1:, 1:])
    assert small.queries == (CLASS_TOKEN, EVERY_PATCH, ONE_PATCH)
    wanted = {CLASS_TOKEN: weights[0], EVERY_PATCH: weights[1:].mean(0), ONE_PATCH: weights[1 + 2 * 7 + 5]}
    for name, row in wanted.items():
        found = small.attention(image, size, "resize", "off", 3, name, (2, 5))
        torch.testing.assert_close(torch.from_numpy(found), row[1:].reshape(5, 7), rtol=1e-4, atol=1e-5)
    far = small.attention(image, size, "resize", "off", 3, ONE_PATCH, (99, 99))  # of a larger size before
    torch.testing.assert_close(torch.from_numpy(far), weights[-1, 1:].reshape(5, 7), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mode", "order"), [("RGB", "RGB"), ("RGB", "BGR"), ("L", "RGB")])
def test_what_the_model_sees_is_shown_in_the_colours_of_the_image(small, mode, order):
    image, channels = noise(24, 16, mode), {"RGB": 3, "L": 1}[mode]
    transform = Transform((0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.4)[:channels], 1.0, channel_order=order)
    shown = Viewer(replace(small.adapter, transform=transform)).seen(image, (16, 24), "resize")
    assert np.array_equal(shown, np.asarray(image.convert("RGB")))


def test_sizes_are_bounded_whole_patches_and_hold_the_recommended_one():
    model = cpvt.create_model("cpvt_mini", img_size=160, patch_size=4, num_classes=4, depth=1)
    viewer = viewer_of(model, Transform((0.5,) * 3, (0.2,) * 3, size=250))
    assert viewer.recommended == 250  # far above the limit, but what predictions use
    assert viewer.sizes == (80, 120, 160, 250)
    assert all(size % 4 == 0 and (size // 4) ** 2 <= MOST_PATCHES for size in viewer.sizes[:-1])


class Refusing(nn.Module):
    """A model of another library, which takes up to 16 pixels and takes no scale."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, images):
        if images.shape[2] > 16:
            raise ValueError("at most 16 pixels")
        return self.head(images.mean((2, 3)))


def test_external_models_have_one_line_and_gaps_where_they_refuse_a_size():
    viewer = viewer_of(Refusing(), Transform((0.5,) * 3, (0.2,) * 3, size=16), train_size=16)
    curves = viewer.curves(noise(40, 40), top=2)
    assert set(curves.lines) == {("resize", "off"), ("canvas", "off")}
    for line in curves.lines.values():
        assert np.array_equal(np.isnan(line[:, 0]), np.array(curves.sizes) > 16)
    with pytest.raises(UnsupportedSizeError):
        viewer.predict(noise(40, 40), 32, "resize", "protocol", 1)
    for show in (viewer.pegs, lambda *given: viewer.attention(*given, 1, EVERY_PATCH)):
        with pytest.raises(ValueError, match="shown for cpvt's own models; 'small' is another library's"):
            show(noise(40, 40), 16, "resize", "protocol")
    with pytest.raises(ValueError, match="'small' does not state its training size"):
        viewer_of(Refusing(), Transform((0.5,) * 3, (0.2,) * 3, size=16))


def test_classes_that_share_a_name_are_distinguished():
    names = ("crane", "crane", "other", "crane (0)")  # the last is what the first would be called
    viewer = viewer_of(Refusing(), Transform((0.5,) * 3, (0.2,) * 3), names, train_size=16)
    distinct = ("crane (0) (0)", "crane (1)", "other", "crane (0) (3)")
    image, wanted = noise(16, 16), viewer.adapter.logits(viewer.preprocessing("resize", 16)(noise(16, 16), None)[None])
    curves = viewer.curves(image, top=4)
    shown = dict(zip(curves.classes, curves.lines["resize", "off"][curves.sizes.index(16)]))
    assert shown == dict(zip(distinct, wanted.softmax(1)[0].tolist()))


def test_an_image_that_does_not_decode_is_named_without_its_folder(shipped, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(BadImageError, match="'broken.png'") as caught:
        shipped.open_image(str(tmp_path / "broken.png"))
    assert str(tmp_path) not in str(caught.value)


def test_an_overlay_is_bright_where_the_map_is_large_and_frames_the_chosen_patch():
    seen, heat = np.full((10, 12, 3), 100, dtype=np.uint8), np.zeros((3, 3), dtype=np.float32)
    heat[1, 2] = 5
    unit = 4 * enlargement(seen)
    shown = overlay(seen, heat, 4)
    assert shown.shape == (10 * unit // 4, 12 * unit // 4, 3)  # padding of the last row of patches is not shown
    tiles = [
        shown[row * unit : (row + 1) * unit, column * unit : (column + 1) * unit] for row, column in np.ndindex(3, 3)
    ]
    means = [tile.mean() for tile in tiles]
    assert np.argmax(means) == 5
    assert max(each for number, each in enumerate(means) if number != 5) < 0.5 * means[5]
    framed = overlay(seen, heat, 4, (0, 1))
    changed = (framed != shown).any(axis=2)
    assert changed[:unit, unit : 2 * unit].any()
    assert not changed[unit:].any()
    assert not changed[:, :unit].any()


def test_panels_say_names_as_text_and_what_is_missing(small):
    html = curve_panels(small.curves(noise(60, 40), top=4), small.train_size)
    assert html.count("<svg") == 6
    assert "&lt;c&gt;" in html
    assert "<c>" not in html
    assert "currentColor" in html  # words and axes, in the colour of the page
    plain = cpvt.create_model("cpvt_mini", encoding="none", img_size=16, patch_size=4, num_classes=4, depth=1)
    viewer = viewer_of(plain, Transform((0.5,) * 3, (0.2,) * 3))
    maps = viewer.pegs(noise(20, 20), 16, "resize", "protocol")
    assert maps == []
    assert "no PEG" in peg_panels(maps, viewer.seen(noise(20, 20), 16, "resize"), 4)


def test_examples_are_digits_or_drawings_that_the_shipped_models_know(shipped, tmp_path):
    digits = write_samples(tmp_path, tuple("0123456789"))
    assert [shipped.open_image(str(path)).size for path in digits] == [(32, 32)] * 4
    assert len({path.stem[-1] for path in digits}) > 1
    for name in shipped_names():
        run = cpvt.load(name, "cpu")
        *drawings, _, _ = write_samples(tmp_path, run.class_names)  # and two photographs
        assert len(drawings) == 2
        assert [run(path).label for path in drawings] == [path.stem for path in drawings]
    assert {path.stem for path in write_samples(tmp_path, ("cat", "dog"))} >= {"ship", "airplane"}
