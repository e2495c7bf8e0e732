"""Checkpoints in a run's folder: weights (safetensors) and the record needed to use them (JSON)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from timm import list_models
from torch import Tensor, nn

from cpvt.adapters import RANDOM, TABLE, ModelAdapter, adapter_of, is_external, open_adapter, prefixes
from cpvt.adapters.adapt import build_external, continue_external
from cpvt.adapters.classify import check_names, classify, preprocessing_of
from cpvt.adapters.weights import load_weights_file
from cpvt.config import ExternalConfig, ModelConfig, Size, sides
from cpvt.config.base import some_names
from cpvt.config.legacy import current
from cpvt.data import Transform
from cpvt.models import VisionTransformer
from cpvt.models.adapt import adapt_model
from cpvt.models.hub import check_hub_encoding, check_hub_options, write_weights
from cpvt.models.pretrained import Files, shipped_files, shipped_names
from cpvt.models.sizes import MODELS
from cpvt.results.folders import CHECKPOINT, HISTORY, ROWS, WEIGHTS, has_state, runs_below
from cpvt.results.hub import record_from_timm, write_run
from cpvt.results.identity import identity_of, own_rows
from cpvt.results.rows import Row
from cpvt.runtime.files import read_json, write_json
from cpvt.runtime.hub import CONFIG, PREFIX, fetch, is_hub, push


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, ready to use: called on an image, a path, an array or a list of them, it gives predictions.

    `model(transform(image)[None])` gives the logits, one per class name.
    """

    model: nn.Module
    transform: Transform
    """Resizes, crops and normalises an image as in the tests of the model, at its recommended size."""
    class_names: tuple[str, ...]
    record: dict[str, Any]
    """The content of checkpoint.json: configurations of model and training, and provenance."""
    source: str = ""
    """What was loaded: a folder, a name that comes with weights, or "hf-hub:OWNER/NAME"."""
    folder: Path | None = None
    """The folder that was loaded, from wherever this process works by now; None for a name."""

    def __call__(
        self, images: Any, top: int = 5, size: Size | None = None, protocol: str = "resize", scale: Any = "protocol"
    ) -> Any:
        """The prediction of an image (a path, a PIL image or an array of uint8), or those of a list of images.

        By default images are read as in the tests of the model. size, protocol and scale as in `cpvt.predict`.
        """
        single = not isinstance(images, (list, tuple))
        wanted = [images] if single else images
        preprocessing = preprocessing_of(self.adapter, protocol, size)
        found = list(classify(self.adapter, wanted, preprocessing, top=top, scale=scale))
        return found[0] if single else found

    @property
    def config(self) -> ModelConfig | ExternalConfig:
        """The configuration of the model."""
        return config_from_json(self.record["model"])

    @property
    def name(self) -> str:
        """How messages and probes name it: where it was trained, or what was loaded from elsewhere."""
        training = None if is_hub(self.source) else self.record.get("training")
        return training["out"] if training else self.source

    @property
    def own_model(self) -> VisionTransformer:
        """The model, if it is one of ours; ValueError for an external one."""
        if not isinstance(self.model, VisionTransformer):
            raise ValueError(f"this needs one of our own models; '{self.name}' holds {self.record['model']['name']}")
        return self.model

    @property
    def train_size(self) -> int:
        """The longer side of the training size, pixels."""
        return max(sides(self.config.img_size))

    @property
    def adapter(self) -> ModelAdapter:
        """The model behind the interface that measurements use; ValueError for names that are of other classes."""
        self._check_names()
        facts: dict[str, Any] = {"train_size": self.config.img_size, "transform": self.transform}
        facts["class_names"] = self.class_names or None
        return adapter_of(self.model, self.name, **facts)

    def push_to_hub(self, repo_id: str, *, license: str | None = None, **options: Any) -> str:
        """Send the run to Hugging Face's hub, to a repository that is created if needed; the commit's address.

        It holds weights, record and a card written from both and from the run's tests, without folders of this machine.
        Then "hf-hub:OWNER/NAME" stands for the run, in `cpvt.load` and in commands; a model of ours is timm's, too.
        license: a word of the hub for the card, such as "mit"; by default it names none. options: private, token,
        branch, and those of huggingface_hub's `upload_folder`: commit_message, create_pr, ignore_patterns, ...
        """
        return push(lambda folder, name: self._write(folder, name, license), repo_id, **options)

    def save_pretrained(self, save_directory: str | Path, *, repo_id: str = "", license: str | None = None) -> None:
        """Write what `push_to_hub` sends to a folder, which `cpvt.load` reads; repo_id is what the card says."""
        folder = Path(save_directory).resolve()
        if folder == self.folder:
            raise ValueError(f"'{save_directory}' is the run itself, which may have to resume: name another folder")
        if (folder / HISTORY).exists() or has_state(folder):
            raise ValueError(
                f"'{save_directory}' holds another training, which would be overwritten: name another folder"
            )
        self._write(folder, repo_id or f"OWNER/{folder.name}", license)

    def _write(self, folder: Path, repo_id: str, license: str | None) -> None:
        self._check_names()
        record = {**self.record, "class_names": list(self.class_names)}
        write_run(folder, repo_id, self.model, record, self._rows(), license)

    def _check_names(self) -> None:
        classes = getattr(self.model, "num_classes", None)  # of ours and timm's
        if isinstance(classes, int):
            check_names(self.class_names, classes, self.name)

    def _rows(self) -> list[Row]:
        """The tests of this run in its folder."""
        if self.folder is None or "training" not in self.record:
            return []
        return own_rows(self.folder / ROWS, identity_of(self.record, self.config))


def as_adapter(
    model: str | Path | Checkpoint | ModelAdapter | Callable[..., Any],
    weights: str | Path | None = None,
    device: str = "auto",
) -> ModelAdapter:
    """Wrap anything that is or names a model, so that it can be measured.

    model: a run's folder, a name that comes with weights, "hf-hub:OWNER/NAME", a Checkpoint, an external model such as
    "timm:vit_small_patch16_224", or any module or callable; the last two stay on their device.
    weights: a file of weights for an external model. Raises ValueError for an unknown name.
    """
    if isinstance(model, ModelAdapter):
        return model
    if isinstance(model, str) and is_external(model):
        adapter = open_adapter(model, weights)
        module: Any = adapter.model
        module.to(pick_device(device))
        return adapter
    if weights is not None:
        raise ValueError(f"a file of weights goes with {prefixes()} names; '{model}' has its own")
    if isinstance(model, (str, Path)):
        if not is_run(model):
            raise ValueError(_unknown(str(model)))
        model = load(model, device)
    return model.adapter if isinstance(model, Checkpoint) else adapter_of(model)


def _unknown(name: str) -> str:
    """The message for an unknown name, with close ones."""
    library, _, rest = name.partition(":")
    libraries = (*TABLE, PREFIX[:-1])
    guesses = [f"{prefix}:{rest}" for prefix in difflib.get_close_matches(library, libraries, n=1)] if rest else []
    guesses += difflib.get_close_matches(name, shipped_names(), n=1, cutoff=0.8)
    external = [each for each in list_models() if each not in MODELS]
    guesses += [f"timm:{near}" for near in difflib.get_close_matches(name, external, n=3, cutoff=0.8)]
    hint = f" Did you mean {' or '.join(guesses)}?" if guesses else ""
    return (
        f"'{name}' is no folder of a run, no model that comes with weights ({', '.join(shipped_names())}) and none of "
        f"{', '.join(f'{each}:NAME' for each in TABLE)}, {PREFIX}OWNER/NAME.{hint}"
    )


def is_run(name: str | Path) -> bool:
    """Whether `load` takes a name: a folder that exists, a model that comes with weights, or one of the hub."""
    return Path(name).exists() or str(name) in shipped_names() or is_hub(name)


def files_of(run: str | Path) -> Files:
    """The paths of a run's weights and record: in its folder, in the package, or in the cache of the hub.

    The record is timm's config.json where there is no other. A model of the hub is fetched, by ValueError if it cannot.
    """
    folder = Path(run)
    if not folder.exists() and str(run) in shipped_names():
        return shipped_files(str(run))
    if is_hub(run):
        folder = fetch(str(run), CHECKPOINT, CONFIG)
    timm_only = (folder / CONFIG).is_file() and not (folder / CHECKPOINT).exists()
    return Files(folder / WEIGHTS, folder / (CONFIG if timm_only else CHECKPOINT))


def save_checkpoint(folder: Path, weights: Mapping[str, Tensor], record: dict[str, Any]) -> None:
    """Write the weights, then the record; each file is replaced atomically."""
    write_weights(folder, weights)
    write_json(folder / CHECKPOINT, record)


def read_record(run: str | Path) -> dict[str, Any]:
    """The record of a run; ValueError if the folder has none."""
    return _record_in(files_of(run).record, run)


def _record_in(path: Path, run: str | Path) -> dict[str, Any]:
    """The record of a run in this file."""
    if not path.is_file() and str(run) in MODELS and not Path(run).exists():
        raise ValueError(
            f"'{run}' holds no checkpoint: it is a model without trained weights. Train it (cpvt train --model {run}) "
            f"and pass the run's folder; {', '.join(shipped_names())} comes with weights"
        )
    if not path.is_file():
        below = runs_below(Path(run))
        hint = f". Its runs are {some_names(list(map(str, below)))}" if below else ""
        raise ValueError(
            f"'{run}' holds no checkpoint: expected {CHECKPOINT} and {WEIGHTS}, as `cpvt train` writes them{hint}"
        )
    record: dict[str, Any] = read_json(path)
    if path.name == CONFIG:
        record = record_from_timm(record, str(run))
    missing = [name for name in ("model", "class_names") if name not in record]
    if missing:
        raise ValueError(f"'{path}' is not written by `cpvt train`: it lacks {', '.join(missing)}; pass a run's folder")
    if "training" in record:
        record["training"] = current(record["training"])
        _note_scale(record)
    if "encoding" in record["model"]:
        check_hub_encoding(record["model"]["encoding"], str(run))
    if "name" in record["model"]:
        check_hub_options(record["model"]["name"], str(run))
    return record


def _note_scale(record: dict[str, Any]) -> None:
    """Write the scale rule into a record of before there were scales.

    Models that were trained at several sizes learned without scale; crops at their own scale kept the pixels.
    """
    training = record["training"]
    augment = record.get("resolved", {}).get("augment") or training.get("optim", {}).get("augment")
    rule = "pixels" if augment in ("crop", "none") else "fit"
    if training.get("train_sizes") or augment == "native":
        rule = "paper"
    holder = record["model"] if "name" not in record["model"] else record["model"].get("retrofit")
    if holder is not None:
        holder.setdefault("scale", rule)


def load(run: str | Path, device: str = "auto") -> Checkpoint:
    """Load a trained run: the model in eval mode, its transform and its class names.

    run: the run's folder, a name that comes with weights, such as "cpvt_mini_peg5_gap", or a model of Hugging Face's
    hub, "hf-hub:OWNER/NAME" or "hf-hub:OWNER/NAME@REVISION", which is fetched once.
    Raises ValueError for a folder without a checkpoint, for weights that do not fit (with keys and shapes), and for a
    model that the hub lacks, keeps private, or cannot deliver now.
    """
    files = files_of(run)
    record = _record_in(files.record, run)
    model = build_model(config_from_json(record["model"])).eval()
    load_weights_file(model, files.weights)
    classes, folder = tuple(record["class_names"]), Path(run).resolve() if Path(run).exists() else None
    return Checkpoint(model.to(pick_device(device)), transform_of(record), classes, record, str(run), folder)


def build_model(config: ModelConfig | ExternalConfig) -> nn.Module:
    """A model with random weights, ours or external."""
    return VisionTransformer(config) if isinstance(config, ModelConfig) else build_external(config)


def starting_weights(
    wanted: ModelConfig | ExternalConfig,
    start: str | Path,
    class_names: Sequence[str] | None = None,
    on_message: Callable[[str], Any] = lambda message: None,
) -> nn.Module:
    """A model of the configuration `wanted` with the weights of a run or of a file, to fine-tune.

    start: a run, whose model may have another training size and other classes, and if it is ours also other dropout and
    distillation (see `cpvt.models.adapt`); or a file of weights, which must fit exactly.
    class_names: those of the new data; if the run's differ, the head starts afresh.
    on_message: called with each change of the weights. The `config` of one of our models describes the result: its
    `scale_grid` says where the scale is 1 after a change of the training size.
    Raises ValueError that lists what does not fit.
    """
    if Path(start).is_file() or not is_run(start):
        model = build_model(wanted)
        if str(start) == RANDOM and not Path(start).exists():
            return model
        load_weights_file(model, Path(start))
        return model
    files = files_of(start)
    record = _record_in(files.record, start)
    held = config_from_json(record["model"])
    kinds = ["a model of our own" if isinstance(each, ModelConfig) else f"'{each.name}'" for each in (held, wanted)]
    if type(held) is not type(wanted):
        raise ValueError(f"'{start}' holds {kinds[0]}, but {kinds[1]} is to be trained; start from a run of the latter")
    model = build_model(held)
    load_weights_file(model, files.weights)
    same_classes = class_names is None or list(class_names) == record["class_names"]
    adapted: nn.Module
    if isinstance(wanted, ModelConfig):
        assert isinstance(model, VisionTransformer)  # for mypy
        adapted, messages = adapt_model(model, wanted, same_classes)
    else:
        adapted, messages = continue_external(model, wanted, same_classes, f"in '{start}'")
    for message in messages:
        on_message(message)
    return adapted


def published_weights(wanted: ExternalConfig, on_message: Callable[[str], Any] = lambda message: None) -> nn.Module:
    """An external model with the weights that its library publishes; another number of classes gets a fresh head."""
    adapter: Any = open_adapter(wanted.name)
    model, messages = continue_external(adapter.model, wanted, where=f"published for {wanted.name}")
    for message in messages:
        on_message(message)
    return model


def config_from_json(values: dict[str, Any]) -> ModelConfig | ExternalConfig:
    """A model's configuration, from JSON."""
    kind = ExternalConfig if "name" in values else ModelConfig
    unknown = values.keys() - {each.name for each in fields(kind)}
    if unknown:
        raise ValueError(
            f"the record of a run has options of a model that are not known here ({', '.join(unknown)}): a newer cpvt "
            "wrote it, or it was changed by hand"
        )
    return kind(**{name: _tuple(value) for name, value in values.items()})


def transform_from_json(values: dict[str, Any]) -> Transform:
    """A transform, from JSON."""
    return Transform(**{name: _tuple(value) for name, value in values.items()})


def transform_of(record: dict[str, Any]) -> Transform:
    """The transform of a run, at its recommended size; older runs have their training size."""
    return transform_from_json({"size": record["model"]["img_size"], **record["transform"]})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def pick_device(name: str) -> torch.device:
    """The device of a name; 'auto' is the GPU if there is one, else the CPU."""
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
