"""Hugging Face's image processors: our transform gives their tensor, or the model is refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from cpvt.adapters import build, open_adapter
from cpvt.adapters.processors import transform_of
from cpvt.data.protocols import find_protocol

transformers = pytest.importorskip("transformers")

CROP = {"crop_size": {"height": 96, "width": 96}, "do_center_crop": True, "size": {"shortest_edge": 128}}
SMALL = {"size": {"height": 64, "width": 64}}
PROCESSORS = [  # class and options -> what is right
    ("ViTImageProcessor", SMALL, dict(crop_ratio=1.0, crop_mode="squash", interpolation="bilinear")),
    ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, **SMALL}, dict(mean=(0.25,) * 3, std=(0.25,) * 3)),
    ("ViTImageProcessor", {"do_rescale": False, **SMALL}, dict(mean=(0.00196078,) * 3, std=(0.00196078,) * 3)),
    ("ViTImageProcessor", {"do_normalize": False, **SMALL}, dict(mean=(0.0,) * 3, std=(1.0,) * 3)),
    ("BitImageProcessor", CROP, dict(crop_ratio=0.75, crop_mode="center", mean=(0.48145466, 0.4578275, 0.40821073))),
    ("LevitImageProcessor", {}, dict(crop_ratio=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))),
    ("ConvNextImageProcessor", {"size": {"shortest_edge": 180}, "crop_pct": 0.9}, dict(crop_ratio=0.9)),
    ("ConvNextImageProcessor", {}, dict(crop_ratio=1.0, crop_mode="squash")),
    ("MobileViTImageProcessor", CROP, dict(channel_order="BGR", crop_ratio=0.75, mean=(0.0,) * 3, std=(1.0,) * 3)),
    ("EfficientNetImageProcessor", {}, dict(mean=(0.5,) * 3, std=(0.25,) * 3)),
    ("EfficientNetImageProcessor", {"include_top": False}, dict(mean=(0.5,) * 3, std=(0.5,) * 3)),
    (
        "EfficientNetImageProcessor",
        {"include_top": False, "rescale_offset": True, "rescale_factor": 1 / 127.5},
        dict(mean=(0.75,) * 3, std=(0.25,) * 3),
    ),
]


def photograph(mode="RGB"):
    """An image with smooth structure, different in each channel."""
    y, x = np.mgrid[:160, :200] / 100
    bands = [127 + 127 * np.sin(3 * x + 2 * y), 127 + 127 * np.cos(4 * y), 80 * x]
    return Image.fromarray(np.stack(bands, axis=2).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize(("kind", "options", "expected"), PROCESSORS)
def test_our_tensor_is_the_processors(kind, options, expected):
    processor, image = getattr(transformers, kind)(**options), photograph()
    transform = transform_of(processor)
    assert {name: getattr(transform, name) for name in expected} == expected
    wanted = processor([image], return_tensors="pt")["pixel_values"][0]
    ours = find_protocol("resize")(transform, tuple(wanted.shape[1:]))(image, np.random.default_rng(0))
    level = 1 / (255 * min(transform.std))
    assert_close(ours, wanted, atol=8 * level, rtol=0)
    assert (ours - wanted).abs().mean() < 1.5 * level


def test_red_arrives_last_where_a_model_wants_blue_first():
    transform = transform_of(transformers.MobileViTImageProcessor(**CROP))
    red = transform.whole(Image.new("RGB", (4, 4), (255, 0, 0)))
    assert red[:, 0, 0].tolist() == [0, 0, 1]
    assert transform.channel_order == "BGR"


def test_grey_images_of_a_model_with_one_channel():
    processor = transformers.ViTImageProcessor(image_mean=[0.25], image_std=[0.5], **SMALL)
    transform = transform_of(processor, channels=1)
    assert (transform.mean, transform.std, transform.mode) == ((0.25,), (0.5,), "L")


SAVED = "hf:vit(patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (
            "MobileViTImageProcessor",
            {"crop_size": {"height": 256, "width": 256}},
            "of 255 levels from ours|of the rows",
        ),  # pads
        ("VideoMAEImageProcessor", {}, r"pixel_values \(1, 1, 3, 224, 224\); expected \(1, 3, height, width\)"),
        ("NougatImageProcessor", {}, r"up to \d+ of 255 levels from ours|of the rows"),
    ],
)
def test_what_no_transform_can_do_is_refused_by_name(kind, options, words, tmp_path):
    build(SAVED, 5, 32).save_pretrained(tmp_path)
    getattr(transformers, kind)(**options).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=rf"'{tmp_path}' wants its images from {kind}.*{words}.*without preprocessor_config"
    ):
        open_adapter(f"hf:{tmp_path}")
    (tmp_path / "preprocessor_config.json").unlink()
    assert open_adapter(f"hf:{tmp_path}").transform is None


def test_a_processor_that_does_not_open_is_an_error(tmp_path):
    build(SAVED, 5, 32).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "Unknown"}')
    with pytest.raises(ValueError, match="could not open the image processor"):
        open_adapter(f"hf:{tmp_path}")


def test_timms_squash_is_kept():
    import timm

    from cpvt.adapters import adapter_of

    model = timm.create_model("convnext_base.fb_in22k_ft_in1k_384", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    assert adapter_of(model).transform.crop_mode == "squash"
    image = photograph()
    ours = find_protocol("resize")(adapter_of(model).transform, (64, 64))(image, np.random.default_rng(0))
    theirs = timm.data.create_transform(**{**timm.data.resolve_model_data_config(model), "input_size": (3, 64, 64)})
    assert torch.equal(ours, theirs(image))


def test_a_teacher_that_wants_blue_first_gets_it_so():
    from cpvt.adapters import ModelAdapter
    from cpvt.data import Transform
    from cpvt.training.loss import Teacher

    own = Transform((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), channel_order="BGR")
    students, seen, image = Transform((0.5,) * 3, (0.5,) * 3), [], photograph()
    adapter = ModelAdapter(lambda images: seen.append(images) or images.mean((2, 3)), "teacher", own)
    Teacher(adapter, students)(students.whole(image)[None])
    assert_close(seen[0][0], own.whole(image))
    Teacher(ModelAdapter(adapter.model, "teacher", students), own)(own.whole(image)[None])
    assert_close(seen[1][0], students.whole(image))
