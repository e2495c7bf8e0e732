"""Conditional positional encodings for vision transformers that work on images of any size."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cpvt.runtime.imports import import_after

__version__ = "0.1.0"

_MODULES = {  # public name -> its module, imported on first use
    "Checkpoint": "cpvt.results.checkpoints",
    "CompareConfig": "cpvt.config",
    "DataConfig": "cpvt.config",
    "ModelConfig": "cpvt.config",
    "OptimConfig": "cpvt.config",
    "PEG": "cpvt.encodings",
    "PositionalEncoding": "cpvt.encodings",
    "Row": "cpvt.results.rows",
    "TrainConfig": "cpvt.config",
    "create_model": "cpvt.models",
    "open_data": "cpvt.data",
    "load": "cpvt.results.checkpoints",
    "retrofit": "cpvt.adapters.retrofit",
    "train": "cpvt.training",
    "sweep": "cpvt.evaluation.sweep",
    "estimate_scale": "cpvt.adapters.scale",
    "probe": "cpvt.evaluation.probes",
    "predict": "cpvt.evaluation.predict",
    "compare": "cpvt.experiments.compare",
    "export": "cpvt.evaluation.export",
    "report": "cpvt.reporting",
}

__all__ = ["__version__", *_MODULES]

import_after("timm", "cpvt.models")  # registers our models there; importing timm here would cost seconds


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cpvt' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from cpvt.adapters.retrofit import retrofit as retrofit
    from cpvt.adapters.scale import estimate_scale as estimate_scale
    from cpvt.config import CompareConfig as CompareConfig
    from cpvt.config import DataConfig as DataConfig
    from cpvt.config import ModelConfig as ModelConfig
    from cpvt.config import OptimConfig as OptimConfig
    from cpvt.config import TrainConfig as TrainConfig
    from cpvt.data import open_data as open_data
    from cpvt.encodings import PEG as PEG
    from cpvt.encodings import PositionalEncoding as PositionalEncoding
    from cpvt.evaluation.export import export as export
    from cpvt.evaluation.predict import predict as predict
    from cpvt.evaluation.probes import probe as probe
    from cpvt.evaluation.sweep import sweep as sweep
    from cpvt.experiments.compare import compare as compare
    from cpvt.models import create_model as create_model
    from cpvt.reporting import report as report
    from cpvt.results.checkpoints import Checkpoint as Checkpoint
    from cpvt.results.checkpoints import load as load
    from cpvt.results.rows import Row as Row
    from cpvt.training import train as train
