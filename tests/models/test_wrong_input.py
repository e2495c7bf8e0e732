"""Inputs and options that a model cannot take are refused in words, and what autocast allows is not."""

import numpy as np
import pytest
import torch

import cpvt

IMAGES = torch.zeros(2, 3, 32, 32)
WRONG = [
    (IMAGES.to(torch.uint8), r"normalised images of torch.float32; got torch.uint8.*cpvt.load\(...\).transform"),
    (IMAGES.long(), r"normalised images of torch.float32; got torch.int64"),
    (IMAGES.double(), r"images are torch.float64 and the model's weights torch.float32: pass images.to"),
    (IMAGES.half(), r"images are torch.float16 and the model's weights torch.float32"),
    (IMAGES.numpy(), r"got ndarray of shape \(2, 3, 32, 32\). torch.from_numpy makes a tensor"),
    (IMAGES[0], r"got Tensor of shape \(3, 32, 32\). One image goes in as image\[None\]"),
    (IMAGES.permute(0, 2, 3, 1), r"got Tensor of shape \(2, 32, 32, 3\). images.permute\(0, 3, 1, 2\)"),
    (IMAGES[:, :1], r"shape \(B, 3, H, W\), or a list of images; got Tensor of shape \(2, 1, 32, 32\)"),
    ("photo.jpg", r"or a list of images; got str"),
    ([IMAGES[0].to(torch.uint8)], r"normalised images of torch.float32; got torch.uint8"),
    ([IMAGES[0].double(), IMAGES[1, :, :8].double()], r"images are torch.float64"),
    ([np.zeros((3, 32, 32), np.float32)], r"number 0 is ndarray"),
]


@pytest.fixture(scope="module")
def model():
    return cpvt.create_model("cpvt_micro", depth=1, num_classes=3).eval()


@pytest.mark.parametrize(("images", "words"), WRONG, ids=range(len(WRONG)))
def test_images_that_a_model_cannot_take_are_refused_in_words(model, images, words):
    with pytest.raises(ValueError, match=words):
        model(images)


@pytest.mark.parametrize("images", [IMAGES, IMAGES.bfloat16(), IMAGES.half()], ids=["fp32", "bf16", "fp16"])
def test_autocast_takes_images_of_the_dtypes_that_it_casts(model, images):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(images).dtype == torch.bfloat16
        with pytest.raises(ValueError, match="images are torch.float64 and the model's weights torch.float32"):
            model(images.double())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_takes_images_of_its_own_dtype(dtype):
    model = cpvt.create_model("cpvt_micro", depth=1, num_classes=3).to(dtype)
    assert model(IMAGES.to(dtype)).dtype == model([IMAGES[0].to(dtype), IMAGES[0, :, 8:].to(dtype)]).dtype == dtype


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"patch_size": (4, 4)},
            r"patch_size must be a whole number of 1 or more, the side of a square.*; got \(4, 4\)",
        ),
        ({"patch_size": 0}, r"patch_size must be a whole number of 1 or more.*; got 0"),
        ({"num_heads": 0}, "num_heads must be a whole number of 1 or more; got 0"),
        ({"num_heads": 3}, "embed_dim must be a multiple of num_heads; got 64 and 3"),
        ({"embed_dim": 64.0}, "embed_dim must be a whole number of 1 or more; got 64.0"),
        ({"depth": -1}, "depth must be a whole number of 1 or more; got -1"),
        ({"in_chans": 0}, "in_chans must be a whole number of 1 or more; got 0"),
        ({"num_classes": -1}, "num_classes must be a whole number of 0 or more; got -1"),
        ({"num_classes": 2.5}, "num_classes must be a whole number of 0 or more; got 2.5"),
        ({"img_size": 3}, "img_size must be a patch or more, 4 pixels; got 3"),
        ({"img_size": (32,)}, r"a size is a side such as 48, or height x width such as 48x64; got '\(32,\)'"),
        ({"img_size": 0}, "a size is a side such as 48"),
        ({"mlp_ratio": 0}, "mlp_ratio must be above 0; got 0"),
        ({"drop_path_rate": 1.5}, "drop_path_rate must be from 0 to below 1; got 1.5"),
        ({"drop_rate": -1}, "drop_rate must be from 0 to below 1; got -1"),
    ],
)
def test_impossible_options_are_refused_in_words(options, words):
    with pytest.raises(ValueError, match=words):
        cpvt.create_model("cpvt_micro", **options)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_peg_refuses_tokens_of_another_dtype_than_its_weights(dims):
    layer, grid = cpvt.PEG(8, dims=dims), (12, 1, 1)[:dims]
    for tokens in (torch.zeros(2, 12, 8).double(), torch.zeros(2, 12, 8).long()):
        with pytest.raises(ValueError, match=f"tokens are {tokens.dtype} and the weights torch.float32: convert one"):
            layer(tokens, grid)
    with pytest.raises(ValueError, match="PEG needs a tensor of tokens; got ndarray"):
        layer(np.zeros((2, 12, 8), np.float32), grid)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.zeros(2, 12, 8, dtype=torch.bfloat16), grid).shape == (2, 12, 8)
