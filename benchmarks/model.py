"""cpvt_small_gap against timm's deit_small_patch16_224: forward and training step. Run: python benchmarks/model.py"""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from alternating import alternate, ratio, save, show

import cpvt

BATCH, SIZE, ROUNDS = 8, 224, 21


def main() -> None:
    models = {"cpvt": cpvt.create_model("cpvt_small_gap"), "timm": timm.create_model("deit_small_patch16_224")}
    pictures, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 1000, (BATCH,))
    figures = []
    for model in models.values():
        model.eval()
    with torch.inference_mode():
        seconds = alternate({name: lambda model=model: model(pictures) for name, model in models.items()}, ROUNDS)
    found = ratio(seconds["timm"], seconds["cpvt"])
    words = f"throughput of cpvt_small_gap / deit_small_patch16_224, forward, {SIZE}, batch {BATCH}"
    show(words, found)
    figures.append({"what": words, **found})

    steps = {name: _training_step(model, pictures, labels) for name, model in models.items()}
    seconds = alternate(steps, ROUNDS)
    found = ratio(seconds["timm"], seconds["cpvt"])
    words = words.replace("forward", "training step")
    show(words, found)
    figures.append({"what": words, **found})
    save("model", figures)


def _training_step(model: torch.nn.Module, pictures: torch.Tensor, labels: torch.Tensor):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(pictures), labels).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
