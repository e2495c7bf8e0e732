"""Old names of options: read in folders of earlier runs, answered with the new name everywhere else."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

RENAMED = {  # old name -> new name
    "source": "dataset",
    "recipe": "optim",
    "engine": "runtime",
    "train_size": "img_size",
    "start": "initial_checkpoint",
    "data_root": "data_dir",
    "crop_ratio": "crop_pct",
    "on_bad_picture": "on_bad_image",
    "epoch_pictures": "train_num_samples",
    "shuffle": "shuffle_buffer",
    "loader_workers": "workers",
    "optimizer": "opt",
    "warmup_share": "warmup_ratio",
    "label_smoothing": "smoothing",
    "drop_path_rate": "drop_path",
    "auto_augment": "aa",
    "erasing": "reprob",
    "repeats": "aug_repeats",
    "mix_prob": "mixup_prob",
    "mix_switch_prob": "mixup_switch_prob",
    "ema": "model_ema_decay",
    "distillation_share": "distillation_alpha",
    "accumulate": "grad_accum_steps",
    "shard": "fsdp",
    "track": "report_to",
    "protocol": "protocols",
    "pictures": "images",
}
UNSAID = {"interpolation": "bicubic"}  # option that now has the default None -> its default in earlier versions


def current(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration read from JSON, with today's names of options; sizes such as "8x12" become pairs."""
    renamed: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            value = current(value)
        elif name.endswith("sizes"):
            value = [[int(side) for side in size.split("x")] if isinstance(size, str) else size for size in value]
            value = [size[0] if isinstance(size, list) and len(size) == 1 else size for size in value]
        renamed[RENAMED.get(name, name)] = value
    return renamed


def refuse_old_flags(arguments: list[str], known: Collection[str] = ()) -> None:
    """Raise ValueError with the new name for an old option on the command line; `known` options are not old."""
    for argument in arguments:
        flag = argument.split("=")[0]
        name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
        if flag.startswith("--") and name in RENAMED and name not in known:
            new = RENAMED[name].replace("_", "-")
            raise ValueError(f"{flag} is now --{'no-' if flag.startswith('--no-') else ''}{new}")
