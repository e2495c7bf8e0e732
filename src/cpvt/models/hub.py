"""Our models on Hugging Face's hub, in files that timm reads too: config.json, model.safetensors and a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from torch import Tensor, nn

from cpvt.config import ModelConfig, size_label, split_options
from cpvt.encodings.text import split_encoding
from cpvt.models.convert.checkpoint import read_weights
from cpvt.models.sizes import MODELS, model_config, nearest_name
from cpvt.models.timm_interface import Backbone, describe_to_timm
from cpvt.runtime.files import read_json, write_bytes, write_json
from cpvt.runtime.hub import CARD, CONFIG, PREFIX, WEIGHTS, fetch, is_hub, push

READING = ("mean", "std", "crop_pct", "interpolation", "crop_mode", "test_input_size", "label_names")  # timm's words
HARMLESS = {  # options of other libraries' models that a record of the hub may have: none names code or a file
    "pretrained", "img_size", "image_size", "strict_img_size", "dynamic_img_size", "dynamic_img_pad",
    "interpolate_pos_encoding", "patch_size",
    "in_chans", "num_channels", "num_classes", "num_labels", "embed_dim", "hidden_size", "hidden_dim",
    "depth", "depths", "num_layers", "num_hidden_layers", "num_heads", "num_attention_heads", "mlp_ratio", "mlp_dim",
    "intermediate_size", "window_size", "qkv_bias", "init_values", "global_pool", "class_token", "no_embed_class",
    "reg_tokens", "num_register_tokens", "drop_rate", "drop_path_rate", "pos_drop_rate", "patch_drop_rate",
    "proj_drop_rate", "attn_drop_rate", "dropout", "attention_dropout", "stochastic_depth_prob", "hidden_dropout_prob",
    "attention_probs_dropout_prob",
}  # fmt: skip
Model = TypeVar("Model", bound="HubModel")


class HubModel(Backbone):
    """A model that is saved, sent to the hub and loaded by the methods that huggingface_hub gives its models.

    They are not huggingface_hub's PyTorchModelHubMixin: that writes the arguments of the constructor, which a new head
    or size makes wrong, falls back on pickled weights, and passes over missing ones. Names and keywords are its.
    """

    @classmethod
    def from_pretrained(
        cls: type[Model],
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Model:
        """A model in eval mode, from a folder of `save_pretrained` or a repository of the hub, "OWNER/NAME".

        It equals the saved one to the bit; weights are float32. Repositories that timm's `push_to_hf_hub` made of our
        models are read too. For a folder of `cpvt train`, or for the transform and the class names, use `cpvt.load`.
        Raises ValueError for files that are missing or of another library, and for weights that do not fit.
        """
        name = str(pretrained_model_name_or_path)
        folder = Path(name)
        if is_hub(name) or not folder.is_dir():
            folder = fetch(
                name, CONFIG, revision=revision, token=token, cache_dir=cache_dir, force_download=force_download,
                local_files_only=local_files_only,
            )  # fmt: skip
            name = PREFIX + name.removeprefix(PREFIX)
        if not (folder / CONFIG).is_file():
            raise ValueError(
                f"'{name}' holds no {CONFIG}, as save_pretrained writes it; cpvt.load reads a run's folder"
            )
        model = cls(config_from_timm(read_json(folder / CONFIG), name))
        try:
            model.load_state_dict(read_weights(folder / WEIGHTS))
        except RuntimeError as error:
            raise ValueError(f"the weights of '{name}' do not fit its {CONFIG}: {error}") from error
        return model.eval()

    def save_pretrained(
        self, save_directory: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **options: Any
    ) -> str | None:
        """Write config.json, model.safetensors and, where there is none, README.md; `timm` reads the folder, too.

        push_to_hub: send the model to the hub as well, to `repo_id` (by default the folder's name) with the options of
        `push_to_hub`; then the address of the commit is returned.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder, repo_id or f"OWNER/{folder.resolve().name}", None)
        return self.push_to_hub(repo_id or folder.name, **options) if push_to_hub else None

    def push_to_hub(self, repo_id: str, *, license: str | None = None, **options: Any) -> str:
        """Send the model to the hub, to a repository that is created if needed; returns the address of the commit.

        For a trained run `cpvt.load(RUN).push_to_hub(repo_id)` also sends how images are read, and a card with results.
        license: a word of the hub for the card, such as "mit"; by default the card names none.
        options: private, token, branch, and those of huggingface_hub's `upload_folder`: commit_message, create_pr,
        ignore_patterns (["README.md"] keeps a card that was edited on the hub), ...
        """
        return push(lambda folder, name: self._write(folder, name, license), repo_id, **options)

    def _write(self, folder: Path, repo_id: str, license: str | None) -> None:
        write_model(folder, self)
        if not (folder / CARD).exists():
            facts = {"model": describe(self.config), "parameters": count_parameters(self)}
            name = repo_id.rpartition("/")[2]
            page = [*front_matter(license), f"# {name}", "", *fact_table(facts), *loading(repo_id)]
            write_bytes(folder / CARD, "\n".join(page).encode())


def write_model(folder: Path, model: HubModel, read: Mapping[str, Any] | None = None) -> None:
    """Write a model's weights, and a configuration from which both timm and we build it again.

    read: how images are read and what classes are called, in timm's words (`READING`); by default what timm has.
    Raises ValueError for a model that its configuration does not describe.
    """
    known = model.pretrained_cfg if read is None else read
    _check_described(model)
    write_weights(folder, model.state_dict())
    write_json(folder / CONFIG, config_to_timm(model.config, {name: known[name] for name in READING if name in known}))


def _check_described(model: HubModel) -> None:
    """Raise ValueError for a model that would not be built again, or not be the same."""
    if not model.is_described:
        raise ValueError(
            "the encoding was passed as an instance, a lambda or a partial, whose options no configuration holds: "
            "name it with its options, such as 'peg(dilation=2)' or 'mymodule:MyEncoding(width=3)'"
        )
    if isinstance(model.norm, nn.Identity):
        raise ValueError("the last norm was pruned (prune_norm=True), which a configuration does not hold: keep it")


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights as safetensors; an older file is replaced at the end."""
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_bytes(folder / WEIGHTS, safetensors.torch.save(state))


def config_to_timm(config: ModelConfig, read: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in the form of timm's config.json; `model_args` holds the other fields of ours."""
    described: dict[str, Any] = {
        "num_classes": config.num_classes,
        "num_features": config.embed_dim,
        "global_pool": config.global_pool,
    }
    names = list(read.get("label_names") or ())
    if len(names) == config.num_classes:  # not those of a head that was replaced
        described["label_names"] = names
    images = {name: value for name, value in read.items() if name != "label_names"}
    own = {name: value for name, value in describe_to_timm(config).items() if name != "license"}  # the card's affair
    given = {name: value for name, value in asdict(config).items() if name != "num_classes"}  # transformers passes it
    return {
        "architecture": nearest_name(config), **described, "model_args": given,
        "pretrained_cfg": {**own, **images},
    }  # fmt: skip


def config_from_timm(values: Mapping[str, Any], name: str) -> ModelConfig:
    """The configuration of one of our models from timm's config.json; ValueError for another library's model.

    name: where it is from. From the hub no encoding that is imported from outside the package is accepted.
    """
    architecture = values.get("architecture")
    if architecture not in MODELS:
        known, place = values.get("model_type"), name.removeprefix(PREFIX)
        hint = f"; cpvt takes it as hf:{place}" if known else ""
        source = name if is_hub(name) else f"local-dir:{name}"
        hint = f"; cpvt takes it as timm:{source}" if architecture else hint
        raise ValueError(f"'{name}' holds no model of cpvt, but '{architecture or known or 'nothing known'}'{hint}")
    classes = {"num_classes": values["num_classes"]} if "num_classes" in values else {}
    config = model_config(str(architecture), **{**classes, **values.get("model_args", {})})
    check_hub_encoding(config.encoding, name)
    return config


def check_hub_encoding(encoding: str, name: str) -> None:
    """Raise ValueError for an encoding from outside the package in a model of the hub: a file must not choose code."""
    outside = [part for part, _ in split_encoding(encoding) if ":" in part] if is_hub(name) else []
    if outside:
        raise _untrusted(f"the encoding '{outside[0]}'", name)


def check_hub_options(model: str, name: str) -> None:
    """Raise ValueError for a model of another library in a record of the hub, whose options may run or read more."""
    options = split_options(model)[1] if is_hub(name) else {}  # as they are understood, not as they are spelled
    unknown = sorted(options.keys() - HARMLESS)
    if unknown:
        raise _untrusted(f"the option '{unknown[0]}' of the model '{model}'", name)


def _untrusted(what: str, name: str) -> ValueError:
    """The error for a model of the hub with something that may run code."""
    return ValueError(
        f"'{name}' has {what}, which may run code that a file of the hub names. If you trust it, fetch it "
        f"(hf download {name.removeprefix(PREFIX)} --local-dir FOLDER) and load FOLDER"
    )


def describe(config: ModelConfig) -> str:
    """One line on an architecture."""
    pool = {"token": "class token", "avg": "mean of the tokens", "": "every token"}[config.global_pool]
    return (
        f"vision transformer, encoding `{config.encoding}`, width {config.embed_dim}, {config.depth} blocks, "
        f"{config.num_heads} heads, patch {config.patch_size}, {pool}, trained at {size_label(config.img_size)} pixels"
    )


def count_parameters(model: nn.Module) -> str:
    """The number of a model's parameters, as text."""
    return f"{sum(each.numel() for each in model.parameters()):,}"


def front_matter(license: str | None, own: bool = True) -> list[str]:
    """What the hub reads at the top of a card."""
    lines = [f"license: {license}"] if license else []
    lines += ["library_name: cpvt", "pipeline_tag: image-classification", "tags:"]
    tags = ("vision-transformer", "positional-encoding", *(("timm",) if own else ()))
    return ["---", *lines, *(f"- {tag}" for tag in tags), "---", ""]


def fact_table(facts: Mapping[str, str]) -> list[str]:
    """Facts as the lines of a table in Markdown."""
    lines = [f"| {name} | {' '.join(text.split()).replace('|', chr(92) + '|')} |" for name, text in facts.items()]
    return ["|  |  |", "|---|---|", *lines, ""]


def loading(repo_id: str) -> list[str]:
    """How to load a model of ours, for a card."""
    return [
        "```python",
        "import timm",
        "from cpvt.models import VisionTransformer",
        "",
        f'model = VisionTransformer.from_pretrained("{repo_id}")',
        f'model = timm.create_model("{PREFIX}{repo_id}", pretrained=True)  # the same model',
        "```",
        "",
    ]
