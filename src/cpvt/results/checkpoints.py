"""A run's folder: weights (safetensors), everything needed to use them (JSON), and where they came from."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm import list_models
from torch import Tensor, nn

from cpvt.adapters import TABLE, ModelAdapter, adapter_of, is_external, open_adapter
from cpvt.adapters.adapt import build_external, continue_external
from cpvt.adapters.retrofit import retrofit
from cpvt.adapters.weights import load_weights_file
from cpvt.config import ExternalConfig, ModelConfig, sides
from cpvt.config.legacy import current
from cpvt.data import Transform
from cpvt.models import VisionTransformer
from cpvt.models.adapt import adapt_model
from cpvt.models.pretrained import Files, shipped_files, shipped_names
from cpvt.models.sizes import MODELS
from cpvt.results.folders import CHECKPOINT, WEIGHTS
from cpvt.runtime.files import read_json, replacing, write_json


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, ready to use: `model(transform(image)[None])` gives logits, one per class name."""

    model: nn.Module
    transform: Transform
    class_names: tuple[str, ...]
    record: dict[str, Any]
    """What checkpoint.json holds: the configurations of model and training, and the provenance."""

    @property
    def config(self) -> ModelConfig | ExternalConfig:
        """What the model is."""
        return config_from_json(self.record["model"])

    @property
    def own_model(self) -> VisionTransformer:
        """The model, where it is one of ours; ValueError where it is another library's."""
        if not isinstance(self.model, VisionTransformer):
            raise ValueError(
                f"this needs one of our own models; '{self.record['training']['out']}' holds "
                f"{self.record['model']['name']}, which goes through its own library's tools (docs/retrofit.md has an export)"
            )
        return self.model

    @property
    def train_size(self) -> int:
        """The longer side of the training size, pixels."""
        return max(sides(self.config.img_size))

    @property
    def adapter(self) -> ModelAdapter:
        """The model as measurements see it."""
        facts = {"train_size": self.config.img_size, "transform": self.transform, "class_names": self.class_names}
        return adapter_of(self.model, self.record["training"]["out"], **facts)


def as_adapter(
    model: str | Path | Checkpoint | ModelAdapter | Callable[..., Any],
    weights: str | Path | None = None,
    device: str = "auto",
) -> ModelAdapter:
    """What is to be measured, from anything that names or is a model.

    model: a run's folder, a name whose weights come with the package, what `load` returned, another library's model such
    as "timm:vit_small_patch16_224", or any module or callable. weights: a file for a model of another library. A model already at hand stays on its device.
    Raises ValueError where nothing of that name is known.
    """
    if isinstance(model, ModelAdapter):
        return model
    if isinstance(model, str) and is_external(model):
        adapter = open_adapter(model, weights)
        module: Any = adapter.model
        module.to(pick_device(device))
        return adapter
    if weights is not None:
        raise ValueError(f"a file of weights goes with {_prefixes()} names; '{model}' has its own")
    if isinstance(model, (str, Path)):
        if not is_run(model):
            raise ValueError(_unknown(str(model)))
        model = load(model, device)
    return model.adapter if isinstance(model, Checkpoint) else adapter_of(model)


def _prefixes() -> str:
    """The prefixes of other libraries' models: "timm:, hf: or torchvision:"."""
    *others, last = (f"{prefix}:" for prefix in TABLE)
    return f"{', '.join(others)} or {last}"


def _unknown(name: str) -> str:
    """What to say to a name that is no folder and of no library."""
    library, _, rest = name.partition(":")
    guesses = [f"{prefix}:{rest}" for prefix in difflib.get_close_matches(library, TABLE, n=1)] if rest else []
    guesses += difflib.get_close_matches(name, shipped_names(), n=1, cutoff=0.8)
    theirs = [each for each in list_models() if each not in MODELS]
    guesses += [f"timm:{near}" for near in difflib.get_close_matches(name, theirs, n=3, cutoff=0.8)]
    hint = f" Did you mean {' or '.join(guesses)}?" if guesses else ""
    return (
        f"'{name}' is no folder of a run, no model that comes with weights ({', '.join(shipped_names())}) and none of "
        f"{', '.join(f'{each}:NAME' for each in TABLE)}.{hint}"
    )


def is_run(name: str | Path) -> bool:
    """Whether a name is of something to `load`: a folder, or a model whose weights come with the package."""
    return Path(name).exists() or str(name) in shipped_names()


def files_of(run: str | Path) -> Files:
    """Where the weights and the record of a run are: in its folder, else in the package for a name that comes with it."""
    folder = Path(run)
    if not folder.exists() and str(run) in shipped_names():
        return shipped_files(str(run))
    return Files(folder / WEIGHTS, folder / CHECKPOINT)


def save_checkpoint(folder: Path, weights: Mapping[str, Tensor], record: dict[str, Any]) -> None:
    """Write weights, then the record; each file is replaced whole or not at all."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    with replacing(folder / WEIGHTS) as file:
        file.write(safetensors.torch.save(state))
    write_json(folder / CHECKPOINT, record)


def read_record(run: str | Path) -> dict[str, Any]:
    """The record of a run; ValueError where the folder holds none."""
    path = files_of(run).record
    if not path.is_file():
        raise ValueError(
            f"'{run}' holds no checkpoint: expected {CHECKPOINT} and {WEIGHTS}, as `cpvt train` writes them"
        )
    record: dict[str, Any] = read_json(path)
    missing = [name for name in ("model", "class_names") if name not in record]
    if missing:
        raise ValueError(
            f"'{path}' is none that `cpvt train` wrote: it lacks {', '.join(missing)}; name a run's folder"
        )
    if "training" in record:
        record["training"] = current(record["training"])
    return record


def load(run: str | Path, device: str = "auto") -> Checkpoint:
    """Load a run that `cpvt train` wrote: the model in eval mode, its transform and its class names.

    run: the run's folder, or the name of a model whose weights come with the package, such as "cpvt_mini_peg5_gap".
    Raises ValueError where the folder holds no checkpoint, or weights that do not fit it (which keys, which shapes).
    """
    record = read_record(run)
    model = build_model(config_from_json(record["model"]))
    load_weights_file(model, files_of(run).weights)
    transform = transform_from_json(record["transform"])
    return Checkpoint(model.eval().to(pick_device(device)), transform, tuple(record["class_names"]), record)


def build_model(config: ModelConfig | ExternalConfig) -> nn.Module:
    """A fresh model, ours or another library's, retrofitted where the configuration says so."""
    if isinstance(config, ModelConfig):
        return VisionTransformer(config)
    model = build_external(config)
    return model if config.retrofit is None else retrofit(model, **config.retrofit)


def starting_weights(
    wanted: ModelConfig | ExternalConfig,
    start: str | Path,
    class_names: Sequence[str] | None = None,
    say: Callable[[str], Any] = lambda words: None,
) -> nn.Module:
    """A model as wanted, with the weights of a run, by folder or name, or of a file, to be trained on.

    Of a run's model the training size and the classes may be others, and for our own also what training drops, and whether
    it is distilled (see `cpvt.models.adapt`); of a file all must fit. class_names: those of the images to come; where
    the run had others its head starts afresh, be they as many. `say` is told, a line each, what became of the weights.
    The `config` of one of our own says what came out: its encoding may be written otherwise than wanted, as in
    "rope(grid=(8, 8))", so a record holds that. Raises ValueError that lists what does not fit.
    """
    if Path(start).is_file() or not is_run(start):
        model = build_model(wanted)
        load_weights_file(model, Path(start))
        return model
    record = read_record(start)
    held = config_from_json(record["model"])
    kinds = ["a model of our own" if isinstance(each, ModelConfig) else f"'{each.name}'" for each in (held, wanted)]
    if type(held) is not type(wanted):
        raise ValueError(f"'{start}' holds {kinds[0]}, and {kinds[1]} is to be trained: start from a run of that")
    model = build_model(held)
    load_weights_file(model, files_of(start).weights)
    same_classes = class_names is None or list(class_names) == record["class_names"]
    if isinstance(wanted, ModelConfig):
        assert isinstance(model, VisionTransformer)  # as its record says
        return _told(adapt_model(model, wanted, same_classes), say)
    return _told(continue_external(model, wanted, same_classes, f"in '{start}'"), say)


def published_weights(wanted: ExternalConfig, say: Callable[[str], Any] = lambda words: None) -> nn.Module:
    """A model of another library with the weights that it publishes; its head starts afresh for another number of classes."""
    adapter: Any = open_adapter(wanted.name)
    return _told(continue_external(adapter.model, wanted, where=f"published for {wanted.name}"), say)


def _told(continued: tuple[nn.Module, list[str]], say: Callable[[str], Any]) -> nn.Module:
    """The model, after what became of its weights was said."""
    model, words = continued
    for each in words:
        say(each)
    return model


def config_from_json(values: dict[str, Any]) -> ModelConfig | ExternalConfig:
    """A model's configuration from what JSON made of it."""
    kind = ExternalConfig if "name" in values else ModelConfig
    return kind(**{name: _tuple(value) for name, value in values.items()})


def transform_from_json(values: dict[str, Any]) -> Transform:
    """A transform from what JSON made of it."""
    return Transform(**{name: _tuple(value) for name, value in values.items()})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def pick_device(name: str) -> torch.device:
    """'auto' is the GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device '{name}' cannot be used here ({str(error).splitlines()[0]}); try --device cpu"
        ) from error
    return device
