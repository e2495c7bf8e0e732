"""How rows name a trained run, and which rows are its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from cpvt.adapters.retrofit import describe_retrofit
from cpvt.config import POOL_NAMES, ExternalConfig, ModelConfig, Size, parse_size
from cpvt.results.rows import Row, read_rows


class Identity(NamedTuple):
    """The model's name and settings in rows."""

    model: str
    encoding: str = ""
    pool: str = ""
    seed: int = 0
    at: tuple[int, ...] = ()
    train_sizes: tuple[Size, ...] = ()
    initial_weights: str = ""


def identity_of(record: dict[str, Any], config: ModelConfig | ExternalConfig) -> Identity:
    """How rows name the model of a run; record: the content of checkpoint.json, config: its model's."""
    training, at = record["training"], tuple(record["at"])
    sizes = tuple(map(parse_size, training.get("train_sizes", ())))
    seed, start = training["seed"], training.get("initial_checkpoint") or ""
    if isinstance(config, ModelConfig):
        encoding, pool = config.encoding, POOL_NAMES[config.global_pool]
    else:
        encoding, pool = describe_retrofit(config.retrofit) if config.retrofit else "", ""
    return Identity(training["model"], encoding, pool, seed, at, sizes, start)


def own_data(record: dict[str, Any]) -> tuple[str, str | None]:
    """The name of the data set that a run was trained on, and where its files are.

    Raises ValueError for a set that was passed in Python, which no name opens again.
    """
    own = record["training"]["dataset"]
    if record.get("passed_data"):
        raise ValueError(
            f"the run was trained on '{record['passed_data']}', a DataSet that was passed in Python: pass it again as "
            "data=, or the place of its images (--data)"
        )
    return own["data"], own["data_dir"]


def own_rows(path: Path, identity: Identity) -> list[Row]:
    """The tests of a run among rows, and not those of other models that were tested into its folder."""
    return [row for row in read_rows(path) if (row.model, row.encoding, row.pool, row.seed) == identity[:4]]
