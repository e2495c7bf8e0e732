"""One model for images of any size, or of several sizes in one call."""

import torch

import cpvt

model = cpvt.create_model("cpvt_tiny_gap", num_classes=10).eval()
for height, width in ((224, 224), (333, 517), (160, 64)):
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, height, width))
    print(f"{height} x {width} -> {tuple(logits.shape)}")

images = [torch.randn(3, 224, 224), torch.randn(3, 160, 64), torch.randn(3, 96, 300)]
with torch.inference_mode():
    packed = model(images)
    alone = torch.cat([model(image[None]) for image in images])
print(f"a list of {len(images)} -> {tuple(packed.shape)}, off by {(packed - alone).abs().max():.1e} from one by one")
