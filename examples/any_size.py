"""One model, pictures of any size, no flag."""

import torch

import cpvt

model = cpvt.create_model("cpvt_tiny_gap", num_classes=10).eval()
for height, width in ((224, 224), (333, 517), (160, 64)):
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, height, width))
    print(f"{height} x {width} -> {tuple(logits.shape)}")
